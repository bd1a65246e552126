"""The profile of a log over time: which unit its times have, and rates of its bins.

Shapes: T bins.
"""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Times since 1970 are taken for dates between these, in any of the units.
_EARLIEST = datetime.datetime(1990, 1, 1, tzinfo=datetime.UTC).timestamp()
_LATEST = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC).timestamp()
_PER_SECOND = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
_DAY_SECONDS = 86_400.0


def describe(profile: Mapping[str, Any]) -> dict[str, Any]:
    """Describes rows and label rates over time.

    Args:
        profile: The `time` entry of `profile.json`.

    Returns:
        JSON values: `unit` of time since 1970, or None for plain numbers; `low`, `high` and
        `labels` of where the log begins and ends; and per bin `rows` [T] and of each label its
        rate [T], None where no row has the label.
    """
    low, high = float(profile["low"]), float(profile["high"])
    unit = unit_of(low, high) if profile["by_time"] else None
    edges = np.linspace(low, high, len(profile["rows"]) + 1).tolist()
    return {
        "by_time": profile["by_time"],
        "unit": unit,
        "low": low,
        "high": high,
        "edges": formatted(edges, unit),
        "rows": profile["rows"],
        "rates": {
            label: _rates(profile[f"{label}_positive"], profile[f"{label}_known"])
            for label in ("click", "engagement")
            if f"{label}_known" in profile
        },
    }


def unit_of(low: float, high: float) -> str | None:
    """Returns the unit that makes both times since 1970 in 1990 to 2100; None: none does."""
    for unit, per_second in _PER_SECOND.items():
        if low / per_second >= _EARLIEST and high / per_second <= _LATEST:
            return unit
    return None


def per_second(low: float, high: float) -> float:
    """Returns how many of their units make a second; plain numbers are taken for seconds."""
    unit = unit_of(low, high)
    return _PER_SECOND[unit] if unit else 1.0


def formatted(times: Sequence[float], unit: str | None) -> list[str]:
    """Returns times as UTC dates, as precise as their span asks for; or as plain numbers."""
    if unit is None:
        return [f"{time:,.6g}" if abs(time) < 1e6 else f"{time:,.0f}" for time in times]
    seconds = [time / _PER_SECOND[unit] for time in times]
    span = seconds[-1] - seconds[0]
    pattern = "%Y-%m-%d" if span > 5 * _DAY_SECONDS else "%Y-%m-%d %H:%M"
    pattern = pattern if span > 600 else "%Y-%m-%d %H:%M:%S"
    return [datetime.datetime.fromtimestamp(s, datetime.UTC).strftime(pattern) for s in seconds]


def _rates(positive: Sequence[int], known: Sequence[int]) -> list[float | None]:
    return [p / k if k else None for p, k in zip(positive, known, strict=True)]
