"""Validates the labels, numbers, times and positions of a log.

Shapes: B rows of a chunk.
"""

import copy
import datetime
import re
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords.columns import arrow, placeholders, time_units
from tfrecords.schema import EVENTS, LABELS, MISSING_LABEL, Schema
from tfrecords.splits import SPLITS

_SPLIT_NAMES = {
    "train": 0, "training": 0, "validation": 1, "valid": 1, "val": 1, "dev": 1, "eval": 1,
    "test": 2, "testing": 2,
}  # fmt: skip
TRUTHS = {
    "0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0,
    "false": 0.0, "true": 1.0, "no": 0.0, "yes": 1.0, "f": 0.0, "t": 1.0, "n": 0.0, "y": 1.0,
}  # fmt: skip
_WORDS = "true, false, yes, no, t, f, y and n"
_UTC = re.compile(r"\s*(UTC|GMT)$")
# The space in 2024-05-01 12:00:00 +0200.
_BEFORE_OFFSET = re.compile(r"(?<=\d)\s+(?=[+-]\d\d:?\d\d$)")
_TIME_TYPES = (
    pa.timestamp("us"),
    pa.timestamp("us", "UTC"),
    pa.timestamp("ns"),
    pa.timestamp("ns", "UTC"),
    pa.date32(),
)
_TIME_PATTERNS = ("%Y/%m/%d %H:%M:%S", "%Y/%m/%d", "%Y%m%dT%H%M%S")
# Microseconds that float64 holds exactly: dates of the years 1684 to 2255.
_MAX_SECONDS = 2**53 / 1e6
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_FLOAT32_MAX = float(np.finfo(np.float32).max)
# Sums of squares of revenues, by which models are fitted, stay within the range of float32.
MAX_REVENUE = 1e12


class RowFaults:
    """Rows that cannot be used, each with the first reason found."""

    def __init__(self, num_rows: int) -> None:
        self.bad = np.zeros(num_rows, bool)
        self._reasons: dict[int, str] = {}
        self._checked = np.ones(num_rows, bool)

    def among(self, rows: np.ndarray) -> "RowFaults":
        """Returns a view of these faults that ignores new faults outside some rows [B] bool."""
        restricted = copy.copy(self)
        restricted._checked = rows
        return restricted

    def add(self, bad: np.ndarray, reason: Callable[[int], str]) -> None:
        """Marks the rows where `bad` [B] is true; `reason` returns the reason for a row."""
        bad = bad & self._checked
        if bad.any():
            for row in np.flatnonzero(bad & ~self.bad).tolist():
                self._reasons[row] = reason(row)
            self.bad |= bad

    def any(self) -> bool:
        return bool(self._reasons)

    def reasons(self) -> Sequence[str]:
        """Returns the reasons of the bad rows, in the order of the rows."""
        return [self._reasons[row] for row in sorted(self._reasons)]


def checked_numbers(faults: RowFaults, name: str, column: pa.ChunkedArray) -> np.ndarray:
    """Returns a column as float64 [B] within the range of float32; NaN is missing."""
    if arrow.is_text(column):
        result = written_numbers(faults, name, column, None)
    elif pa.types.is_temporal(column.type):
        result = _seconds(column.combine_chunks())
    else:
        result = column.cast(pa.float64(), safe=False).to_numpy()
    with np.errstate(invalid="ignore"):
        too_large = np.abs(result) > _FLOAT32_MAX
    faults.add(
        too_large,
        lambda row: (
            f"{name} must be empty or a number between ±{_FLOAT32_MAX:.1e}, got {result[row]:g}"
        ),
    )
    return result


def written_numbers(
    faults: RowFaults, name: str, column: pa.ChunkedArray, decimal: str | None
) -> np.ndarray:
    """Returns the numbers of texts as float64 [B]; see `placeholders.read_number`."""
    reasons: dict[str, str] = {}

    def parse(text: str) -> float | None:
        try:
            return placeholders.read_number(name, text, decimal)
        except ValueError as error:
            reasons[text] = str(error)
            return None

    return _parsed(faults, column, parse, reasons.__getitem__)


