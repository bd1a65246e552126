"""Evaluates both trained stages and the funnel from a request to ten ads.

    tfrec evaluate --workdir=workdir/criteo
    tfrec evaluate --workdir=workdir/criteo --json
    tfrec evaluate --workdir=workdir/criteo --filters='{"excluded_ads": ["ad-8"]}'

Takes half a minute. Prints each metric of the test split with its 95 % interval, next to the ground
truth's if the log is synthetic, and shows where the funnel loses value. Writes all metrics to
WORKDIR/evaluation/metrics.json and a report to WORKDIR/evaluation/report.html.
"""

from absl import flags

from serving.cli import command_line, shared_flags
from tfrec import config

flags.DEFINE_string("workdir", "workdir/train", "Work directory with both trained stages.")
flags.DEFINE_bool("json", False, "Print only the metrics, as JSON.")
shared_flags.define_filters()
shared_flags.define_flags(config.EvaluationConfig)
FLAGS = flags.FLAGS
FLAGS["filters"].help = (
    'Filters whose loss of value is measured: a JSON object such as {"conditions": [{"field": '
    '"price", "at_most": 9}]}, or a file with one; default: none.'
)


def main() -> None:
    from serving import workflow
    from tfrec import reports

    stages = workflow.open_stages(FLAGS.workdir, progress=not FLAGS.json)
    report = stages.evaluate(
        shared_flags.from_flags(config.EvaluationConfig),
        filters=command_line.json_of_flag("filters"),
    )
    if FLAGS.json:
        command_line.print_json(report.to_json())
        return
    print(reports.report_as_text(report))
    print(f"Report: {stages.steps.path('evaluation') / 'report.html'}")
