"""Reads feedback events from JSON lines, CSV, TSV or Parquet, by the file extension.

    {"request_id": "42", "ad_id": "ad-17", "event_id": "e-9", "click": 1, "revenue": 0.35}

Events may be delivered more than once: events of one request and ad with the same `event_id` are
one event, and so are events without `event_id` that are equal in all fields. Bad events are
rejected with their line and a reason. In the log of a service, impressions, and events that name a
user but no request, are left out and counted.

Shapes: E distinct pairs of request and ad.
"""

import collections
import csv
import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serving import errors, manifest, requests
from tfrecords import terminal

_IDS = {"request_id": "_request_id", "ad_id": "_ad_id"}
_EVENT_ID = "event_id"
# Fields of events in the log of a service that only other readers use.
_LOG_FIELDS = ("user_id", "time", "received", "impression")
# Why events are left out.
_NO_REQUEST, _IMPRESSION = "no request", "impression"
_JSON_ENDINGS = (".jsonl", ".ndjson", ".json")
_BYTE_ORDER_MARK = "\ufeff"
# Up to this many malformed events are tolerated, unless they are half of all events.
_TOLERATED_REJECTS = 10
_Parse = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A malformed event.

    Attributes:
        path: File of events.
        line: Number of the line or row, from 1.
        reason: Reason for the rejection.
        text: The event, verbatim.
    """

    path: pathlib.Path
    line: int
    reason: str
    text: str


@dataclasses.dataclass(frozen=True)
class FeedbackEvents:
    """Events, combined for each request and ad.

    Attributes:
        table: [E] `_request_id`, `_ad_id`, the labels (float64), and the number of events.
        labels: Labels that occur in any file.
        duplicates: Number of events that were delivered again.
        refunded: Number of ads whose refunds exceed their revenue, which is 0.
        rejected: Malformed events.
        without_request: Number of events that name a user and no request.
        impressions: Number of impressions of answers, each time that they were delivered.
        unread: Field or column that is not read -> a suggestion of a similar one, or "".
    """

    table: pa.Table
    labels: list[str]
    duplicates: int
    refunded: int
    rejected: list[Rejected]
    without_request: int
    impressions: int
    unread: dict[str, str]


def read(
    paths: Sequence[pathlib.Path], kinds: Mapping[str, str], max_rejected_fraction: float
) -> FeedbackEvents:
    """Reads events and combines events of the same request and ad.

    Args:
        paths: The files.
        kinds: Label -> kind of its head, of the labels that events can have.
        max_rejected_fraction: Maximum share of rejected events, as in `convert.convert`.

    Raises:
        ImpressionLogError: A file cannot be read, or too many events are rejected; the message
            names the first ones.
    """
    columns, rejected, named, left_out, fields = _collected(paths, kinds)
    num_good = len(columns[_EVENT_ID]) + left_out.total()
    _check_rejected(num_good, rejected, max_rejected_fraction)
    labels = [
        name for name in kinds if name in named or any(value is not None for value in columns[name])
    ]
    if "click" not in labels:
        without = left_out[_NO_REQUEST]
        events = terminal.format_count(without, "event was", "events were")
        remedy = (
            f"{events} left out without the request_id of an answer: send it with each event."
            if without
            else "Add click as 0 or 1."
        )
        raise errors.ImpressionLogError(
            f"{', '.join(map(str, paths)) or 'No file'}: expected events with a column click, got "
            f"{labels or 'none of ' + ', '.join(kinds)}. {remedy}"
        )
    types = {name: pa.float64() if name in kinds else pa.string() for name in columns}
    table = pa.table({name: pa.array(columns[name], kind) for name, kind in types.items()})
    distinct = table.group_by([*_IDS, _EVENT_ID]).aggregate([(label, "max") for label in labels])
    distinct = distinct.rename_columns([*_IDS, _EVENT_ID, *labels])
    combined, refunded = _combined(distinct, labels, kinds)
    duplicates = table.num_rows - distinct.num_rows
    return FeedbackEvents(
        combined,
        labels,
        duplicates,
        refunded,
        rejected,
        left_out[_NO_REQUEST],
        left_out[_IMPRESSION],
        {
            name: terminal.suggestion_for(name, columns)
            for name in sorted(fields - {*columns, *_LOG_FIELDS})
        },
    )


def _collected(
    paths: Sequence[pathlib.Path], kinds: Mapping[str, str]
) -> tuple[dict[str, list[Any]], list[Rejected], set[str], collections.Counter[str], set[str]]:
    """Returns the columns of all events, the malformed events, and the names in files' headers.

    The last two are the numbers of events left out, by reason, and the fields of the others.
    """
    columns: dict[str, list[Any]] = {name: [] for name in (*_IDS, _EVENT_ID, *kinds)}
    rejected: list[Rejected] = []
    named: set[str] = set()
    left_out: collections.Counter[str] = collections.Counter()
    fields: set[str] = set()
    for path in paths:
        for line, raw, parse in _lines(path, kinds, named):
            try:
                event = parse(raw)
                if why := _why_left_out(event, kinds):
                    left_out[why] += 1
                    continue
                values = _checked(event, kinds)
            except (ValueError, RecursionError) as error:
                text = raw if isinstance(raw, str) else json.dumps(raw, default=str)
                rejected.append(Rejected(path, line, str(error), text))
                continue
            for name, column in columns.items():
                column.append(values[name])
            fields.update(event)
    return columns, rejected, named, left_out, fields


def _why_left_out(event: Any, labels: Iterable[str]) -> str | None:
    """Returns why an event of the log of a service is left out, or None."""
    if not isinstance(event, Mapping) or not event.get("user_id"):
        return None
    # `FeedbackLog` writes null if the event names no request.
    if event.get("request_id", "") is None:
        return _NO_REQUEST
    if event.get(_IMPRESSION) and all(event.get(label) is None for label in labels):
        return _IMPRESSION
    return None


def _combined(
    events: pa.Table, labels: Sequence[str], kinds: Mapping[str, str]
) -> tuple[pa.Table, int]:
    """Returns a row for each request and ad, and the number of those with too many refunds."""
    functions = ["sum" if kinds[label] == manifest.AMOUNT else "max" for label in labels]
    found = events.group_by(list(_IDS)).aggregate(
        [*zip(labels, functions, strict=True), ([], "count_all")]
    )
    columns = dict(zip((*_IDS.values(), *labels, "num_events"), found.columns, strict=True))
    refunded = 0
    for label in labels:
        values = columns.pop(label)
        refunded += pc.sum(pc.less(values, 0.0)).as_py() or 0
        columns[f"_{label}"] = pc.max_element_wise(values, 0.0, skip_nulls=False)
    return pa.table(columns), refunded


def _check_rejected(num_good: int, rejected: Sequence[Rejected], max_fraction: float) -> None:
    """Refuses files with too many malformed events, by the rule of `tfrec convert`."""
    num_bad = len(rejected)
    num_events = num_good + num_bad
    if not num_bad or num_bad <= max_fraction * num_events:
        return
    if num_bad <= _TOLERATED_REJECTS and 2 * num_bad < num_events:
        return
    shown = "\n  ".join(f"{item.path}, line {item.line}: {item.reason}" for item in rejected[:3])
    raise errors.ImpressionLogError(
        f"Malformed events: {num_bad} of {num_events}; expected a share of at most "
        f"{max_fraction:g} (--max_rejected_fraction). The first ones:\n  {shown}"
    )


def _lines(
    path: pathlib.Path, labels: Mapping[str, str], named: set[str]
) -> Iterator[tuple[int, Any, _Parse]]:
    """Yields the number and content of each line or row, and the function that parses it.

    Adds the names of the file's columns to `named`, if it has a header.
    """
    if not path.is_file():
        raise errors.ImpressionLogError(
            f"{path} does not exist; expected a file of events. Check the path."
        )
    try:
        if path.suffix == ".parquet":
            yield from _parquet_rows(path, named)
        else:
            yield from _text_lines(path, labels, named)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise errors.ImpressionLogError(
            f"{path} cannot be read ({error}); expected events as JSON lines (.jsonl), CSV (.csv), "
            "TSV (.tsv) or Parquet (.parquet), not compressed."
        ) from error


def _parquet_rows(path: pathlib.Path, named: set[str]) -> Iterator[tuple[int, Any, _Parse]]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        named.update(_checked_columns(path, file.schema_arrow.names))
        rows = itertools.chain.from_iterable(batch.to_pylist() for batch in file.iter_batches())
        for number, row in enumerate(rows, 1):
            yield number, row, lambda event: event


def _text_lines(
    path: pathlib.Path, labels: Mapping[str, str], named: set[str]
) -> Iterator[tuple[int, Any, _Parse]]:
    parse: _Parse | None = json.loads if path.suffix in _JSON_ENDINGS else None
    # A line with invalid UTF-8 is rejected, not the file.
    with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for number, line in enumerate(file, 1):
            text = line.removeprefix(_BYTE_ORDER_MARK).strip("\r\n")
            if not text.strip():
                continue
            if parse is None:
                delimiter = "\t" if path.suffix == ".tsv" else ","
                names = _checked_columns(path, _split(delimiter, text))
                named.update(names)
                parse = functools.partial(_parse_row, names, labels, delimiter)
                continue
            yield number, text, parse
    if parse is None:
        raise errors.ImpressionLogError(f"{path} is empty; expected a header line and events.")


def _checked_columns(path: pathlib.Path, names: list[str]) -> list[str]:
    if not set(_IDS) <= set(names):
        raise errors.ImpressionLogError(
            f"{path}: expected events with request_id and ad_id, got {names}."
        )
    return names


def _parse_row(
    names: Sequence[str], labels: Mapping[str, str], delimiter: str, text: str
) -> dict[str, Any]:
    values = _split(delimiter, text)
    if len(values) != len(names):
        count = terminal.format_count(len(values), "value")
        raise ValueError(f"it has {count}, but the header has {len(names)}")
    event: dict[str, Any] = dict(zip(names, values, strict=True))
    for label in labels:
        if label in event:
            event[label] = _number_of(event[label])
    return event


def _split(delimiter: str, text: str) -> list[str]:
    try:
        return next(csv.reader([text], delimiter=delimiter))
    except csv.Error as error:
        raise ValueError(f"it is not valid CSV ({error})") from error


def _number_of(text: str) -> float | str | None:
    try:
        return float(text) if text else None
    except ValueError:
        return text


def _checked(event: Any, kinds: Mapping[str, str]) -> dict[str, Any]:
    """Returns the ids and labels of an event.

    Raises:
        ValueError: The event is malformed.
    """
    if not isinstance(event, Mapping):
        raise ValueError(f"expected a JSON object, got {requests.shortened(event)}")
    values: dict[str, Any] = {name: _id(name, event.get(name)) for name in _IDS}
    given = event.get(_EVENT_ID)
    if given is None or given == "":
        # All fields, including fields that are not read here, such as a time.
        values[_EVENT_ID] = json.dumps(event, sort_keys=True, default=str)
    else:
        values[_EVENT_ID] = _id(_EVENT_ID, given)
    for label, kind in kinds.items():
        values[label] = _label(label, event.get(label), kind == manifest.AMOUNT)
    posted = event.get("event")
    if isinstance(posted, str) and posted in kinds and all(values[name] is None for name in kinds):
        value = "AMOUNT" if kinds[posted] == manifest.AMOUNT else "1"
        raise ValueError(
            f'expected the label "{posted}": {value}, got "event": "{posted}", which only '
            "POST /v1/events accepts"
        )
    return values


def _id(name: str, value: Any) -> str:
    value = requests.as_digits(value)
    try:
        is_id = isinstance(value, str) and value.encode() and "\0" not in value
    except UnicodeEncodeError:
        is_id = False
    if not is_id:
        raise ValueError(
            f"expected {name} as a string or an integer, got {requests.shortened(value)}"
        )
    return value


def _label(name: str, value: Any, is_amount: bool) -> float | None:
    if value is None:
        return None
    # Labels are float32 in the data set, so larger numbers are refused.
    number = float(value) if isinstance(value, bool) else requests.as_finite_float(value)
    if number is None or not (is_amount or number in (0.0, 1.0)):
        expected = "a finite number" if is_amount else "0 or 1"
        raise ValueError(f"expected {expected} as {name}, got {requests.shortened(value)}")
    return number
