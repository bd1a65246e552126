"""Trains stage 1, the two-tower model, on a converted data set.

    tfrec train_retrieval --workdir=workdir/criteo

Takes about a minute for 100,000 impressions on two cores. Reads WORKDIR/data and writes
WORKDIR/retrieval. If WORKDIR/ranker has a trained ranker of the data set, it is then distilled into
the model; otherwise the model learns from clicks alone. If the command is killed, run it again to
resume. Training curves: `tensorboard --logdir=WORKDIR/retrieval`.
"""

import pathlib

from absl import flags

from serving.cli import shared_flags
from tfrec import config

flags.DEFINE_string("workdir", "workdir/train", "Work directory with a converted data set.")
shared_flags.define_flags(config.RetrievalConfig)
flags.DEFINE_bool("json", False, "Print only the metrics of each epoch, as JSON.")
FLAGS = flags.FLAGS
shared_flags.define_distribution()


def main() -> None:
    from tfrec import retrieval

    workdir = pathlib.Path(FLAGS.workdir)
    retrieval_config = shared_flags.from_flags(config.RetrievalConfig)
    with shared_flags.pipeline(workdir, progress=not FLAGS.json) as steps:
        retrieval.RETRIEVAL_MODELS.get(retrieval_config.retrieval_model)  # Fails first.
        directory = steps.train_retrieval(steps.data_set(), retrieval_config)
    if FLAGS.json:
        print((directory / "retrieval.json").read_text().strip())