def checked_labels(
    schema: Schema, table: pa.Table, faults: RowFaults, is_labeled: bool
) -> dict[str, pa.Array]:
    """Returns the labels [B] by name: amounts float32, others uint8.

    Args:
        schema: The schema.
        table: The parsed rows.
        faults: Rows with wrong labels are added to it.
        is_labeled: Whether a row must have a click label.

    Raises:
        ValueError: A label's column holds times.
    """
    # A later stage joins the events to these labels.
    joined = () if schema.events is None else EVENTS[1:]
    for label, name in schema.labels.items():
        if label not in joined:
            _refuse_times(name, table[name], "a number" if LABELS[label].is_amount else "0 or 1")
    clicked = np.ones(table.num_rows) if joined else _clicks(schema, table, faults, is_labeled)
    result, happened = {"click": _stored(clicked)}, {"click": clicked}
    for label, name in schema.labels.items():
        if label == "click":
            continue
        if LABELS[label].is_amount:
            after = LABELS[label].after
            before = None if after is None else happened.get(after, clicked)
            result[label] = _amounts(faults, name, table[name], before)
        elif label in joined:
            result[label] = _stored(np.zeros(table.num_rows))
        else:
            truths = checked_truths(faults, name, table[name])
            result[label] = _stored(truths)
            happened[label] = truths
    return result


def _amounts(
    faults: RowFaults, name: str, column: pa.ChunkedArray, happened: np.ndarray | None
) -> pa.Array:
    """Returns amounts as float32 [B]; NaN is missing.

    Args:
        faults: Rows with bad amounts are added to it.
        name: The column, for messages.
        column: Amounts [B].
        happened: Whether the label that an amount requires is positive [B]; NaN is unknown.
            None: it needs no other label.
    """
    amounts = checked_numbers(faults, name, column)
    faults.add(
        amounts < 0, lambda row: f"{name} must be a number of at least 0, got {amounts[row]:g}"
    )
    faults.add(
        amounts > MAX_REVENUE,
        lambda row: (
            f"{name} must be at most {MAX_REVENUE:g} (use a larger unit), got {amounts[row]:g}"
        ),
    )
    # Where nothing happened that could bring an amount, a missing one is 0, not unknown.
    is_zero = np.isnan(amounts) & (False if happened is None else happened == 0)
    known = np.where(is_zero, 0.0, amounts)
    with np.errstate(over="ignore"):  # Rows out of range are faults already.
        return pa.array(known.astype(np.float32))


def _clicks(schema: Schema, table: pa.Table, faults: RowFaults, is_labeled: bool) -> np.ndarray:
    name = schema.click
    if name is None:
        return np.ones(table.num_rows)
    if schema.click_threshold is None:
        hint = "; other numbers need click_threshold in the schema"
        clicked, expected = checked_truths(faults, name, table[name], hint), "0 or 1"
    else:
        rating, expected = checked_numbers(faults, name, table[name]), "a number"
        clicked = np.where(np.isnan(rating), np.nan, rating >= schema.click_threshold)
    if is_labeled:
        faults.add(np.isnan(clicked), lambda row: f"{name} must be {expected}, got nothing")
    return clicked


def count_clicks_above_1(schema: Schema, table: pa.Table) -> int:
    """Returns the number of rows with several clicks: whole numbers above 1 where 1 is a click.

    Args:
        schema: The schema.
        table: The parsed rows.
    """
    if schema.click is None or schema.click_threshold is None:
        return 0
    if not 0 < schema.click_threshold <= 1:
        return 0
    counts = checked_numbers(RowFaults(table.num_rows), schema.click, table[schema.click])
    return int(((counts > 1) & (counts == np.floor(counts))).sum())


