"""Joins feedback events to the impression log, which gives a log to convert and train on.

An event has the `request_id` and the `ad_id` of a shown ad, `click` and `engagement` as 0 or 1, and
`revenue`, which is negative for a refund. Events of the same ad are combined: the maximum of click
and engagement, the sum of revenue, which is at least 0. An ad without events was not clicked and
earned nothing. If several answers have the same request id, its events count for the latest one.

Impressions and events that were delivered more than once count once (`feedback_events`).

All events, 100,000 rows of the log or one file, and the ids of impressions in files whose times
overlap are kept in memory.

Shapes: E events, R rows of the log.
"""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serving import errors
from serving.impressions import feedback_events, log_times, logged_schema
from tfrecords import files

_KEYS = ["_request_id", "_ad_id"]
_IMPRESSION = "impression"
# Rows joined at a time. Each join visits all events, and a service writes a file each minute.
_ROWS_PER_JOIN = 100_000


@dataclasses.dataclass(frozen=True)
class Joined:
    """Result of a join.

    Attributes:
        rows: Number of impressions written.
        requests: Number of answers that these impressions belong to.
        young: Number of impressions left out because their feedback may still arrive.
        duplicate_rows: Number of impressions left out because they are duplicates.
        events: Number of events, without duplicates.
        matched: Number of events that match an impression of the log.
        unmatched: Number of events that match none.
        duplicate_events: Number of events that were delivered again.
        rejected_events: Number of malformed events, which are in OUTPUT.rejected.tsv.
        events_without_request: Number of events of users that name no request; they are left out.
        impression_events: Number of impressions among the events; they are left out, because the
            rows come from the impression log.
        refunded: Number of ads whose refunds exceed their revenue, which is 0.
        repeated: Number of shown ads whose request id repeats an earlier answer's.
        totals: Sum of each label over the rows.
        unread: Field or column of the events that is not read -> a suggestion of a similar one, or
            "".
        shown_columns: Columns that answers show, such as a title. The log does not have them, so
            they are not in the schema.
        schema: JSON of the schema for `tfrec convert`.
        warning: Problem with the times of the log, or None.
    """

    rows: int
    requests: int
    young: int
    duplicate_rows: int
    events: int
    matched: int
    unmatched: int
    duplicate_events: int
    rejected_events: int
    events_without_request: int
    impression_events: int
    refunded: int
    repeated: int
    totals: dict[str, float]
    unread: dict[str, str]
    shown_columns: list[str]
    schema: dict[str, Any]
    warning: str | None


def join_feedback(
    log_files: Sequence[pathlib.Path],
    event_files: Sequence[pathlib.Path],
    output: pathlib.Path,
    min_age_seconds: float = 0.0,
    max_rejected_fraction: float = 0.01,
    clock: Callable[[], float] = time.time,
) -> Joined:
    """Writes the joined log as one Parquet file, atomically.

    Rejected events are written next to it, to OUTPUT.rejected.tsv, with file, line and reason.

    Args:
        log_files: Files of the impression log.
        event_files: Feedback events as JSON lines, CSV, TSV or Parquet.
        output: Parquet file to write.
        min_age_seconds: Minimum age of an impression, relative to the latest one of the log, in
            seconds; younger ones are left out. See `log_times.latest_time`.
        max_rejected_fraction: Maximum share of malformed events, as in `convert.convert`.
        clock: Returns the time in seconds since 1970, which no impression can be later than.

    Raises:
        ImpressionLogError: A file cannot be read or has another format, too many events are
            malformed, or no impression is left to write.
        OSError: The output cannot be written.
    """
    known = logged_schema.newest_schema(log_files)
    events = feedback_events.read(event_files, known.labels, max_rejected_fraction)
    log, latest, repeated = _scan(log_files, events.table)
    latest_time, warning = log_times.latest_time([file.span for file in log], clock())
    until = latest_time - min_age_seconds
    duplicate_rows, young = 0, 0
    with (
        files.replacing(output) as partial,
        contextlib.closing(_Writer(partial, events.labels)) as writer,
    ):
        for table, num_duplicates in _distinct_tables(log, known.columns):
            duplicate_rows += num_duplicates
            settled = table.filter(pc.less_equal(table["_time"], until))
            young += table.num_rows - settled.num_rows
            writer.write(_labeled(settled, latest, events.labels))
        if not writer.rows:
            raise errors.ImpressionLogError(
                f"No impression is older than {min_age_seconds:g} s before the latest; expected "
                f"at least one{f': {warning}' if warning else '. Set a smaller --min_age_seconds.'}"
            )
        _write_rejected(output.with_suffix(".rejected.tsv"), events.rejected)
    matched = int(pc.sum(latest["num_events"]).as_py() or 0)
    total = int(pc.sum(events.table["num_events"]).as_py() or 0)
    return Joined(
        rows=writer.rows,
        requests=writer.requests,
        young=young,
        duplicate_rows=duplicate_rows,
        events=total,
        matched=matched,
        unmatched=total - matched,
        duplicate_events=events.duplicates,
        rejected_events=len(events.rejected),
        events_without_request=events.without_request,
        impression_events=events.impressions,
        refunded=events.refunded,
        repeated=repeated,
        totals=writer.totals,
        unread=events.unread,
        shown_columns=known.source.get("show", []),
        schema=known.to_convert(events.labels),
        warning=warning,
    )


