"""Finds how a text file is written: with a header or not, and the format of numbers and times."""

import datetime
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from tfrecords.columns import (
    count_units,
    distinct,
    is_missing_number,
    is_text,
    number_fault,
    parse_times,
    plain_number,
)
from tfrecords.schema import texts_in_brackets
from tfrecords.schema_inference import known_names

_PROBED = 2_000
_FEW = 10
_DATES = (
    "%d.%m.%Y", "%d.%m.%y", "%d/%m/%Y", "%m/%d/%Y", "%d/%m/%y", "%m/%d/%y", "%y/%m/%d", "%Y/%m/%d",
    "%d-%m-%Y", "%m-%d-%Y", "%d-%m-%y", "%m-%d-%y", "%y-%m-%d", "%d %b %Y", "%d-%b-%Y",
    "%b %d, %Y", "%B %d, %Y", "%m %d, %Y", "%d %B %Y",
)  # fmt: skip
_CLOCKS = ("", *(f"{sep}{clock}" for sep in (" ", ", ") for clock in (
    "%H:%M:%S", "%H:%M", "%I:%M:%S %p", "%I:%M %p",
)))  # fmt: skip
_TIME_FORMATS = (
    *(f"{date}{clock}" for date in _DATES for clock in _CLOCKS),
    "%b %d, %Y @ %H:%M:%S.%f", "%Y-%m-%d %H:%M:%S,%f", "%d/%b/%Y:%H:%M:%S %z",
    "%a %b %d %H:%M:%S %z %Y", "%b %d %Y %I:%M%p", "%d-%b-%y %I.%M.%S.%f %p",
    "%a %b %d %H:%M:%S %Y", "%a, %d %b %Y %H:%M:%S %z", "%a, %d %b %Y %H:%M:%S GMT",
)  # fmt: skip
# All of these formats have four digits and a separator.
_DATE = re.compile(r"(?=.*[\s./-])(\D*\d){4}", re.DOTALL)
# An id with letters, such as B000052YNS.
_CODE = re.compile(r"(?=\D*\d)[A-Za-z0-9_-]{4,}")
# Dates as digits, by the number of digits.
_DIGITS = {
    8: ("%Y%m%d", "%y%m%d%H"),
    10: ("%Y%m%d%H",),
    12: ("%Y%m%d%H%M",),
    14: ("%Y%m%d%H%M%S",),
    17: ("%Y%m%d%H%M%S%f",),
}


