"""Histories: a user's events before a request, as fields of the request.

    {"name": "recent_clicks", "kind": "history", "of": "ad", "event": "click",
     "max_length": 50, "max_age_days": 30}

A history lists the ads of the user's last events, or the values that a field of these ads had at
the time. It is never read from the log: conversion computes it for each request, and a service for
each request of a stored user. Both follow these rules, which `raw_values` implements for one
user:

-   The events of a request's user that are strictly before the request, oldest first. Neither
    the request's own events nor others at the same time count.
-   An event counts from the time at which it happened: a click or engagement with its own time
    counts from that time. In a log of impressions with labels, which has no such times, they count
    from their impression.
-   An event without a value (an ad whose field is missing) is left out.
-   Events with the same time are ordered by kind (impression, click, engagement), then by value.
-   Events older than `max_age_days` are left out; of the others the last `max_length` are kept.

A history has two or three raw inputs, of one length. Names with `__` are reserved for them:

    NAME                 values, strings
    NAME__age_seconds    age of each event in seconds; may be missing
    NAME__events         kind of each event, if the history lists several; may be missing

Encoded, it has `max_length` ids of values, then as many age buckets and, if there are several
kinds, as many codes of kinds; each of them is padded with 0 at the end. An age bucket is the
exponent of the age and three bits of its mantissa, so it is exact to an eighth, up to 100 years,
and needs no table that could differ between training and serving.

Shapes: B requests, L values of a history, E events.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import numpy as np

from tfrecords.schema import AD, EVENTS, Field, Schema

SECONDS_PER_DAY = 86_400.0
NUM_AGE_BUCKETS = 256
"""Number of age buckets; 0 is a missing age, and 1 an age below a second."""
NUM_EVENT_CODES = 1 + len(EVENTS)
"""Number of codes of kinds of events; 0 is missing, and `EVENTS` follow."""
RawHistories: TypeAlias = dict[str, list[str] | list[float]]
# An age's bucket is its float32's bits without these, minus their value in bucket 0; a second
# (exponent 127, mantissa 0) is in bucket 2.
DROPPED_BITS, FIRST_BITS = 20, (127 << 3) - 2


@dataclasses.dataclass(frozen=True)
class UserEvent:
    """A user's event on an ad.

    Attributes:
        event: One of `schema.EVENTS`.
        time: Time of the event, in seconds since 1970.
        ad_id: Id of the ad.
        values: Ad-side field -> the ad's value at that time; only those that histories list.
        event_id: Identifies the event, so that an event sent twice counts once; None: the event is
            not repeated.
    """

    event: str
    time: float
    ad_id: str
    values: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    event_id: str | None = None


def listed_fields(schema: Schema) -> tuple[str, ...]:
    """Returns the ad-side fields whose values events need for the histories of a schema."""
    return tuple(dict.fromkeys(f.of for f in schema.histories if f.of and f.of != AD))


def raw_values(schema: Schema, events: Iterable[UserEvent], time: float) -> RawHistories:
    """Returns the raw inputs of all histories of a request.

    Args:
        schema: The schema.
        events: Events of the request's user in any order; events that are too late, too old, or of
            other kinds are ignored.
        time: Time of the request, in seconds since 1970.

    Returns:
        Raw input -> values, oldest first; empty lists for a user without events.
    """
    known = _without_repeated(events)
    raw: RawHistories = {}
    for field in schema.histories:
        latest = _latest(field, known, time)
        raw[field.name] = [value for *_, value in latest]
        raw[field.age_input] = [time - when for when, _, _ in latest]
        if field.event_input in field.inputs:
            raw[field.event_input] = [EVENTS[kind] for _, kind, _ in latest]
    return raw


def _without_repeated(events: Iterable[UserEvent]) -> list[UserEvent]:
    known = list(events)
    by_id = {event.event_id: event for event in known if event.event_id is not None}
    return [event for event in known if event.event_id is None] + list(by_id.values())


def _latest(field: Field, events: Iterable[UserEvent], time: float) -> list[tuple[float, int, str]]:
    """Returns time, kind and value of the events of a history, oldest first."""
    first = earliest(field, time)
    listed = [
        (event.time, EVENTS.index(event.event), value)
        for event in events
        if event.event in field.event
        and first <= event.time < time
        and (value := event.ad_id if field.of == AD else event.values.get(field.of or "", ""))
    ]
    return sorted(listed)[-field.max_length :]


def earliest(field: Field, time: float | np.ndarray) -> float | np.ndarray:
    """Returns the earliest time of events in the history of requests at some times."""
    days = np.inf if field.max_age_days is None else field.max_age_days
    return time - days * SECONDS_PER_DAY


def age_buckets(seconds: np.ndarray) -> np.ndarray:
    """Returns the buckets, uint8, of ages in seconds, of any shape; NaN is missing."""
    ages = np.asarray(seconds, np.float32)
    bits = np.maximum(np.nan_to_num(ages), np.float32(0)).view(np.int32) >> DROPPED_BITS
    buckets = np.clip(bits - FIRST_BITS, 1, NUM_AGE_BUCKETS - 1)
    return np.where(np.isnan(ages), 0, buckets).astype(np.uint8)


def bucket_seconds(buckets: np.ndarray) -> np.ndarray:
    """Returns the lowest ages, float32 seconds, of buckets; 0 for buckets 0 and 1."""
    lowest = ((np.asarray(buckets, np.int32) + FIRST_BITS) << DROPPED_BITS).view(np.float32)
    return np.where(np.asarray(buckets) < 2, np.float32(0), lowest)
