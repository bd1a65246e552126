"""Rates: the recent click or engagement rate of ads with a value, as fields of the ad.

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
-   It is smoothed: `SMOOTHING` impressions with the rate of the whole training log are added.
-   Models are measured with catalog rates at the time of the last request that is not a test
    request: in a log that is split by time, they do not contain test labels. A release has the
        rates at the end of the log. Rows without a label, and times far beyond nearly all other
        rows, do not affect these times.
-   The ranker reads rates. The towers do not: the catalog's rates count the clicks that they learn
    from, and an index would keep old ones. They learn the effect of rates from the ranker.

The impressions and the events of a value are sorted by time, as `user_events` sorts a user's
events, so that two binary searches count the ones before a request.

Shapes: B rows.

References:
    Chapelle, Manavoglu and Rosales, Simple and Scalable Response Prediction for Display
    Advertising, 2014, §3.5 (counts of past events as features).
    He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, 2014, §6 (historical
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
from tfrecords.schema import MISSING_LABEL, Field

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
        impressions, events: The impressions and events of each value, as if the value were a user.
        overall: The rate of all training rows.
    """

    field: Field
    impressions: user_events.UserEvents
    events: user_events.UserEvents
    overall: float

    def at(self, values: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Returns the rates [B] float32 of values [B], fingerprints, before times [B] in seconds.

        NaN is missing.
        """
        impressions = self.impressions.count(values, times)
        events = self.events.count(values, times)
        return smoothed_rates(events, impressions, self.overall).astype(np.float32)

    def of_rows(self, rows: Rows, times: np.ndarray) -> np.ndarray:
        """Returns the rates [B] float32 of rows before times [B] in seconds."""
        return self.at(_values(self.field, rows), times)


@dataclasses.dataclass(frozen=True)
class Window:
    """When engagements are known.

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

    Args:
        field: The rate.
        chunks: Functions that load the rows of each chunk.
        is_train: [B] bool for each chunk, whether a row is a training row.
        window: When engagements are known.
        directory: Directory to write to.
    """
    is_late = field.event == ("engagement",) and window.seconds > 0
    delay = window.seconds * window.units_per_second if is_late else 0.0
    by_value = [functools.partial(_by_value, field, load, delay) for load in chunks]
    for name, history in zip((_IMPRESSIONS, _EVENTS), _histories(field), strict=True):
        user_events.write(history, by_value, window.units_per_second, directory / name)
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
    impressions, events = (
        user_events.load(history, directory / name)
        for name, history in zip((_IMPRESSIONS, _EVENTS), _histories(field), strict=True)
    )
    overall = json.loads((directory / _OVERALL).read_text())["rate"]
    return EventRates(field, impressions, events, overall)


def _histories(field: Field) -> tuple[Field, Field]:
    """Returns the histories of a value that its rate counts: impressions, and events."""
    impressions, events = (
        Field(
            field.name, "history", "query", of=field.of, event=event,
            max_age_days=field.max_age_days,
        )
        for event in (("impression",), field.event)
    )  # fmt: skip
    return impressions, events


def _by_value(field: Field, load: Callable[[], Rows], delay: float) -> Rows:
    """Returns the rows of a chunk that have a label, with the value instead of the user."""
    rows = load()
    event, value = field.event[0], user_events.values_in(field)
    label, at = LABEL_COLUMNS[event], EVENT_TIMES[event]
    table = rows.columns.select([value, label])
    if not delay and at in rows.columns.column_names:
        # An engagement is also a click.
        times = [rows.array(EVENT_TIMES[kind]) for kind in (event, "engagement")]
        table = table.append_column(at, pa.array(np.minimum(*times)))
    table = table.append_column(TIME, pa.array(rows.array(TIME) + delay))
    table = table.append_column(USER, pa.array(_values(field, rows)))
    known = rows.array(label) != MISSING_LABEL
    return Rows(table.filter(pa.array(known)), rows.strings)


def _values(field: Field, rows: Rows) -> np.ndarray:
    """Returns the fingerprints [B] of the values to which the rates of rows belong."""
    name = user_events.values_in(field)
    return rows.strings[name].fingerprints[rows.array(name)]