def header(names: Sequence[str], below: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Returns names for a file whose first line is a row, or nothing if it is a header."""
    # Above a column of numbers or times, a header has a text; one such column shows a header.
    above = (
        fits([name])
        for name, values in zip(names, below, strict=True)
        for fits in (_are_numbers, _are_times)
        if name and fits(values)
    )
    if not (next(above, False) and all(above)):
        return ()
    found: list[str] = []
    for number, (name, values) in enumerate(zip(names, below, strict=True), 1):
        kind = _content([name, *values])
        if kind == "id":
            kind = next((n for n in ("user_id", "item_id", "category_id") if n not in found), kind)
        items = found.index("item_id") if "item_id" in found else -1
        if kind == "category_id" and not _is_function(
            [name, *values], [names[items], *below[items]]
        ):
            # Not a property of the items: how often a user chose one, or a code.
            is_count = _are_numbers(values) and len(set(values)) > _FEW
            kind = "count" if is_count else "column"
        found.append(kind if kind not in (*found, "column", "id") else f"column_{number}")
    if "user_id" in found and "item_id" not in found:
        # A title may identify the items: the text with the most values.
        texts = {
            n: len(set(below[n]))
            for n, name in enumerate(names)
            if found[n].startswith("column_") and number_fault("", name) is not None
        }
        if texts:
            found[max(texts, key=texts.__getitem__)] = "item_id"
    return tuple(found)


def _are_numbers(values: Sequence[str]) -> bool:
    """Returns whether there are known texts and all of them are numbers."""
    known = [value for value in values if not is_missing_number(value)]
    return bool(known) and all(number_fault("", value) is None for value in known)


def _are_times(values: Sequence[str]) -> bool:
    """Returns whether there are known texts and all of them are times, not numbers."""
    values = [value for value in values if not is_missing_number(value)]
    if not values or number_fault("", values[0]) is None:
        return False
    # The first texts suffice to reject most columns.
    for known in (values[:_FEW], values):
        best = time_format(known, np.ones(len(known)))
        if np.isnan(parse_times(known, best)).any():
            return False
    return True


def _is_function(values: Sequence[str], items: Sequence[str]) -> bool:
    """Returns whether nearly all rows have the value that their item had first."""
    first = dict(zip(reversed(items), reversed(values), strict=True))
    matches = [first[item] == value for item, value in zip(items, values, strict=True)]
    return float(np.mean(matches)) > 1 - known_names.MAX_REJECTED


def _content(values: Sequence[str]) -> str:
    """Returns what a column has: `request_id`, `time`, `rating`, `label`, `id` or `column`."""
    texts = [value for value in values if value]
    numbers = [float(text) for text in texts if number_fault("", text) is None]
    if len(numbers) < len(texts):
        if _are_times(texts):
            return "time"
        return "id" if all(_CODE.fullmatch(text) for text in texts) else "column"
    low, high = min(numbers, default=0), max(numbers, default=0)
    if low >= 9e8 and high <= 3e18:
        return "time"
    whole = all(number == int(number) for number in numbers)
    if set(numbers) == {0, 1}:
        return "label"
    if low >= 0.5 and high <= 10 and 3 <= len(set(numbers)) <= 10 and len(texts) > 20:
        return "rating"
    if whole and len(texts) > 20 and bool((np.diff(numbers) > 0).all()):
        return "request_id"
    return "id" if whole and low < high else "column"


def repeated_headers(rows: pa.Table, names: Sequence[str]) -> np.ndarray:
    """Returns which rows [B] repeat the header, as where files were joined by `cat`."""
    found = np.ones(rows.num_rows, bool)
    for name in names:
        if not found.any() or not is_text(rows[name]):
            return np.zeros(rows.num_rows, bool)
        values, codes = distinct(rows[name])
        found &= np.array([value.strip() == name for value in values], bool)[codes]
    return found


def time_format(values: Sequence[str], counts: np.ndarray) -> str | None:
    """Returns the format of most known times [V]; None: numbers, ISO 8601 or no times."""
    if not values:
        return None
    step = -(-len(values) // _PROBED)
    probe = values[::step]
    formats = _time_formats(probe, counts[::step])
    if formats:
        return formats[0]
    if not any(value.isdecimal() and len(value) in _DIGITS for value in probe):
        return None
    times = [value for value, time in zip(probe, parse_times(probe), strict=True) if time == time]
    return _format_of_digits(times)


def _time_formats(values: Sequence[str], weights: np.ndarray) -> list[str]:
    """Returns the formats that read the most rows, the most plausible first.

    Day and month may both be up to 12. A log is usually written in order and often, so the most
    plausible format is the one in which subsequent times are closest.
    """
    rejected: dict[str | None, float] = {}
    steps: dict[str | None, float] = {}
    first = values[:20]
    are_dates = 2 * sum(_DATE.match(value) is not None for value in first) >= len(first)
    for candidate in (None, *(_TIME_FORMATS if are_dates else ())):
        if np.isnan(parse_times(first, candidate)).mean() > 0.5:
            continue
        times = parse_times(values, candidate)
        is_odd = np.isnan(times)
        rejected[candidate] = float(weights[is_odd].sum())
        steps[candidate] = float(np.abs(np.diff(times[~is_odd])).sum())
        if candidate is None and rejected[candidate] == 0:
            return []
    fewest = min(rejected.values(), default=np.inf)
    if fewest > known_names.MAX_REJECTED * weights.sum() or rejected.get(None) == fewest:
        return []
    best = [name for name, number in rejected.items() if name and number == fewest]
    return sorted(best, key=steps.__getitem__)


def ambiguity(values: Sequence[str], chosen: str) -> str:
    """Returns a note on a date that a format other than the chosen one reads differently, or ""."""
    probe = values[:: -(-len(values) // _PROBED) or 1]
    for other in _time_formats(probe, np.ones(len(probe))):
        times = parse_times(probe, chosen), parse_times(probe, other)
        differs = np.flatnonzero(times[0] != times[1])
        if len(differs):
            row = differs[0]
            dates = [_day(time[row]) for time in times]
            return (
                f"{probe[row]!r} can be {dates[0]} or {dates[1]}; it is read as {dates[0]}. Change "
                "time_format if this is wrong."
            )
    return ""


def _day(seconds: float) -> str:
    date = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{date:%B} {date.day}, {date.year}"


def are_lists(values: Sequence[str]) -> bool:
    """Returns whether all non-empty values of a column are lists, such as `['a', 'b']`."""
    known = [value for value in values[:: -(-len(values) // _PROBED) or 1] if value]
    return bool(known) and all(texts_in_brackets(value) is not None for value in known)


def _format_of_digits(values: Sequence[str]) -> str | None:
    """Returns the format of dates from 1990 to 2100 as digits, or None."""
    lengths = {len(value) for value in values}
    candidates = _DIGITS.get(lengths.pop(), ()) if len(lengths) == 1 else ()
    if not all(value.isdecimal() for value in values):
        return None
    in_range = {c: count_units(parse_times(values, c))["seconds"] for c in candidates}
    return next((c for c, number in in_range.items() if number == len(values)), None)


def decimal(columns: Mapping[str, tuple[Sequence[str], bool]]) -> tuple[str | None, list[str]]:
    """Finds the decimal sign of formatted numbers, such as `€1,234.50`.

    Args:
        columns: Known texts of each column, and whether it holds lists or a key by its name.

    Returns:
        The decimal sign, or None if numbers are plain; and the columns that hold such numbers.
    """
    votes: dict[str, list[str]] = {".": [], ",": []}
    for name, (values, is_other) in columns.items():
        probe = values[:: -(-len(values) // _PROBED) or 1]
        formatted = [sign for sign in votes if any(is_formatted(value, sign) for value in probe)]
        if is_other or not formatted or are_codes(probe):
            continue
        groups = all(re.fullmatch(r"[+-]?\d{1,3}([.,]\d{3})*", value.strip()) for value in probe)
        if groups:
            if thousands := _thousands(probe):
                votes["." if thousands == "," else ","].append(name)
            continue
        fits = [s for s in formatted if np.mean([_is_number(v, s) for v in probe]) > 0.95]
        if fits:
            votes[fits[0]].append(name)
    if not votes["."] and not votes[","]:
        return None, []
    sign = "," if len(votes[","]) >= len(votes["."]) else "."
    return sign, votes[sign]


def are_codes(values: Sequence[str]) -> bool:
    """Returns whether texts such as `12,65` are lists of codes, not numbers with decimal commas.

    Codes have no leading zeros, and nearly all of them also occur before a comma.
    """
    pairs = [match for value in values if (match := re.fullmatch(r"(\d+),(\d+)", value.strip()))]
    before = {match[1] for match in pairs}.union(values)
    after = {match[2] for match in pairs}
    padded = any(re.match(r"0\d", code) for code in after)
    return len(after) >= _FEW and not padded and len(after & before) > 0.8 * len(after)


def _thousands(values: Sequence[str]) -> str | None:
    """Returns the sign that separates thousands, or None if values such as 12,345 may be lists.

    Some numbers are below 1,000 and some begin with one or two digits, unlike lists of parts of
    three digits.
    """
    texts = [value.strip().lstrip("+-") for value in values]
    signs = {sign for text in texts for sign in ".," if sign in text}
    is_number = any(text.isdigit() for text in texts) and all(
        re.fullmatch(r"0|[1-9].*", text) for text in texts
    )
    is_short = any(re.match(r"\d{1,2}[.,]", text) for text in texts)
    return signs.pop() if len(signs) == 1 and is_number and is_short else None


def currencies(values: Sequence[str]) -> list[str]:
    """Returns the currencies of amounts such as `€5` and `5 USD`, each once."""
    marks = dict.fromkeys(re.sub(r"[\d\s.,'’()+−-]", "", value) for value in values)
    return [mark for mark in marks if mark]


def is_formatted(text: str, sign: str) -> bool:
    """Returns whether a text is a formatted number, such as `€1,234.50`, not a plain one."""
    return number_fault("", text) is not None and plain_number(text, sign) is not None


def _is_number(text: str, sign: str) -> bool:
    return is_missing_number(text) or plain_number(text, sign) is not None


def in_digits(values: Sequence[str], sign: str) -> list[str]:
    """Returns texts, with formatted numbers as plain ones."""
    return [plain_number(value, sign) or value for value in values]


def texts_of(column: pa.ChunkedArray) -> list[str]:
    """Returns the first texts of a column."""
    return [str(value) for value in column.slice(0, _PROBED).to_pylist() if value is not None]
