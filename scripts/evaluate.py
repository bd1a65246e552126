"""Measures both trained stages on the test split.

    python scripts/evaluate.py --workdir=workdir/criteo
    python scripts/evaluate.py --workdir=workdir/criteo --json

Seconds. Prints each metric, beside what the planted truth reaches where the log is
synthetic, and writes WORKDIR/evaluation/metrics.json.
"""

import json
import pathlib

import command_line
import pipeline
import report
from absl import flags

flags.DEFINE_string("workdir", "workdir/train", "Work directory with both trained stages.")
flags.DEFINE_bool("json", False, "Print the metrics as JSON and nothing else.")
FLAGS = flags.FLAGS


def main() -> None:
    steps = pipeline.Pipeline(pathlib.Path(FLAGS.workdir), progress=not FLAGS.json)
    metrics = steps.evaluate(steps.data_set())
    print(json.dumps(metrics) if FLAGS.json else report.text(metrics))


if __name__ == "__main__":
    command_line.run(main)
