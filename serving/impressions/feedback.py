"""Joins feedback events to the impression log, which gives a log to convert and train on.

An event has the `request_id` and the `ad_id` of a shown ad, `click` and `engagement` as 0 or 1, and
`revenue` as a number >= 0. Events of the same ad are combined: the maximum of click and engagement,
the sum of revenue. An ad without events was not clicked and earned nothing. If several answers have
the same request id, its events count for the latest one.

Memory holds all events and one file of the log at a time.

Shapes: E events, R rows of the log.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serving import errors
from serving.impressions import feedback_events, logged_schema
from tfrecords import files

_KEYS = ["_request_id", "_ad_id"]


@dataclasses.dataclass(frozen=True)
class Joined:
    """Result of a join.

    Attributes:
        rows: Number of impressions written.
        requests: Number of answers that these impressions belong to.
        young: Number of impressions left out because their feedback may still arrive.
        events: Number of events read.
        matched: Number of events that match an impression of the log.
        unmatched: Number of events that match none.
        repeated: Number of shown ads whose request id is also that of an earlier answer.
        totals: Sum of each label over the rows.
        schema: JSON of the schema for `tfrec convert`.
    """

    rows: int
    requests: int
    young: int
    events: int
    matched: int
    unmatched: int
    repeated: int
    totals: dict[str, float]
    schema: dict[str, Any]


def join_feedback(
    log_files: Sequence[pathlib.Path],
    event_files: Sequence[pathlib.Path],
    output: pathlib.Path,
    min_age_seconds: float = 0.0,
) -> Joined:
    """Writes the joined log as one Parquet file, atomically.

    Args:
        log_files: Files of the impression log.
        event_files: Feedback events as JSON lines, CSV, TSV or Parquet.
        output: Parquet file to write.
        min_age_seconds: Minimum age of an impression, relative to the latest one of the log, in
            seconds; younger ones are left out.

    Raises:
        ImpressionLogError: A file cannot be read or has another format, an event is malformed, or
            no impression is left to write.
        OSError: The output cannot be written.
    """
    known = logged_schema.newest_schema(log_files)
    events, labels = feedback_events.read(event_files, known.labels)
    latest, newest, repeated = _latest_answers(log_files, events)
    until = newest - min_age_seconds
    young = 0
    with files.replacing(output) as partial, contextlib.closing(_Writer(partial, labels)) as writer:
        for table in _tables(log_files):
            settled = table.filter(pc.less_equal(table["_time"], until))
            young += table.num_rows - settled.num_rows
            writer.write(_labelled(settled.select(known.columns), latest, labels))
        if not writer.rows:
            raise errors.ImpressionLogError(
                f"No impression is older than {min_age_seconds:g} s before the latest; expected "
                "at least one. Set a smaller --min_age_seconds."
            )
    matched = int(pc.sum(latest["num_events"]).as_py() or 0)
    total = int(pc.sum(events["num_events"]).as_py() or 0)
    return Joined(
        rows=writer.rows,
        requests=writer.requests,
        young=young,
        events=total,
        matched=matched,
        unmatched=total - matched,
        repeated=repeated,
        totals=writer.totals,
        schema=known.to_convert(labels),
    )


def _latest_answers(
    log_files: Sequence[pathlib.Path], events: pa.Table
) -> tuple[pa.Table, float, int]:
    """Returns the events with their answer ids, the latest time, and the number of repeats."""
    found, newest = [], float("-inf")
    for path in log_files:
        keys = _read(path, [*_KEYS, "_answer_id", "_time"])
        newest = max(newest, pc.max(keys["_time"]).as_py() or float("-inf"))
        found.append(keys.join(events.select(_KEYS), _KEYS, join_type="inner"))
    shown = pa.concat_tables(found)
    last = shown.group_by(_KEYS).aggregate([("_time", "max"), ("_time", "count")])
    last = last.rename_columns([*_KEYS, "_time", "times"])
    of_last = shown.join(last, [*_KEYS, "_time"], join_type="inner")
    # Of two answers at the same time, one is chosen.
    one = of_last.group_by([*_KEYS, "times"]).aggregate([("_answer_id", "max")])
    repeated = int(pc.sum(pc.greater(one["times"], 1)).as_py() or 0)
    one = one.rename_columns([*_KEYS, "times", "_answer_id"]).drop_columns("times")
    return events.join(one, _KEYS, join_type="inner"), newest, repeated


def _labelled(table: pa.Table, latest: pa.Table, labels: Sequence[str]) -> pa.Table:
    """Returns rows [R] with their labels, in the same order."""
    keys = [*_KEYS, "_answer_id"]
    positions = pa.array(range(table.num_rows), pa.int64())
    own = table.select(keys).append_column("position", positions)
    joined = own.join(latest, keys, join_type="left outer").sort_by("position")
    for label in labels:
        name = f"_{label}"
        table = table.append_column(name, pc.fill_null(joined[name], 0.0))
    return table


def _tables(log_files: Sequence[pathlib.Path]) -> Iterator[pa.Table]:
    for path in sorted(log_files, key=lambda path: path.name):
        yield _read(path, None)


def _read(path: pathlib.Path, columns: list[str] | None) -> pa.Table:
    try:
        return pq.ParquetFile(path, memory_map=True).read(columns)
    except (pa.ArrowException, OSError) as error:
        raise errors.ImpressionLogError(
            f"{path} cannot be read as a file of the impression log ({error}); expected a Parquet "
            "file that tfrec serve --impression_log wrote."
        ) from error


class _Writer:
    """Writes and counts the joined rows."""

    def __init__(self, path: pathlib.Path, labels: Sequence[str]) -> None:
        self.rows, self.requests = 0, 0
        self.totals = dict.fromkeys(labels, 0.0)
        self._path = path
        self._writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> None:
        if not table.num_rows:
            return
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema.remove_metadata())
        self._writer.write_table(table.replace_schema_metadata(None))
        self.rows += table.num_rows
        self.requests += pc.count_distinct(table["_answer_id"]).as_py()
        for label in self.totals:
            self.totals[label] += pc.sum(table[f"_{label}"]).as_py()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
