"""Converts a log into TFRecords, an encoder and an ad catalogue.

    python scripts/convert.py --data_path=train.txt --workdir=workdir/criteo

Seconds for 100,000 lines. Writes WORKDIR/data; every line is written or counted as rejected
in WORKDIR/data/rejected.tsv with its line number and the reason.
"""

import pathlib

import command_line
import pipeline
from absl import flags

from tfrec import config

flags.DEFINE_string("data_path", None, "The log to convert, plain or gzip.")
flags.DEFINE_string("format", "criteo", command_line.FORMAT_HELP)
flags.DEFINE_string("schema_path", None, "Schema file (JSON); default: the format's convention.")
flags.DEFINE_string("ads_path", None, "Tab-separated table of ads to add to the catalogue.")
flags.DEFINE_string("workdir", "workdir/train", "Work directory.")
flags.DEFINE_bool("use_synthetic", False, "Write a synthetic log first, and convert it.")
flags.DEFINE_integer("n_samples", 100_000, "Impressions of the synthetic log.", lower_bound=100)
command_line.define_flags(config.ConvertConfig)
FLAGS = flags.FLAGS


def main() -> None:
    steps = pipeline.Pipeline(pathlib.Path(FLAGS.workdir))
    if FLAGS.use_synthetic == bool(FLAGS.data_path):
        raise ValueError("Give either --use_synthetic or --data_path=FILE.")
    if FLAGS.use_synthetic:
        source = steps.synthesize(FLAGS.n_samples)
    else:
        source = pipeline.source_of(
            FLAGS.data_path, FLAGS.schema_path, FLAGS.format, FLAGS.ads_path
        )
    steps.convert(source, command_line.from_flags(config.ConvertConfig))


if __name__ == "__main__":
    command_line.run(main)
