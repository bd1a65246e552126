"""Rates: the recent click or engagement rate of ads with a value, or its age, as fields of the ad.

    {"name": "category_click_rate", "kind": "numeric", "of": "category", "event": "click",
     "max_age_days": 7}

A rate is never read from the log: conversion computes it for each row, of the impressions before
the row's request. Tastes and seasons change, so a rate gives a model information that it could not
learn from older rows. The rules:

-   It belongs to a value of an ad-side categorical field, or to the ad itself (`of` is `ad`).
-   Impressions strictly before the request count that are at most `max_age_days` old and have a
    label of the event. A value without such impressions has no rate: it is missing.
-   A click or engagement counts from the time of its impression or, in a log of events, from its
    own time. So more events than impressions may be recent; a rate is at most 1.
-   With an engagement window, a rate of engagements counts an impression and its engagement once
    the window of the impression has passed.
-   The rate of impressions is an age instead: the days from the value's first impression, with or
    without labels, to the request. A value that was never shown before has no age.
-   A rate is smoothed: `SMOOTHING` impressions with the rate of the whole training log are added.
-   Models are measured with catalog rates at the time of the last request that is not a test
    request: in a log that is split by time, they do not contain test labels. A release has the
    rates at the end of the log. Rows without a label, and times far beyond nearly all other rows,
    do not affect these times.
-   The ranker reads rates. The towers do not: the catalog's rates count the clicks that they learn
    from, and an index would keep old ones. They learn the effect of rates from the ranker.

The impressions and the events of a value are sorted by time, as `user_events` sorts a user's
events, so that two binary searches count the ones before a request.

Shapes: B rows.

References:
    Chapelle, Manavoglu and Rosales, Simple and Scalable Response Prediction for Display
    Advertising, 2014, §3.5 (counts of past events as features).
    He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, 2014, §5.3 (historical
    features matter more than contextual ones).
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from tfrecords import files
from tfrecords.conversion import user_events
from tfrecords.conversion.parsed_rows import EVENT_TIMES, LABEL_COLUMNS, TIME, USER, Rows
from tfrecords.histories import SECONDS_PER_DAY
from tfrecords.schema import IMPRESSION, LABELS, MISSING_LABEL, Field

SMOOTHING = 50.0
_IMPRESSIONS, _EVENTS, _OVERALL = "impressions", "events", "overall.json"


def smoothed_rates(events: np.ndarray, impressions: np.ndarray, overall: float) -> np.ndarray:
    """Returns rates, float64 of any shape; NaN without impressions.

    Args:
        events: Numbers of events.
        impressions: Numbers of impressions, of the same shape.
        overall: The rate of all impressions in training.
    """
    rates = (events + SMOOTHING * overall) / (impressions + SMOOTHING)
    return np.where(impressions > 0, np.minimum(rates, 1.0), np.nan)


@dataclasses.dataclass(frozen=True)
class EventRates:
    """The impressions and events that a rate counts.

    Attributes:
        field: The rate.
        impressions: The impressions of each value, as if the value were a user.
        events: The events of each value; None for an age.
        overall: The rate of all training rows; 1 for an age.
    """

    field: Field
    impressions: user_events.UserEvents
    events: user_events.UserEvents | None
    overall: float

    def at(self, values: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Returns the rates or ages [B] float32 of values [B], fingerprints, before times [B].

        Times are in seconds, ages in days; NaN is missing.
        """
        if self.events is None:
            days = self.impressions.since_first(values, times) / SECONDS_PER_DAY
            return days.astype(np.float32)
        impressions = self.impressions.count(values, times)
        events = self.events.count(values, times)
        return smoothed_rates(events, impressions, self.overall).astype(np.float32)

    def for_rows(self, rows: Rows, times: np.ndarray) -> np.ndarray:
        """Returns the rates [B] float32 of rows before times [B] in seconds."""
        return self.at(_values(self.field, rows), times)