def checked_truths(
    faults: RowFaults, name: str, column: pa.ChunkedArray, hint: str = ""
) -> np.ndarray:
    """Returns a column of 0 and 1 as float64 [B]; NaN is missing.

    Args:
        faults: Faults are added to it.
        name: Name of the column.
        column: The column.
        hint: End of the reason for a value that is neither 0 nor 1.
    """
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if not arrow.is_text(column):
        truth = column.cast(pa.float64(), safe=False).to_numpy()
        faults.add(
            ~np.isin(truth, (0, 1)) & ~np.isnan(truth),
            lambda row: f"{name} must be 0 or 1, got {truth[row]:g}{hint}",
        )
        return truth

    def parse(value: str) -> float | None:
        is_missing = placeholders.is_missing_number(value.strip())
        return float("nan") if is_missing else TRUTHS.get(value.strip().lower())

    def reason(value: str) -> str:
        if value == name:
            return f"looks like a header line (its {name} is {value!r}); remove it"
        return f"{name} must be 0 or 1, got {value[:40]!r} ({_WORDS} are read, too){hint}"

    return _parsed(faults, column, parse, reason)


def _parsed(
    faults: RowFaults,
    column: pa.ChunkedArray,
    parse: Callable[[str], float | None],
    reason: Callable[[str], str],
) -> np.ndarray:
    """Parses texts [B], each distinct one once.

    Args:
        faults: Rows with bad texts are added to it.
        column: Texts; "" is missing.
        parse: Returns the number of a text, NaN if it is missing, or None if it is bad.
        reason: Returns why a text is bad.
    """
    values, codes = arrow.distinct(column)
    parsed = [parse(value) for value in values] or [None]  # An empty column has no values.
    bad = np.array([number is None for number in parsed])
    faults.add(bad[codes], lambda row: reason(values[codes[row]]))
    return np.array([np.nan if number is None else number for number in parsed])[codes]


def _refuse_times(name: str, column: pa.ChunkedArray, expected: str) -> None:
    if pa.types.is_temporal(column.type):
        raise ValueError(
            f"The column {name!r} holds times; expected {expected}. Name another column in the "
            "schema, or convert this one."
        )


def _stored(truth: np.ndarray) -> pa.Array:
    return pa.array(np.where(np.isnan(truth), MISSING_LABEL, truth).astype(np.uint8))


def checked_times(
    faults: RowFaults, name: str, column: pa.ChunkedArray, time_format: str | None = None
) -> np.ndarray:
    """Returns times as float64 [B]: numbers unchanged, dates as seconds since 1970.

    Args:
        faults: Rows with bad times are added to it.
        name: The column, for messages.
        column: Times [B].
        time_format: Format of texts and digits, as for `datetime.strptime`; None: numbers and ISO
            8601.
    """
    if pa.types.is_temporal(column.type):
        result = _plausible(_seconds(column.combine_chunks()))
        faults.add(
            np.isnan(result),
            lambda row: f"{name} is missing or not a date of the years 1685 to 2254",
        )
        return result
    if arrow.is_text(column) or time_format is not None:
        values, codes = arrow.distinct(column)
        times = parse_times(values, time_format)
        result = times[codes] if len(values) else np.full(len(column), np.nan)
        expected = (
            f"a time of the format {time_format!r}"
            if time_format
            else "a number or an ISO 8601 time, with an offset such as +02:00 or without a zone "
            "(or set time_format in the schema)"
        )
        faults.add(
            np.isnan(result),
            lambda row: f"{name} must be {expected}, got {values[codes[row]][:40]!r}",
        )
        return result
    result = column.cast(pa.float64(), safe=False).to_numpy()
    faults.add(~np.isfinite(result), lambda row: f"{name} is missing or not finite")
    return result


