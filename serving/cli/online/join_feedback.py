r"""Joins feedback to the impression log, which gives the next training log.

    tfrec serve --workdir=workdir/quickstart --impression_log=workdir/impressions
    tfrec join_feedback --impressions=workdir/impressions \
        --feedback=events.jsonl --output=workdir/shown.parquet
    tfrec convert --format=tabular --data_path=workdir/shown.parquet \
        --schema_path=workdir/shown.schema.json --workdir=workdir/next

Takes seconds for a million impressions. Feedback is JSON lines, CSV, TSV or Parquet with
request_id, ad_id, and click and engagement (0 or 1) or revenue (negative: a refund), such as
{"request_id": "42", "ad_id": "ad-17", "event_id": "e-9", "click": 1}. Several events of an ad are
combined. Files and events may be delivered more than once: events with the same event_id, or
without one and equal in all fields, count once. Malformed events are written to
OUTPUT.rejected.tsv. An ad without events counts as not clicked. The joined log includes the
position of each ad, which training corrects for, and its propensity.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from absl import flags

from serving.cli import command_line
from tfrecords import schema, terminal

if TYPE_CHECKING:
    from serving import impressions

flags.DEFINE_string(
    "impressions",
    None,
    "The impression log: its directory, or a comma-separated list or pattern of its files.",
    required=True,
)
flags.DEFINE_string(
    "feedback",
    None,
    "Log of events: its directory, or a comma-separated list or pattern of files of events.",
    required=True,
)
flags.DEFINE_string("output", None, "Parquet file for the joined log.", required=True)
flags.DEFINE_string(
    "schema_path", None, "File for its schema; default: OUTPUT with the extension .schema.json."
)
flags.DEFINE_float(
    "min_age_seconds",
    0.0,
    "Minimum age of impressions, relative to the latest one of the log, in seconds; feedback of "
    "younger ones may still arrive.",
    lower_bound=0.0,
)
flags.DEFINE_float(
    "max_rejected_fraction",
    0.01,
    "Maximum share of malformed events; with more, nothing is written.",
    lower_bound=0.0,
    upper_bound=1.0,
)
flags.DEFINE_bool("json", False, "Print only a summary of the join, as JSON.")
FLAGS = flags.FLAGS


def main() -> None:
    from serving import impressions
    from serving.cli import impression_files

    output = pathlib.Path(FLAGS.output)
    if output.suffix != ".parquet":
        raise ValueError(f"--output: expected a file that ends in .parquet, got {FLAGS.output}.")
    output.parent.mkdir(parents=True, exist_ok=True)
    joined = impressions.join_feedback(
        impression_files.find("impressions", FLAGS.impressions),
        impression_files.find_events("feedback", FLAGS.feedback),
        output,
        FLAGS.min_age_seconds,
        FLAGS.max_rejected_fraction,
    )
    target = pathlib.Path(FLAGS.schema_path or output.with_suffix(".schema.json"))
    schema.save_schema(schema.schema_from_json(joined.schema), target)
    if FLAGS.json:
        paths = {"output": output, "schema_path": target}
        command_line.print_json({**paths, **dataclasses.asdict(joined)})
        return
    _describe(joined, output, target)


def _describe(joined: impressions.Joined, output: pathlib.Path, target: pathlib.Path) -> None:
    totals = ", ".join(f"{label} {total:,.10g}" for label, total in joined.totals.items())
    count = terminal.format_count
    print(
        f"{count(joined.rows, 'impression')} of {count(joined.requests, 'answer')} in {output}: "
        f"{totals}"
    )
    print(
        f"{count(joined.events, 'event')}: {joined.matched:,} matched an impression, "
        f"{joined.unmatched:,} did not"
    )
    if joined.unread:
        names = [name + (hint and f" ({hint.strip()})") for name, hint in joined.unread.items()]
        print(f"Columns not read: {terminal.format_list(names)}")
    if joined.duplicate_rows or joined.duplicate_events:
        print(
            "Left out because they were delivered again: "
            f"{count(joined.duplicate_rows, 'impression')} and "
            f"{count(joined.duplicate_events, 'event')}"
        )
    if joined.events_without_request:
        clause = "event names no request and was", "events name no request and were"
        print(f"{count(joined.events_without_request, *clause)} left out")
    if joined.impression_events:
        clause = "impression among the events was", "impressions among the events were"
        print(
            f"{count(joined.impression_events, *clause)} left out; the rows come from the "
            "impression log"
        )
    if joined.rejected_events:
        clause = "malformed event is", "malformed events are"
        print(f"{count(joined.rejected_events, *clause)} in {output.with_suffix('.rejected.tsv')}")
    if joined.refunded:
        clause = "ad has", "ads have"
        print(f"{count(joined.refunded, *clause)} more refunds than revenue, which is set to 0")
    if joined.warning:
        print(f"Warning: {joined.warning}")
    if joined.young:
        young = count(joined.young, "impression")
        print(f"Left out because they are younger than --min_age_seconds: {young}")
    if joined.repeated:
        clause = "ad with events has", "ads with events have"
        print(
            f"{count(joined.repeated, *clause)} a request id that several answers share; the "
            "events count for the latest answer. Use each request_id only once."
        )
    if joined.shown_columns:
        columns = terminal.format_list(joined.shown_columns)
        print(
            f"Not logged, although answers show them: {columns}. To "
            f'show them after the next training, add "show" to {target}, and convert with '
            "--ads_path, a table of ads that has them"
        )
    print(f"Fields: {', '.join(field['name'] for field in joined.schema['fields'])}")
    print(
        f"Convert it with tfrec convert --format=tabular --data_path={output} "
        f"--schema_path={target}"
    )
