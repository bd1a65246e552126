r"""Joins feedback to the impression log, which gives the next training log.

    tfrec serve --workdir=workdir/quickstart --impression_log=workdir/impressions
    tfrec join_feedback --impressions=workdir/impressions \
        --feedback=events.jsonl --output=workdir/shown.parquet
    tfrec convert --format=tabular --data_path=workdir/shown.parquet \
        --schema_path=workdir/shown.schema.json --workdir=workdir/next

Takes seconds for a million impressions. Feedback is JSON lines or Parquet with request_id, ad_id,
and click and engagement (0 or 1) or revenue (negative: a refund), such as
{"request_id": "42", "ad_id": "ad-17", "event_id": "e-9", "click": 1}. Several events of an ad are
combined; events with the same event_id count once. An ad without events counts as not clicked. The
joined log includes the position of each ad, which training corrects for, and its propensity.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import pathlib
from typing import TYPE_CHECKING

from absl import flags

from serving.cli import command_line
from tfrecords import formats, schema

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
flags.DEFINE_string(
    "until",
    None,
    "Latest time of impressions to join, such as 2026-12-01T18:00Z; feedback of later ones may "
    "still arrive. Default: all impressions.",
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

    output = pathlib.Path(FLAGS.output)
    if output.suffix != ".parquet":
        raise ValueError(f"--output: expected a file that ends in .parquet, got {FLAGS.output}.")
    output.parent.mkdir(parents=True, exist_ok=True)
    joined = impressions.join_feedback(
        _files("impressions", impressions.FILE_PATTERN),
        _files("feedback", impressions.FEEDBACK_PATTERN),
        output,
        _until(),
        FLAGS.max_rejected_fraction,
    )
    target = pathlib.Path(FLAGS.schema_path or output.with_suffix(".schema.json"))
    schema.save_schema(schema.schema_from_json(joined.schema), target)
    if FLAGS.json:
        paths = {"output": output, "schema_path": target}
        command_line.print_json({**paths, **dataclasses.asdict(joined)})
    else:
        _describe(joined, output, target)


def _files(flag: str, pattern: str) -> list[pathlib.Path]:
    """Returns the files of a flag, or those of its directory, the oldest first."""
    directory = pathlib.Path(FLAGS[flag].value or "")
    if not directory.is_dir():
        return list(formats.expand_paths(FLAGS[flag].value))
    # Without the events of a rotated file, for example, its impressions would not be clicked.
    if rotated := sorted(directory.glob(f"{pattern}?*")):
        raise ValueError(
            f"--{flag}: expected files {pattern}, got {rotated[0]}, which is renamed or "
            "compressed. Restore it, or move it to another directory to leave it out."
        )
    found = sorted(directory.glob(pattern))
    if not found:
        raise FileNotFoundError(
            f"--{flag}: {directory} has no file {pattern}. tfrec serve --impression_log writes the "
            "first one a minute after the first answer."
        )
    return found


def _until() -> float:
    if FLAGS.until is None:
        return math.inf
    try:
        time = datetime.datetime.fromisoformat(FLAGS.until)
    except ValueError as error:
        raise ValueError(
            f"--until: expected a time such as 2026-12-01T18:00Z, got {FLAGS.until!r}."
        ) from error
    return (time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).timestamp()


def _describe(joined: impressions.Joined, output: pathlib.Path, target: pathlib.Path) -> None:
    totals = ", ".join(f"{label} {total:,.10g}" for label, total in joined.totals.items())
    print(f"{output}: {joined.rows:,} impressions of {joined.requests:,} answers; {totals}")
    print(f"events: {joined.events:,}, of which {joined.matched:,} match an impression")
    left_out = {
        "events delivered again": joined.duplicate_events,
        "events without an answer, or of impressions": joined.other_events,
        f"malformed events, such as {joined.first_rejected}": joined.rejected_events,
        "impressions after --until": joined.late_rows,
    }
    for what, count in left_out.items():
        if count:
            print(f"left out: {count:,} {what}")
    if joined.repeated:
        print(
            f"{joined.repeated:,} ads with events have a request id that several answers share; "
            "the events count for the latest one. Use each request_id only once."
        )
    print(
        f"Convert it with tfrec convert --format=tabular --data_path={output} "
        f"--schema_path={target}"
    )
