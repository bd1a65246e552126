"""Finds the time column of a log."""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from tfrecords.columns import UNITS_PER_SECOND, count_units, parse_times, unit_of
from tfrecords.schema_inference import known_names
from tfrecords.schema_inference.sample import log_sample
from tfrecords.schema_inference.sample.log_sample import Column

_PROBED = 50
_DAY = 86_400
# Days since 1900 from 1954 to 2119.
_SERIAL_DATES = (20_000, 80_000)
# Formats of times of day.
_CLOCKS = ("%H:%M:%S", "%H:%M", "%H:%M:%S.%f", "%I:%M:%S %p", "%I:%M %p")
# Numbers such as 1231 are months and days if all of at least this many values can be.
_MIN_DATES = 10
# The end of a time whose zone is known.
_OFFSET = re.compile(r"([zZ]|UTC|GMT|[+-]\d\d:?\d\d)$")
# The name of a zone after a time of day or its offset: CEST, Europe/Zurich or [Europe/Zurich].
_ZONE = re.compile(
    r"\d:\d\d(?:[.,]\d+)?(?P<offset>[zZ]|\s?[+-]\d\d:?\d\d)?\s*"
    r"(?P<name>\[[^]]+]|[A-Z]{3,5}\b|[A-Z][a-z]+/[A-Za-z_/]+)"
)
_YEAR = re.compile(r"(?<!\d)(19|20)\d\d")
# Larger than the nanoseconds of any date.
_LATEST = 1e20
# Units of counted time, the shortest first, with the factors that convert them to days in pandas.
_UNITS = {"day": "", "week": "7 * ", "month": "30 * "}
# Rank correlation of a date with the row numbers, above which it follows the time.
_MIN_CORRELATION = 0.9


def find(
    columns: Sequence[Column], keys: Sequence[Column | None], notes: list[str]
) -> Column | None:
    """Returns the time column, or None; adds notes about unsuitable columns."""
    named = [c for c in columns if c.plain_words in known_names.TIMES]
    named.sort(key=lambda c: known_names.TIMES.index(c.plain_words))
    ending = [c for c in columns if not known_names.TIME_WORDS.isdisjoint(c.words[-1:])]
    # A time of a warehouse's job is the same for events of hours or days.
    ending.sort(key=lambda c: not known_names.JOBS.isdisjoint(c.words))
    lacking: list[Column] = []
    for column in {c.name: c for c in (*named, *ending, *columns)}.values():
        if not column.known or column.is_list or column.missing_share > 0.5:
            continue
        missing = column.missing_share
        if column in [*named, *ending] and _are_serial_dates(column):
            values = f"log[{column.name!r}]"
            notes.append(
                f"! {column.name!r} is not the time, because its numbers such as "
                f"{column.known[0][:20]} are days since 1900, as Excel counts them. If it is the "
                f"time, write dates before the conversion, for example with pandas: {values} = "
                f'pd.to_datetime({values}, unit="D", origin="1899-12-30")'
            )
            continue
        if is_clock(column, column in named) and (column in named or not is_date_of(column, keys)):
            if missing > known_names.MAX_REJECTED:
                lacking.append(column)
                continue
            if missing > 0:
                notes.append(
                    f"{log_sample.percent(missing, 2)} of the rows "
                    f"lack {column.name!r} and are rejected."
                )
            if _are_months_and_days(column):
                values = f"log[{column.name!r}]"
                notes.append(
                    f"! {column.name!r} has a month and a day such as {column.known[0]}, which "
                    "count as seconds: the order is right within a year, but ages are not. "
                    "Write dates before the conversion, for example with pandas, with the right "
                    f'year: {values} = pd.to_datetime("2000" + {values}.astype(str).str.zfill(4))'
                )
            elif (
                column.is_numeric
                and column.time_format is None
                and unit_of(count_units(column.numbers)) is None
            ):
                notes.append(
                    f"The numbers of {column.name!r} such as {column.known[-1][:20]} are not "
                    "dates. They count as seconds; if they are hours or days, multiply them by "
                    "3600 or 86400 before the conversion, because ages depend on it."
                )
            elif not column.is_numeric and column.time_format is None:
                notes += _zone_notes(column)
            return _with_hours(column, [*named, *ending, *columns])
        bad = _unread(column)
        if bad is not None and (column in named or are_unread(column, keys)):
            notes.append(_unread_note(column.name, bad))
    notes += [
        f"{column.name!r} is not the time, because {column.missing_share:.1%} of the rows lack it "
        "and would be rejected. Complete it or remove these rows; or set time in the schema, and "
        f"convert with --max_rejected_fraction={math.ceil(100 * column.missing_share) / 100:g}."
        for column in lacking
    ]
    return None


