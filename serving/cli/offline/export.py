"""Exports both trained stages as the next release bundle.

    tfrec export --workdir=workdir/criteo
    tfrec export --workdir=workdir/criteo --index=IVF4096,SQ8

Takes seconds, or minutes with a million ads. The search of the index is tuned on validation
requests. Writes version N to WORKDIR/bundle: query_tower/N, ad_tower/N, ranker/N, ad_index/N and,
last, manifests/N.json. TensorFlow Serving can load WORKDIR/bundle/ranker directly. The export is
refused if the ranker or retrieval is worse on the validation split than in the released version, by
more than run-to-run variation explains; --force overrides this.
"""

import logging

from absl import flags

from serving import manifest
from serving.cli import command_line, shared_flags
from tfrec import config

flags.DEFINE_string("workdir", "workdir/train", "Work directory with both trained stages.")
shared_flags.define_force()
shared_flags.define_index()
flags.DEFINE_integer(
    "candidate_parts",
    config.CANDIDATE_PARTS,
    "Number of parts of a request's candidates that the ranker scores in parallel, one per core; "
    "use 1 for a ranker on a GPU.",
    lower_bound=1,
)
flags.DEFINE_bool("json", False, "Print only the release, as JSON.")
FLAGS = flags.FLAGS


def main() -> None:
    from serving import releases, workflow

    # Commands hide warnings of libraries; these are about the index and the models.
    logging.getLogger(releases.__name__).setLevel(logging.WARNING)
    release = workflow.open_stages(FLAGS.workdir, progress=not FLAGS.json).export(
        index=shared_flags.index_config(),
        force=FLAGS.force,
        candidate_parts=FLAGS.candidate_parts,
    )
    if FLAGS.json:
        index = manifest.read(release.base, release.version).index
        command_line.print_json(
            {"bundle": release.base, "version": release.version, "index": index}
        )
