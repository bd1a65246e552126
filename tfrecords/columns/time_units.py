"""The unit of times given as plain numbers."""

import datetime

# Times since 1970 are taken for dates between these, in any of the units.
_EARLIEST = datetime.datetime(1990, 1, 1, tzinfo=datetime.UTC).timestamp()
_LATEST = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC).timestamp()
UNITS_PER_SECOND = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}


def unit_of_times(low: float, high: float) -> str | None:
    """Returns the unit that makes both times since 1970 in 1990 to 2100; None: none does."""
    for unit, per_second in UNITS_PER_SECOND.items():
        if low / per_second >= _EARLIEST and high / per_second <= _LATEST:
            return unit
    return None


def units_per_second(low: float, high: float) -> float:
    """Returns how many of their units make a second; plain numbers are taken for seconds."""
    unit = unit_of_times(low, high)
    return UNITS_PER_SECOND[unit] if unit else 1.0