def calendar_values(times: np.ndarray, calendar: str) -> pa.Array:
    """Returns the hour, weekday or month [B] of times as texts; null is missing.

    Args:
        times: Times [B] float64; those since 1970 may be in seconds down to nanoseconds, each in
            its own unit.
        calendar: One of `schema.CALENDARS`.
    """
    known = np.isfinite(times)
    seconds = time_units.in_seconds(np.where(known, times, 0))
    stamps = pa.array(np.floor(seconds).astype("datetime64[s]"), pa.timestamp("s"), mask=~known)
    if calendar == "weekday":
        names = pa.array(_WEEKDAYS)
        return names.take(pc.day_of_week(stamps))
    return getattr(pc, calendar)(stamps).cast(pa.string())


def parse_times(values: Sequence[str], time_format: str | None = None) -> np.ndarray:
    """Parses times as float64 [V]: numbers unchanged, dates as seconds since 1970, else NaN.

    With a format, only texts of this format are times; without a zone they are in UTC. Dates
    outside the years 1685 to 2254 are not times, such as 01/01/26 read as the year 1.
    """
    if time_format is not None:
        times = [_formatted(value.strip(), time_format) for value in values]
        return _plausible(np.array(times, np.float64))
    result = np.full(len(values), np.nan)
    unread = []
    for index, value in enumerate(values):
        try:
            result[index] = float(value) if "_" not in value else np.nan
        except ValueError:
            unread.append(index)
    result[~np.isfinite(result)] = np.nan
    if unread:
        texts = [_UTC.sub("Z", values[index].strip()) for index in unread]
        joined = pa.array([_BEFORE_OFFSET.sub("", text) for text in texts])
        result[unread] = _plausible(_dates(joined))
    return result


def _plausible(seconds: np.ndarray) -> np.ndarray:
    """Returns dates in seconds since 1970 [V], NaN if they are too far from 1970."""
    return np.where(np.abs(seconds) < _MAX_SECONDS, seconds, np.nan)


def _formatted(text: str, time_format: str) -> float:
    try:
        parsed = datetime.datetime.strptime(text, time_format)
    except ValueError:
        return float("nan")
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=datetime.UTC)).timestamp()


def _dates(texts: pa.Array) -> np.ndarray:
    for kind in _TIME_TYPES:
        try:
            return _seconds(texts.cast(kind))
        except pa.ArrowInvalid:
            continue
    if len(texts) == 1:
        return _patterned(texts)
    # The texts have several formats: each half is tried separately.
    half = len(texts) // 2
    return np.concatenate([_dates(texts.slice(0, half)), _dates(texts.slice(half))])


def _patterned(texts: pa.Array) -> np.ndarray:
    for pattern in _TIME_PATTERNS:
        stamps = pc.strptime(texts, pattern, "us", error_is_null=True)
        if not stamps.null_count:
            return _seconds(stamps)
    return np.full(len(texts), np.nan)


def _seconds(stamps: pa.Array) -> np.ndarray:
    in_microseconds = pa.timestamp("us", getattr(stamps.type, "tz", None))
    counted = stamps.cast(in_microseconds, safe=False)
    numbers = counted.cast(pa.int64()).cast(pa.float64(), safe=False)
    return numbers.to_numpy(zero_copy_only=False) / 1e6


def checked_splits(faults: RowFaults, name: str, column: pa.ChunkedArray) -> np.ndarray:
    """Returns the index in `SPLITS` of each row [B] uint8."""
    index = _parsed(
        faults,
        column,
        lambda value: _SPLIT_NAMES.get(value.strip().lower()),
        lambda value: f"{name} must be one of {list(SPLITS)}, got {value[:40]!r}",
    )
    return np.where(np.isnan(index), 255, index).astype(np.uint8)


def checked_positions(faults: RowFaults, name: str, column: pa.ChunkedArray) -> np.ndarray:
    """Returns positions as int32 [B].

    Raises:
        ValueError: The column holds times.
    """
    _refuse_times(name, column, "a whole number")
    positions = checked_numbers(faults, name, column)
    bad = ~((positions >= 0) & (positions < 2**31) & (positions == np.floor(positions)))
    faults.add(
        bad, lambda row: f"{name} must be a whole number of at least 0, got {positions[row]:g}"
    )
    return np.where(bad, 0, positions).astype(np.int32)
