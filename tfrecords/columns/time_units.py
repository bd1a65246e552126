"""Units of times that are plain numbers."""

import datetime

# Numbers are times since 1970 if they are dates between these in one of the units.
_EARLIEST = datetime.datetime(1990, 1, 1, tzinfo=datetime.UTC).timestamp()
_LATEST = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC).timestamp()
UNITS_PER_SECOND = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}


def unit_of_times(low: float, high: float) -> str | None:
    """Returns the unit in which both times since 1970 are in 1990 to 2100, or None."""
    for unit, per_second in UNITS_PER_SECOND.items():
        if low / per_second >= _EARLIEST and high / per_second <= _LATEST:
            return unit
    return None


def units_per_second(low: float, high: float) -> float:
    """Returns how many of their units a second has; other plain numbers are seconds."""
    unit = unit_of_times(low, high)
    return UNITS_PER_SECOND[unit] if unit else 1.0
