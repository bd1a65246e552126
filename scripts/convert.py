"""Converts a log into TFRecords, an encoder and an ad catalogue.

    python scripts/convert.py --data_path=train.txt --workdir=workdir/criteo

Seconds for 100,000 lines. Writes WORKDIR/data; every line is written or counted as rejected
in WORKDIR/data/rejected.tsv with its line number and the reason.
"""

import pathlib

import command_line
import log_flags
import pipeline
from absl import flags

flags.DEFINE_string("workdir", "workdir/train", "Work directory.")
FLAGS = flags.FLAGS
flags.adopt_module_key_flags(log_flags)


def main() -> None:
    steps = pipeline.Pipeline(pathlib.Path(FLAGS.workdir))
    log_flags.converted(steps)


if __name__ == "__main__":
    command_line.run(main)