@dataclasses.dataclass(frozen=True)
class _LogFile:
    """A file of the log that has rows."""

    path: pathlib.Path
    span: log_times.Span


def _scan(
    log_files: Sequence[pathlib.Path], events: pa.Table
) -> tuple[list[_LogFile], pa.Table, int]:
    """Returns the files, the events with their answer ids, and the number of repeats."""
    log: list[_LogFile] = []

    def tables() -> Iterator[pa.Table]:
        for path in log_files:
            keys = logged_schema.read_file(path, [*_KEYS, "_answer_id", "_time"])
            if keys.num_rows:
                times = pc.min_max(keys["_time"]).as_py()
                host = logged_schema.host_of(keys.schema)
                log.append(_LogFile(path, log_times.Span(host, times["min"], times["max"])))
            yield keys

    found = [
        keys.join(events.select(_KEYS), _KEYS, join_type="inner") for keys in _merged(tables())
    ]
    # An impression may be in several files. Of two answers at the same time, one is chosen.
    shown = pa.concat_tables(found).sort_by([("_time", "ascending"), ("_answer_id", "ascending")])
    last = shown.group_by(_KEYS, use_threads=False).aggregate(
        [("_answer_id", "last"), ("_answer_id", "count_distinct")]
    )
    last = last.rename_columns([*_KEYS, "_answer_id", "answers"])
    repeated = int(pc.sum(pc.greater(last["answers"], 1)).as_py() or 0)
    return log, events.join(last.drop_columns("answers"), _KEYS, join_type="inner"), repeated


def _merged(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Concatenates small tables."""
    group, num_rows = [], 0
    for table in tables:
        group.append(table)
        num_rows += table.num_rows
        if num_rows >= _ROWS_PER_JOIN:
            yield pa.concat_tables(group)
            group, num_rows = [], 0
    if group:
        yield pa.concat_tables(group)


def _distinct_tables(log: Sequence[_LogFile], columns: list[str]) -> Iterator[tuple[pa.Table, int]]:
    """Yields the rows that are not in an earlier file, and the number of duplicates."""
    seen: pa.Table | None = None
    ordered = sorted(log, key=lambda file: file.span.first)
    # The order of columns may differ between releases.
    for table in _merged(logged_schema.read_file(f.path).select(columns) for f in ordered):
        num_rows = table.num_rows
        impressions = pc.binary_join_element_wise(table["_answer_id"], table["_ad_id"], "\0")
        table = table.append_column(_IMPRESSION, impressions)
        if pc.count_distinct(impressions).as_py() < num_rows:
            table = _first_of_each(table)
        if seen is not None:
            # A repeated impression has the same time, so earlier ones are no longer needed.
            seen = seen.filter(pc.greater_equal(seen["_time"], pc.min(table["_time"])))
            is_known = pc.is_in(table[_IMPRESSION], seen[_IMPRESSION].combine_chunks())
            table = table.filter(pc.invert(is_known))
        impression_times = table.select([_IMPRESSION, "_time"])
        seen = impression_times if seen is None else pa.concat_tables([seen, impression_times])
        yield table.drop_columns(_IMPRESSION), num_rows - table.num_rows


def _first_of_each(table: pa.Table) -> pa.Table:
    positions = pa.array(range(table.num_rows), pa.int64())
    numbered = table.select([_IMPRESSION]).append_column("position", positions)
    first = numbered.group_by(_IMPRESSION).aggregate([("position", "min")])
    return table.take(first["position_min"].combine_chunks().sort())


def _labeled(table: pa.Table, latest: pa.Table, labels: Sequence[str]) -> pa.Table:
    """Returns rows [R] with their labels, in the same order."""
    keys = [*_KEYS, "_answer_id"]
    positions = pa.array(range(table.num_rows), pa.int64())
    numbered = table.select(keys).append_column("position", positions)
    joined = numbered.join(latest, keys, join_type="left outer").sort_by("position")
    for label in labels:
        name = f"_{label}"
        table = table.append_column(name, pc.fill_null(joined[name], 0.0))
    return table


def _write_rejected(path: pathlib.Path, rejected: Sequence[feedback_events.Rejected]) -> None:
    if not rejected:
        path.unlink(missing_ok=True)
        return
    lines = (
        "\t".join((str(item.path), str(item.line), item.reason, item.text)) for item in rejected
    )
    content = "".join(line.replace("\n", "\\n") + "\n" for line in lines)
    files.write(path, content.encode(errors="surrogateescape"))


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
            schema = table.schema.remove_metadata()
            self._writer = pq.ParquetWriter(self._path, schema, write_page_checksum=True)
        self._writer.write_table(table.replace_schema_metadata(None))
        self.rows += table.num_rows
        self.requests += pc.count_distinct(table["_answer_id"]).as_py()
        for label in self.totals:
            self.totals[label] += pc.sum(table[f"_{label}"]).as_py()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
