"""Exports both trained stages as the next release bundle.

    python scripts/export.py --workdir=workdir/criteo
    python scripts/export.py --workdir=workdir/criteo --index_config=index.json

Seconds; minutes at a million ads. The index is chosen by measuring kinds and parameters with
held-out requests, unless --index names one or --index_config is what tune_index.py wrote. Writes
version N into WORKDIR/bundle: query_tower/N, ad_tower/N, ranker/N, ad_index/N and, last,
manifests/N.json. TensorFlow Serving loads WORKDIR/bundle/ranker as it is. A ranker that does worse
on the validation split than the released one, by more than runs differ, or than always predicting
the rate, is refused; --force overrules.
"""

import pathlib

from absl import flags

from serving import export, manifest, releases
from serving.cli import command_line
from serving.cli.flags import gate_flags, index_flags
from tfrec import exported

flags.DEFINE_string("workdir", "workdir/train", "Work directory with both trained stages.")
flags.adopt_module_key_flags(gate_flags)
flags.adopt_module_key_flags(index_flags)
flags.DEFINE_integer(
    "candidate_parts",
    exported.CANDIDATE_PARTS,
    "Parts of a request's candidates that the ranker scores beside each other, one a core; 1 for a "
    "ranker that runs on a GPU.",
    lower_bound=1,
)
flags.DEFINE_bool("json", False, "Print the release as JSON and nothing else.")
FLAGS = flags.FLAGS


def main() -> None:
    steps = export.Pipeline(pathlib.Path(FLAGS.workdir), progress=not FLAGS.json)
    data_set = steps.data_set()
    metrics = steps.evaluate(data_set, index_config=index_flags.config())
    base = steps.export(
        data_set, metrics, index_flags.config(), gate_flags.force(), FLAGS.candidate_parts
    )
    if FLAGS.json:
        version = releases.latest(base)
        index = manifest.read(base, version).index
        command_line.print_json({"bundle": base, "version": version, "index": index})