def are_unread(column: Column, keys: Sequence[Column | None]) -> bool:
    """Returns whether texts are times that are not read, by the name and years such as 2024.

    Dates of each ad or user do not count.
    """
    is_named = column.plain_words in known_names.TIMES
    if not is_named and known_names.TIME_WORDS.isdisjoint(column.words[-1:]):
        return False
    have_years = any(_YEAR.search(text) for text in column.known[:_PROBED])
    if not have_years or _unread(column) is None:
        return False
    return not any(key and log_sample.is_constant_per_ad(column, key) for key in keys)


def _unread(column: Column) -> str | None:
    """Returns the first text that is not a time, or None if all are or the values are no texts."""
    if column.is_numeric or column.is_list or clock_format(column) is not None:
        return None
    unread = np.flatnonzero(np.isnan(column.times))
    return column.known[int(unread[0])] if len(unread) else None


def _unread_note(name: str, bad: str) -> str:
    """Returns a note on a column that is named like a time, but has a value that is none."""
    if zone := _ZONE.search(bad):
        offset, values = "" if zone["offset"] else "+02:00", f"log[{name!r}]"
        return (
            f"! {name!r} is not the time, because names of zones such as {zone['name']!r} are not "
            "read. Write offsets from UTC before the conversion, for example with pandas, with the "
            f"right offset: {values} = {values}.str.replace({zone['name']!r}, {offset!r})"
        )
    return (
        f"{name!r} is not the time, because {bad[:40]!r} is neither a number nor an ISO 8601 time. "
        "If it is the time, set time and time_format in the schema."
    )


def _zone_notes(time: Column) -> list[str]:
    """Returns a note if only some of the times have an offset from UTC."""
    by_zone = {bool(_OFFSET.search(text.strip())): text[:40] for text in time.known}
    if len(by_zone) < 2:
        return []
    return [
        f"! Some times of {time.name!r} have an offset, such as {by_zone[True]!r}, and others, "
        f"such as {by_zone[False]!r}, count as UTC. If these are local times, the order of the "
        "rows and ages are wrong: write all with their offset."
    ]


def _with_hours(date: Column, columns: Sequence[Column]) -> Column:
    """Returns a time within a day or so of a date in nearly all rows, or the date if none is."""
    days = seconds(date)
    if days is None or not are_days(date):
        return date
    at_midnight = date.by_row(days)
    for column in columns:
        if column.is_list or column.missing_share > date.missing_share or not column.known:
            continue
        if not known_names.JOBS.isdisjoint(column.words) or not is_clock(column, is_named=False):
            continue
        at = seconds(column)
        if at is None or are_days(column):
            continue
        if float(np.mean(np.abs(column.by_row(at) - at_midnight) < 2 * _DAY)) > 0.99:
            return column
    return date


def _are_serial_dates(column: Column) -> bool:
    """Returns whether numbers are days since 1900: with fractions, or of a column of days."""
    if not column.is_numeric or column.time_format is not None:
        return False
    low, high = _SERIAL_DATES
    in_range = low <= column.numbers.min() and column.numbers.max() <= high
    is_of_days = not {"date", "day", "datum"}.isdisjoint(column.words)
    return bool(in_range) and (is_of_days or not column.is_whole)


def _are_months_and_days(column: Column) -> bool:
    """Returns whether numbers are months and days such as 1231."""
    if not column.is_whole or column.time_format is not None:
        return False
    months, days = np.divmod(column.numbers, 100)
    in_range = (months >= 1) & (months <= 12) & (days >= 1) & (days <= 31)
    return bool(in_range.all()) and len(column.known) >= _MIN_DATES


def clock_format(column: Column) -> str | None:
    """Returns the format of times of day such as `17:05`, or None."""
    if column.is_numeric or column.is_list or not column.known:
        return None
    probed = column.known[:_PROBED]
    fitting = (c for c in _CLOCKS if not np.isnan(parse_times(probed, c)).any())
    return next(fitting, None)


def split_notes(time: Column | None, columns: Sequence[Column]) -> list[str]:
    """Returns a note if the date and the time of day are in two columns."""
    if time is not None and not are_days(time):
        return []
    clocks = {c.name: clock_format(c) for c in columns}
    hours = [c for c in columns if _is_hour(c)]
    found = next((c for c in columns if clocks[c.name] is not None), next(iter(hours), None))
    if found is None or (time is None and clocks[found.name] is None):
        return []
    if time is None:
        return [
            f"! {found.name!r} holds times of day without a date, such as {found.known[0][:40]!r}, "
            "so it is not the time. Add the date to it."
        ]
    date, clock = f"log[{time.name!r}].astype(str)", clocks[found.name]
    time_of_day = f"log[{found.name!r}].astype(str)"
    if time.time_format is not None:
        joint_format = f"{time.time_format} {clock or '%H'}"
        time_of_day += f", format={joint_format!r}"
    elif clock is None:
        time_of_day += ' + ":00"'
    return [
        f"! The time is split over {time.name!r} and {found.name!r}. Only {time.name!r} is used, "
        "so times within a day are lost. Join both into one column before the conversion, for "
        f'example with pandas: log["time"] = pd.to_datetime({date} + " " + {time_of_day})'
    ]


