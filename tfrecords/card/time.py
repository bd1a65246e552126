"""The profile of a log over time: unit of its times, and rates per bin."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfrecords import columns
from tfrecords.card import model, statistics

_DAY_SECONDS = 86_400.0


def describe(profile: Mapping[str, Any]) -> model.TimeSummary:
    """Describes rows and label rates over time.

    Args:
        profile: The `time` entry of `profile.json`.
    """
    low, high = float(profile["low"]), float(profile["high"])
    unit = columns.unit_of_times(low, high) if profile["by_time"] else None
    edges = np.linspace(low, high, len(profile["rows"]) + 1).tolist()
    rates = {}
    for label in ("click", "engagement"):
        if f"{label}_known" in profile:
            counts = zip(profile[f"{label}_positive"], profile[f"{label}_known"], strict=True)
            rates[label] = [statistics.share(positive, known) for positive, known in counts]
    return model.TimeSummary(
        by_time=profile["by_time"],
        unit=unit,
        low=low,
        high=high,
        edges=formatted(edges, unit),
        rows=profile["rows"],
        rates=rates,
    )


def formatted(times: Sequence[float], unit: str | None) -> list[str]:
    """Formats times as UTC dates with a precision that fits their span, or as plain numbers."""
    if unit is None:
        return [f"{time:,.6g}" if abs(time) < 1e6 else f"{time:,.0f}" for time in times]
    seconds = [time / columns.UNITS_PER_SECOND[unit] for time in times]
    span = seconds[-1] - seconds[0]
    pattern = "%Y-%m-%d" if span > 5 * _DAY_SECONDS else "%Y-%m-%d %H:%M"
    pattern = pattern if span > 600 else "%Y-%m-%d %H:%M:%S"
    return [datetime.datetime.fromtimestamp(s, datetime.UTC).strftime(pattern) for s in seconds]
