"""Trains stage 2, the multi-head-attention ranker, on a converted data set.

    tfrec train_ranker --workdir=workdir/criteo

Takes about two minutes for 100,000 impressions on two cores. Reads WORKDIR/data and writes
WORKDIR/ranker. If the command is killed, run it again to resume. Training curves:
`tensorboard --logdir=WORKDIR/ranker`.
"""

import pathlib

from absl import flags

from serving.cli import shared_flags
from tfrec import config

flags.DEFINE_string("workdir", "workdir/train", "Work directory with a converted data set.")
shared_flags.define_flags(config.RankerConfig)
flags.DEFINE_bool("json", False, "Print only the metrics of each epoch, as JSON.")
FLAGS = flags.FLAGS
shared_flags.define_distribution()


def main() -> None:
    from tfrec import ranking

    workdir = pathlib.Path(FLAGS.workdir)
    ranker_config = shared_flags.from_flags(config.RankerConfig)
    with shared_flags.pipeline(workdir, progress=not FLAGS.json) as steps:
        ranking.RANKERS.get(ranker_config.ranker)  # Fails before the data set is read.
        data_set = steps.data_set()
        steps.print_label_summary(data_set)
        directory = steps.train_ranker(data_set, ranker_config)
    if directory is None:
        ranking.check_trainable(data_set)  # Says why.
    elif FLAGS.json:
        print((directory / "ranker.json").read_text().strip())