@dataclasses.dataclass(frozen=True)
class Window:
    """Delay after which engagements are known.

    Attributes:
        seconds: Maximum delay of an engagement; 0: all are known immediately.
        units_per_second: Units of the log's times in a second.
        unknown_after: Engagements of later rows are not known yet; None: all are known.
    """

    seconds: float
    units_per_second: float
    unknown_after: float | None


def write(
    field: Field,
    chunks: Sequence[Callable[[], Rows]],
    is_train: Sequence[np.ndarray],
    window: Window,
    directory: pathlib.Path,
) -> None:
    """Sorts the impressions and events that a rate counts, and writes them; `load` reads them.

    `is_train` [B] bool tells which rows of each chunk are training rows.
    """
    is_late = window.seconds > 0 and not field.is_age and LABELS[field.event[0]].is_late
    delay = window.seconds * window.units_per_second if is_late else 0.0
    by_value = [functools.partial(_by_value, field, load, delay) for load in chunks]
    for name, history in _histories(field).items():
        user_events.write(history, by_value, window.units_per_second, directory / name)
    if field.is_age:
        return
    num_events = num_impressions = 0
    for load, train in zip(chunks, is_train, strict=True):
        rows = load()
        known = train
        if is_late and window.unknown_after is not None:
            known = train & (rows.array(TIME) <= window.unknown_after)
        labels = rows.array(LABEL_COLUMNS[field.event[0]])[known]
        num_events += int((labels == 1).sum())
        num_impressions += int((labels != MISSING_LABEL).sum())
    files.write_json(directory / _OVERALL, {"rate": num_events / max(num_impressions, 1)})


def load(field: Field, directory: pathlib.Path) -> EventRates:
    """Memory-maps the files of `write`."""
    histories = _histories(field)
    loaded = {
        name: user_events.load(history, directory / name) for name, history in histories.items()
    }
    if field.is_age:
        return EventRates(field, loaded[_IMPRESSIONS], None, 1.0)
    overall = json.loads((directory / _OVERALL).read_text())["rate"]
    return EventRates(field, loaded[_IMPRESSIONS], loaded[_EVENTS], overall)


def _histories(field: Field) -> dict[str, Field]:
    """Returns the histories of a value that its rate counts, by the name of their folder."""
    counted = {_IMPRESSIONS: (IMPRESSION,)} | ({} if field.is_age else {_EVENTS: field.event})
    return {
        name: Field(
            field.name, "history", "query", of=field.of, event=event,
            max_age_days=field.max_age_days,
        )
        for name, event in counted.items()
    }  # fmt: skip


def _by_value(field: Field, load: Callable[[], Rows], delay: float) -> Rows:
    """Returns the rows of a chunk that a rate counts, with the value instead of the user.

    A rate counts rows that have a label, and an age all rows.
    """
    rows = load()
    event, value = field.event[0], user_events.values_in(field)
    if field.is_age:
        table = rows.columns.select([value, TIME])
        table = table.append_column(USER, pa.array(_values(field, rows)))
        return Rows(table, rows.strings)
    label, at = LABEL_COLUMNS[event], EVENT_TIMES[event]
    table = rows.columns.select([value, label])
    if not delay and at in rows.columns.column_names:
        # Each other event is also a click.
        kinds = EVENT_TIMES if event == "click" else (event,)
        times = [rows.array(EVENT_TIMES[kind]) for kind in kinds]
        table = table.append_column(at, pa.array(np.minimum.reduce(times)))
    table = table.append_column(TIME, pa.array(rows.array(TIME) + delay))
    table = table.append_column(USER, pa.array(_values(field, rows)))
    known = rows.array(label) != MISSING_LABEL
    return Rows(table.filter(pa.array(known)), rows.strings)


def _values(field: Field, rows: Rows) -> np.ndarray:
    """Returns the fingerprints [B] of the values to which the rates of rows belong."""
    name = user_events.values_in(field)
    return rows.strings[name].fingerprints[rows.array(name)]
