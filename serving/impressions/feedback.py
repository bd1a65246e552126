"""Joins feedback events to the impression log, which gives a log to convert and train on.

An event is a JSON line, or a row of a Parquet file:

    {"request_id": "42", "ad_id": "ad-17", "event_id": "e-9", "click": 1, "revenue": 0.35}

Events of the same ad are combined: the maximum of click and engagement, and the sum of revenue,
which is negative for a refund and at least 0 in total. An ad without events was not clicked and
earned nothing. Events with the same `event_id` count once. If several answers have the same request
id, as after a retry, its events count for the latest one.

All events, and one file of the log, are kept in memory.

Shapes: E distinct pairs of request and ad with events, R rows of a file.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serving import errors, manifest, requests
from serving.impressions import logged_schema
from tfrecords import files

_KEYS = ["_request_id", "_ad_id"]


@dataclasses.dataclass(frozen=True)
class Joined:
    """Result of a join.

    Attributes:
        rows: Number of impressions written.
        requests: Number of answers that these impressions belong to.
        late_rows: Number of impressions after `until`; they are left out.
        events: Number of events that name an answer, without duplicates.
        matched: Number of these that match an impression of the log.
        duplicate_events: Number of events that were delivered again.
        other_events: Number of logged events of users that name no answer, or that are impressions;
            they are left out.
        rejected_events: Number of malformed events; they are left out.
        first_rejected: File, line and reason of the first of them, or None.
        repeated: Number of shown ads with events whose request id several answers have.
        totals: Sum of each label over the rows.
        schema: JSON of the schema for `tfrec convert`.
    """

    rows: int
    requests: int
    late_rows: int
    events: int
    matched: int
    duplicate_events: int
    other_events: int
    rejected_events: int
    first_rejected: str | None
    repeated: int
    totals: dict[str, float]
    schema: dict[str, Any]


def join_feedback(
    log_files: Sequence[pathlib.Path],
    event_files: Sequence[pathlib.Path],
    output: pathlib.Path,
    until: float = math.inf,
    max_rejected_fraction: float = 0.01,
) -> Joined:
    """Writes the joined log as one Parquet file, atomically.

    Args:
        log_files: Files of the impression log. Of files with the same name, one is read.
        event_files: Feedback events as JSON lines or Parquet.
        output: Parquet file to write.
        until: Time after which impressions are left out, because feedback of theirs may still
            arrive, in seconds since 1970.
        max_rejected_fraction: Maximum share of malformed events, in [0, 1].

    Raises:
        ImpressionLogError: A file cannot be read or has another format, too many events are
            malformed, or no impression is left to write.
        OSError: The output cannot be written.
    """
    log_files = sorted({path.name: path for path in log_files}.values())
    known = logged_schema.newest_schema(log_files)
    events = _Events(known.labels)
    for path in event_files:
        events.read(path)
    events.check(max_rejected_fraction)
    combined = events.combined()
    latest, repeated = _latest_answers(log_files, combined)
    labels, counts, late_rows = events.labels, {"rows": 0, "requests": 0}, 0
    totals = dict.fromkeys(labels, 0.0)
    with files.replacing(output) as partial:
        writer = None
        for path in log_files:
            table = logged_schema.read_file(path).select(known.columns)
            settled = table.filter(pc.less_equal(table["_time"], until))
            late_rows += table.num_rows - settled.num_rows
            if not settled.num_rows:
                continue
            joined = _labeled(settled, latest, labels)
            writer = writer or pq.ParquetWriter(partial, joined.schema, write_page_checksum=True)
            writer.write_table(joined)
            counts["rows"] += joined.num_rows
            counts["requests"] += pc.count_distinct(joined["_answer_id"]).as_py()
            for label in labels:
                totals[label] += pc.sum(joined[f"_{label}"]).as_py()
        if writer is None:
            raise errors.ImpressionLogError(
                f"The log has no impression to write; {late_rows:,} are later than --until."
            )
        writer.close()
    return Joined(
        **counts,
        late_rows=late_rows,
        events=int(pc.sum(combined["num_events"]).as_py() or 0),
        matched=int(pc.sum(latest["num_events"]).as_py() or 0),
        duplicate_events=events.duplicates,
        other_events=events.others,
        rejected_events=events.rejected,
        first_rejected=events.first_rejected,
        repeated=repeated,
        totals=totals,
        schema=known.to_convert(labels),
    )


def _latest_answers(log_files: Sequence[pathlib.Path], events: pa.Table) -> tuple[pa.Table, int]:
    """Returns the events with their answer ids, and the number of those with several answers."""
    found = [
        logged_schema.read_file(path, [*_KEYS, "_answer_id", "_time"]).join(
            events.select(_KEYS), _KEYS, join_type="inner"
        )
        for path in log_files
    ]
    # Of two answers at the same time, one is chosen.
    shown = pa.concat_tables(found).sort_by([("_time", "ascending"), ("_answer_id", "ascending")])
    last = shown.group_by(_KEYS, use_threads=False).aggregate(
        [("_answer_id", "last"), ("_answer_id", "count_distinct")]
    )
    last = last.rename_columns([*_KEYS, "_answer_id", "answers"])
    repeated = int(pc.sum(pc.greater(last["answers"], 1)).as_py() or 0)
    return events.join(last.drop_columns("answers"), _KEYS, join_type="inner"), repeated


def _labeled(table: pa.Table, latest: pa.Table, labels: Sequence[str]) -> pa.Table:
    """Returns rows [R] with their labels, in the same order and without metadata."""
    keys = [*_KEYS, "_answer_id"]
    positions = pa.array(range(table.num_rows), pa.int64())
    numbered = table.select(keys).append_column("position", positions)
    joined = numbered.join(latest, keys, join_type="left outer").sort_by("position")
    for label in labels:
        table = table.append_column(f"_{label}", pc.fill_null(joined[f"_{label}"], 0.0))
    return table.replace_schema_metadata(None)


class _Events:
    """The events of files: ids and labels as columns, and the number of those left out."""

    def __init__(self, kinds: Mapping[str, str]) -> None:
        self.duplicates = self.others = self.rejected = 0
        self.first_rejected: str | None = None
        self._kinds = kinds
        self._columns: dict[str, list[Any]] = {name: [] for name in (*_KEYS, *kinds)}
        self._seen: set[tuple[str, ...]] = set()

    @property
    def labels(self) -> list[str]:
        """The labels that any event has."""
        return [name for name in self._kinds if any(v is not None for v in self._columns[name])]

    def read(self, path: pathlib.Path) -> None:
        for number, row in enumerate(_rows(path), 1):
            try:
                event = json.loads(row) if isinstance(row, bytes) else row
                self._add(event)
            except (ValueError, RecursionError) as error:
                self.rejected += 1
                self.first_rejected = self.first_rejected or f"{path}, line {number}: {error}"

    def _add(self, event: Any) -> None:
        if not isinstance(event, Mapping):
            raise ValueError(f"expected a JSON object, got {requests.shortened(event)}")
        labels = {name: _label(name, event.get(name), kind) for name, kind in self._kinds.items()}
        # In a log of events, those of users may name no answer, or be impressions.
        is_logged = event.get("user_id") is not None
        if is_logged and (
            event.get("request_id") is None or all(v is None for v in labels.values())
        ):
            self.others += 1
            return
        ids = [_id(name, event.get(name)) for name in ("request_id", "ad_id")]
        if event.get("event_id") not in (None, ""):
            key = (*ids, _id("event_id", event["event_id"]))
            if key in self._seen:
                self.duplicates += 1
                return
            self._seen.add(key)
        for column, value in zip(self._columns.values(), (*ids, *labels.values()), strict=True):
            column.append(value)

    def check(self, max_rejected_fraction: float) -> None:
        """Raises `ImpressionLogError` for too many malformed events, or if no event has a click."""
        total = len(self._columns["_ad_id"]) + self.duplicates + self.others + self.rejected
        if self.rejected > max_rejected_fraction * total:
            raise errors.ImpressionLogError(
                f"Malformed events: {self.rejected:,} of {total:,}; expected a share of at most "
                f"{max_rejected_fraction:g} (--max_rejected_fraction). The first: "
                f"{self.first_rejected}."
            )
        if "click" not in self.labels:
            raise errors.ImpressionLogError(
                f"Expected events with click as 0 or 1, got {self.labels or 'no label'} in "
                f"{total:,} events, of which {self.others:,} name no answer. Send the request_id "
                "of the answer with each event."
            )

    def combined(self) -> pa.Table:
        """Returns [E] `_request_id`, `_ad_id`, the labels and the number of events."""
        labels = self.labels
        table = pa.table(
            {
                **{name: pa.array(self._columns[name], pa.string()) for name in _KEYS},
                **{f"_{name}": pa.array(self._columns[name], pa.float64()) for name in labels},
            }
        )
        functions = [
            (f"_{name}", "sum" if self._kinds[name] == manifest.AMOUNT else "max")
            for name in labels
        ]
        found = table.group_by(_KEYS).aggregate([*functions, ([], "count_all")])
        found = found.rename_columns([*_KEYS, *(f"_{name}" for name in labels), "num_events"])
        for label in labels:
            position = found.column_names.index(f"_{label}")
            # Refunds may exceed the revenue.
            values = pc.max_element_wise(found[f"_{label}"], 0.0, skip_nulls=False)
            found = found.set_column(position, f"_{label}", values)
        return found


def _rows(path: pathlib.Path) -> Iterator[Any]:
    """Yields the lines of a file of JSON lines, or the rows of a Parquet file."""
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                for batch in file.iter_batches():
                    yield from batch.to_pylist()
        elif path.suffix in (".jsonl", ".ndjson"):
            with path.open("rb") as lines:
                yield from (line for line in lines if line.strip())
        else:
            raise ValueError("its name has another ending")
    except (pa.ArrowException, OSError, ValueError) as error:
        raise errors.ImpressionLogError(
            f"{path} cannot be read ({error}); expected events as JSON lines (.jsonl) or Parquet "
            "(.parquet), not compressed."
        ) from error


def _id(name: str, value: Any) -> str:
    value = requests.as_digits(value)
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(
            f"expected {name} as a string or an integer, got {requests.shortened(value)}"
        )
    # Raises for surrogates, which JSON may contain.
    value.encode()
    return value


def _label(name: str, value: Any, kind: str) -> float | None:
    if value is None:
        return None
    # Labels are float32 in the data set, so larger numbers are refused.
    number = float(value) if isinstance(value, bool) else requests.as_finite_float(value)
    is_amount = kind == manifest.AMOUNT
    if number is None or not (is_amount or number in (0.0, 1.0)):
        expected = "a finite number" if is_amount else "0 or 1"
        raise ValueError(f"expected {expected} as {name}, got {requests.shortened(value)}")
    return number
