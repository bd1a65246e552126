"""Writes a simulated log for one of the examples.

    python examples/make_log.py --example=shop --output=workdir/examples/shop

Takes a few seconds for 20,000 rows. Writes the log, and the tables of ads and users if the example
has them, to --output: as CSV, TSV (jobs) or Parquet (apps). The same flags give the same files.
"""

import pathlib
import sys

import use_cases
import writing
from absl import flags

from serving.cli import command_line

flags.DEFINE_enum("example", None, sorted(use_cases.EXAMPLES), "Which example.")
flags.DEFINE_integer("rows", 20_000, "Approximate number of rows.", lower_bound=100)
flags.DEFINE_integer("seed", 1, "Seed of the world.")
flags.DEFINE_string("output", None, "Directory; default: workdir/examples/EXAMPLE.")
FLAGS = flags.FLAGS


def main() -> None:
    if FLAGS.example is None:
        sys.exit(f"error: give --example=NAME, one of {', '.join(sorted(use_cases.EXAMPLES))}.")
    directory = pathlib.Path(FLAGS.output or f"workdir/examples/{FLAGS.example}")
    for path in writing.write(FLAGS.example, FLAGS.rows, directory, FLAGS.seed):
        print(path)


if __name__ == "__main__":
    command_line.run(main)
