"""Exports both trained stages as the next release bundle.

    tfrec export --workdir=workdir/criteo
    tfrec export --workdir=workdir/criteo --index_config=index.json

Seconds; minutes at a million ads. The index is chosen by measuring kinds and parameters with
held-out requests, unless --index names one or --index_config is a file of tfrec tune_index. Writes
version N into WORKDIR/bundle: query_tower/N, ad_tower/N, ranker/N, ad_index/N and, last,
manifests/N.json. TensorFlow Serving loads WORKDIR/bundle/ranker as it is. A ranker is refused if it
is worse on the validation split than the released one by more than run-to-run variation, or worse
than predicting the mean rate; --force overrides this.
"""

import pathlib

from absl import flags

from serving import manifest
from serving.cli import command_line
from serving.cli.flags import gate_flags, index_flags
from tfrec import config

flags.DEFINE_string("workdir", "workdir/train", "Work directory with both trained stages.")
flags.adopt_module_key_flags(gate_flags)
flags.adopt_module_key_flags(index_flags)
flags.DEFINE_integer(
    "candidate_parts",
    config.CANDIDATE_PARTS,
    "Parts of a request's candidates that the ranker scores in parallel, one per core; 1 for a "
    "ranker that runs on a GPU.",
    lower_bound=1,
)
flags.DEFINE_bool("json", False, "Print the release as JSON and nothing else.")
FLAGS = flags.FLAGS


def main() -> None:
    from serving import export, releases

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
