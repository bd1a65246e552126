"""Measures both trained stages, and the way from a request to ten ads, on the test split.

    python scripts/evaluate.py --workdir=workdir/criteo
    python scripts/evaluate.py --workdir=workdir/criteo --json
    python scripts/evaluate.py --workdir=workdir/criteo --filters='{"excluded_ads": ["ad-8"]}'

Half a minute. Prints each metric with its 95 % interval, beside what the planted truth reaches
where the log is synthetic, and where value is lost on the way. WORKDIR/evaluation/metrics.json
has all of it, WORKDIR/evaluation/report.html shows it.
"""

import pathlib

from absl import flags

from serving import export
from serving.cli import command_line
from serving.cli.flags import filter_flags
from tfrec import config, reports

flags.DEFINE_string("workdir", "workdir/train", "Work directory with both trained stages.")
flags.DEFINE_bool("json", False, "Print the metrics as JSON and nothing else.")
flags.adopt_module_key_flags(filter_flags)
command_line.define_flags(config.EvaluationConfig)
FLAGS = flags.FLAGS


def main() -> None:
    steps = export.Pipeline(pathlib.Path(FLAGS.workdir), progress=not FLAGS.json)
    metrics = steps.evaluate(
        steps.data_set(),
        command_line.from_flags(config.EvaluationConfig),
        filters=filter_flags.filters(),
    )
    if FLAGS.json:
        command_line.print_json(metrics)
        return
    print(reports.report_as_text(metrics))
    print(f"Report: {steps.path('evaluation') / 'report.html'}")
