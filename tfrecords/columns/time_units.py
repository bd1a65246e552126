"""Units of times that are plain numbers.

The dates from 1990 to 2100 are different numbers in each unit, so a number reveals its unit. The
unit of a log is the unit of most of its rows: a few wrong times do not change it.

Shapes: B rows of a chunk.
"""

import datetime
from collections.abc import Mapping

import numpy as np

# Numbers are times since 1970 if they are dates between these in one of the units.
_EARLIEST = datetime.datetime(1990, 1, 1, tzinfo=datetime.UTC).timestamp()
_LATEST = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC).timestamp()
UNITS_PER_SECOND = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
# Numbers without a unit: dates as digits, such as 20241231 or 20241231170500, and all others.
DIGITS, OTHERS = "digits", "others"
_BELOW_DAY = (1.0, 1e4, 1e6)


def count_units(times: np.ndarray) -> dict[str, int]:
    """Counts times [B] by the unit in which they are dates since 1970, `DIGITS` or `OTHERS`."""
    counts = {unit: int(_are_dates(times, unit).sum()) for unit in UNITS_PER_SECOND}
    counts[DIGITS] = int(_are_digits(times).sum())
    counts[OTHERS] = len(times) - sum(counts.values())
    return counts


def unit_of(counts: Mapping[str, int]) -> str | None:
    """Returns the unit of most times, given the result of `count_units`; None: most have none."""
    most = max((*UNITS_PER_SECOND, DIGITS, OTHERS), key=lambda unit: counts.get(unit, 0))
    return most if most in UNITS_PER_SECOND and counts.get(most) else None


def units_per_second(counts: Mapping[str, int]) -> float:
    """Returns how many of its units a second has; times of a log without a unit are seconds."""
    return UNITS_PER_SECOND[unit_of(counts) or "seconds"]


def in_seconds(times: np.ndarray) -> np.ndarray:
    """Returns times [B] in seconds, each from the unit in which it is a date; others are seconds.

    The result does not depend on the other rows, as the unit of a log does.
    """
    seconds = times
    for unit, per_second in UNITS_PER_SECOND.items():
        seconds = np.where(_are_dates(times, unit), times / per_second, seconds)
    return seconds


def _are_dates(times: np.ndarray, unit: str) -> np.ndarray:
    per_second = UNITS_PER_SECOND[unit]
    return (times >= _EARLIEST * per_second) & (times <= _LATEST * per_second)


def _are_digits(times: np.ndarray) -> np.ndarray:
    """Returns whether times [B] are years, months and days as digits, perhaps with a time of day.

    None of these numbers is a date since 1970 in any unit.
    """
    found = np.zeros(len(times), bool)
    for below in _BELOW_DAY:
        day = np.floor(times / below)
        year, month, day = day // 10_000, day // 100 % 100, day % 100
        is_date = (year >= 1990) & (year < 2100) & (month >= 1) & (month <= 12)
        found |= is_date & (day >= 1) & (day <= 31)
    return found & (times == np.floor(times))
