"""The profile of a log over time: unit of its times, and rates per bin.

Shapes: T bins.
"""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfrecords import columns

_DAY_SECONDS = 86_400.0


def describe(profile: Mapping[str, Any]) -> dict[str, Any]:
    """Describes rows and label rates over time.

    Args:
        profile: The `time` entry of `profile.json`.

    Returns:
        JSON values: `unit` of times since 1970, or None for plain numbers; `low` and `high`, the
        first and last time; `edges` of the bins as text; `rows` of each bin [T]; and `rates` of
        each label [T], None if no row of the bin has the label.
    """
    low, high = float(profile["low"]), float(profile["high"])
    unit = columns.unit_of_times(low, high) if profile["by_time"] else None
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


def formatted(times: Sequence[float], unit: str | None) -> list[str]:
    """Formats times as UTC dates with a precision that fits their span, or as plain numbers."""
    if unit is None:
        return [f"{time:,.6g}" if abs(time) < 1e6 else f"{time:,.0f}" for time in times]
    seconds = [time / columns.UNITS_PER_SECOND[unit] for time in times]
    span = seconds[-1] - seconds[0]
    pattern = "%Y-%m-%d" if span > 5 * _DAY_SECONDS else "%Y-%m-%d %H:%M"
    pattern = pattern if span > 600 else "%Y-%m-%d %H:%M:%S"
    return [datetime.datetime.fromtimestamp(s, datetime.UTC).strftime(pattern) for s in seconds]


def _rates(positive: Sequence[int], known: Sequence[int]) -> list[float | None]:
    return [p / k if k else None for p, k in zip(positive, known, strict=True)]
