"""The profile of a log over time: unit of its times, and rates per bin."""

import datetime
from collections.abc import Mapping, Sequence

import numpy as np

from tfrecords import columns, records
from tfrecords.card import model, statistics
from tfrecords.schema import LABELS

_DAY_SECONDS = 86_400.0
# Seconds since 1970 that Python can write as a date: the years 1 to 9999.
_FIRST, _LAST = -62_135_596_800, 253_402_300_799


def describe(profile: records.TimeProfile, by_unit: Mapping[str, int]) -> model.TimeSummary:
    """Describes rows and label rates over time; without times, no rows have a unit."""
    low, high = profile.low, profile.high
    unit = columns.unit_of(by_unit)
    edges = np.linspace(low, high, len(profile.rows) + 1).tolist()
    counts = profile.model_extra or {}
    rates = {
        label: [
            statistics.share(*counted)
            for counted in zip(counts[f"{label}_positive"], counts[f"{label}_known"], strict=True)
        ]
        for label in LABELS
        if f"{label}_known" in counts
    }
    return model.TimeSummary(
        by_time=profile.by_time,
        unit=unit,
        by_unit=dict(by_unit),
        low=low,
        high=high,
        edges=formatted(edges, unit),
        rows=profile.rows,
        rates=rates,
    )


def formatted(times: Sequence[float], unit: str | None) -> list[str]:
    """Formats times as UTC dates with a precision that fits their span, or as plain numbers."""
    seconds = [time / columns.UNITS_PER_SECOND[unit or "seconds"] for time in times]
    if unit is None or seconds[0] < _FIRST or seconds[-1] > _LAST:
        return [f"{time:,.6g}" if abs(time) < 1e6 else f"{time:,.0f}" for time in times]
    span = seconds[-1] - seconds[0]
    pattern = "%Y-%m-%d" if span > 5 * _DAY_SECONDS else "%Y-%m-%d %H:%M"
    pattern = pattern if span > 600 else "%Y-%m-%d %H:%M:%S"
    return [datetime.datetime.fromtimestamp(s, datetime.UTC).strftime(pattern) for s in seconds]