def counter_notes(columns: Sequence[Column]) -> list[str]:
    """Returns a note on the column of a log without a time that counts days, weeks or months."""
    # The first column of each unit.
    counters = {counted_unit(column, None): column for column in reversed(columns)}
    unit = next((unit for unit in _UNITS if unit in counters), None)
    if unit is None:
        return []
    column = counters[unit]
    values = f"log[{column.name!r}]"
    return [
        f"! {column.name!r} is not the time, because its numbers such as {column.known[0]} are not "
        f"dates. If it counts {unit}s, write dates before the conversion, for example with pandas: "
        f'{values} = pd.to_datetime({_UNITS[unit]}{values}, unit="D", origin="2000-01-01")'
    ]


def counted_unit(column: Column, time: Column | None) -> str | None:
    """Returns the unit that a column counts, `day`, `week` or `month`, or None.

    The numbers follow the time of the log. If it is unknown, they must never fall.
    """
    unit = next((unit for unit in _UNITS if unit in column.words), None)
    if unit is None or not column.is_whole or _are_serial_dates(column):
        return None
    if not follows(column, time):
        return None
    rises = time is not None or bool((np.diff(column.by_row(column.numbers)) >= 0).all())
    return unit if rises else None


def are_days(time: Column) -> bool:
    """Returns whether times are dates without a time of day."""
    at = seconds(time)
    return at is not None and bool((at[~np.isnan(at)] % _DAY == 0).all())


def _is_hour(column: Column) -> bool:
    is_named = not known_names.HOURS.isdisjoint(column.words)
    return is_named and column.is_whole and 0 <= column.numbers.min() <= column.numbers.max() < 24


def is_clock(column: Column, is_named: bool) -> bool:
    """Returns whether values are dates or epochs, or numbers of a column named like a time."""
    if column.is_time or column.time_format is not None:
        return True
    probed = parse_times(column.known[:_PROBED], column.time_format)
    if np.isnan(probed).any() or np.isnan(column.times).any():
        return False
    if not column.is_numeric:
        are_times = float(np.abs(column.times).max()) < _LATEST
        return are_times and (len(column.known) > 1 or is_named)
    hashed = column.words[-1:] in (("id",), ("key",), ("hash",))
    is_epoch = _are_epochs(column) and len(column.known) > 2 and not hashed
    is_counter = float(column.numbers.max()) > 1000 or _rises(column)
    return (is_named and is_counter) or is_epoch


def _rises(column: Column) -> bool:
    """Returns whether numbers count up from 0 in the order of the rows, such as hours.

    Columns of days or dates are left to `counter_notes`.
    """
    numbers = column.by_row(column.numbers)
    is_date = {"time", "timestamp", "ts", "at"}.isdisjoint(column.words[-1:])
    if is_date or len(column.known) < _MIN_DATES or np.isnan(numbers).any():
        return False
    return bool(numbers[0] <= 1 and (np.diff(numbers) >= 0).all())


def is_date_of(column: Column, keys: Sequence[Column | None], time: Column | None = None) -> bool:
    """Returns whether a column is a date of each ad or user, such as a release or a signup.

    A date that follows the time does not count, even if each user comes on one day only. If the
    time of the log is unknown, its rows may be in time order.
    """
    if len(column.known) < 2 or follows(column, time):
        return False
    for key in keys:
        if key is None:
            continue
        rows = np.arange(len(key.codes))
        if time is None:  # Adjacent rows may be of one request, which has one time.
            rows = rows[np.append(True, key.codes[1:] != key.codes[:-1])]
        sampled, sampled_key = (dataclasses.replace(c, codes=c.codes[rows]) for c in (column, key))
        if log_sample.is_constant_per_ad(sampled, sampled_key):
            return True
    return False


def follows(column: Column, time: Column | None) -> bool:
    """Returns whether times, or other numbers, rise or fall with the time of the log."""
    dates = column.by_row(column.times)
    order = np.arange(len(dates))
    if time is not None:
        order = np.argsort(time.by_row(time.times), kind="stable")
    dates = dates[order]
    ranks = np.unique(dates[~np.isnan(dates)], return_inverse=True)[1]
    if len(ranks) == 0 or ranks.max() == 0:
        return False
    return bool(abs(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]) > _MIN_CORRELATION)


def seconds(column: Column) -> np.ndarray | None:
    """Returns the known times [V] in seconds, or None if not all of them are dates."""
    if not column.is_numeric or column.time_format is not None:
        return column.times
    counts = count_units(column.numbers)
    unit = unit_of(counts)
    if unit is None or counts[unit] < len(column.numbers):
        return None
    return column.numbers / UNITS_PER_SECOND[unit]


def _are_epochs(column: Column) -> bool:
    """Returns whether numbers are dates of the years 2000 to 2040 in one unit."""
    low, high = float(column.numbers.min()), float(column.numbers.max())
    return any(9.4e8 * u <= low and high <= 2.3e9 * u for u in UNITS_PER_SECOND.values())
