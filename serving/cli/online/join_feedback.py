r"""Joins feedback to the impression log, which gives the next training log.

    tfrec serve --workdir=workdir/quickstart --impression_log=workdir/impressions
    tfrec join_feedback --impressions=workdir/impressions \
        --feedback=events.jsonl --output=workdir/shown.parquet
    tfrec convert --format=tabular --data_path=workdir/shown.parquet \
        --schema_path=workdir/shown.schema.json --workdir=workdir/next

Seconds for a million impressions. Feedback is JSON lines, CSV, TSV or Parquet with request_id,
ad_id and any of click, engagement (0 or 1) and revenue, several events of one ad or one with all:
{"request_id": "42", "ad_id": "ad-17", "click": 1}. An ad without an event was not clicked. The
log keeps the position, which training corrects for, and the propensity of each ad.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from absl import flags

from serving.cli import command_line
from tfrecords import schema

if TYPE_CHECKING:
    from serving import impressions

flags.DEFINE_string(
    "impressions",
    None,
    "The impression log: its directory, or files of it with commas or as a pattern.",
    required=True,
)
flags.DEFINE_string(
    "feedback", None, "Events: a file, several with commas, or a pattern.", required=True
)
flags.DEFINE_string("output", None, "The joined log (Parquet).", required=True)
flags.DEFINE_string("schema_path", None, "Its schema; default: beside it, .schema.json.")
flags.DEFINE_float(
    "min_age_seconds",
    0.0,
    "Leaves out what was shown so shortly before the end of the log: its feedback may still come.",
    lower_bound=0.0,
)
flags.DEFINE_bool("json", False, "Print what was joined as JSON and nothing else.")
FLAGS = flags.FLAGS


def main() -> None:
    from serving import impressions
    from serving.cli import impression_files
    from tfrecords import formats

    output = pathlib.Path(FLAGS.output)
    if output.suffix != ".parquet":
        raise ValueError(f"--output: expected a file that ends in .parquet, got {FLAGS.output}.")
    output.parent.mkdir(parents=True, exist_ok=True)
    joined = impressions.join_feedback(
        impression_files.find("impressions", FLAGS.impressions),
        formats.expand_paths(FLAGS.feedback),
        output,
        FLAGS.min_age_seconds,
    )
    target = pathlib.Path(FLAGS.schema_path or output.with_suffix(".schema.json"))
    schema.save_schema(schema.schema_from_json(joined.schema), target)
    if FLAGS.json:
        said = {"output": output, "schema_path": target, **dataclasses.asdict(joined)}
        command_line.print_json(said)
        return
    _describe(joined, output, target)


def _describe(joined: impressions.Joined, output: pathlib.Path, target: pathlib.Path) -> None:
    totals = ", ".join(f"{label} {total:,.10g}" for label, total in joined.totals.items())
    print(f"{joined.rows:,} impressions of {joined.requests:,} answers in {output}: {totals}")
    print(f"{joined.events:,} events = {joined.matched:,} matched + {joined.unmatched:,} of no ad")
    if joined.young:
        print(f"{joined.young:,} impressions are younger than --min_age_seconds, and left out")
    if joined.repeated:
        print(
            f"{joined.repeated:,} ads with events were shown under a request id that came before; "
            "the events count for the latest answer. Send a request_id once."
        )
    print(
        f"Convert it with --format=tabular --data_path={output} --schema_path={target}, "
        f"fields: {', '.join(field['name'] for field in joined.schema['fields'])}"
    )
