"""Compares the histories in an impression log with those that follow from the logged events.

A service makes a history from the data in its user store at that moment. Offline, the histories of
the same requests are rebuilt from all logged events. If the two are equal, the model is served with
the inputs that it would be trained on. A difference has a cause:

    cut     the service had only the latest of the events: the store keeps fewer, or had expired
    late    events from before the request reached the store after it
    clock   the service had events from after the request, or with other ages: two clocks differ
    other   unlogged events, or a history that the caller sent

Shapes: N answers.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from serving import impressions, releases
from serving.operations import event_lines, findings
from tfrecords import histories, schema
from tfrecords.histories import UserEvent

CAUSES = ("cut", "late", "clock", "other")
# The log has the time of the answer, and the history is of some milliseconds before it.
_ANSWER_SECONDS = 1.0
# Events from up to this long after a request may be in its history by a wrong clock.
_CLOCK_SECONDS = 600.0
_COLUMNS = ("_answer_id", "_request_id", "_time", "_user_id", "_ad_id")


@dataclasses.dataclass(frozen=True)
class LoggedHistories:
    """The histories of one answer.

    Attributes:
        user_id: Id of the user.
        time: Time of the answer, in seconds since 1970.
        raw: Raw inputs of the histories, as the models got them.
    """

    user_id: str
    time: float
    raw: Mapping[str, Sequence[Any] | None]


def compare_histories(
    files: Sequence[pathlib.Path], event_files: Sequence[pathlib.Path], release: releases.Bundle
) -> str:
    """Compares the histories of all logged answers of known users with rebuilt ones.

    Args:
        files: Files of the impression log.
        event_files: Files of the log of events, JSON lines as the service logs them.
        release: Loaded release, with the histories and the ads.

    Raises:
        WrongError: Some histories differ.
        SkippedError: The release has no histories, or the log has none of known users.
        ImpressionLogError: A file is not part of an impression log.
    """
    plan = schema.schema_from_json(release.manifest.schema)
    if not plan.histories:
        raise findings.SkippedError(f"release {release.version} has no histories")
    tables = [impressions.read_file(path) for path in files]
    logged = [one for table in tables for one in _answers(plan, table)]
    if not logged:
        raise findings.SkippedError("it has no answers to users whose ids are known")
    lines = [event_lines.read_event_lines(path) for path in event_files]
    events = _events(plan, tables, lines, release)
    counts = collections.Counter(cause_of(plan, one, events.get(one.user_id, ())) for one in logged)
    equal = counts.pop(None, 0)
    summary = f"{equal} of {len(logged)} answers ({equal / len(logged):.1%}) have the histories"
    rejected = sum(own.rejected for own in lines)
    left_out = f"; {rejected} lines are not events and were left out" if rejected else ""
    if not counts:
        return f"{summary} that follow from the logged events{left_out}"
    causes = ", ".join(f"{cause}: {counts[cause]}" for cause in CAUSES if counts[cause])
    raise findings.WrongError(
        "the histories that follow from the logged events",
        f"{summary}; others differ ({causes}){left_out}",
        "For cut, let the user store keep more events for longer. For late, send events sooner; "
        "models learn from them as if they had been on time. For clock, synchronize the clocks. "
        "For other, log all events, and let requests carry the user id instead of a history.",
    )


def cause_of(
    plan: schema.Schema, logged: LoggedHistories, events: Sequence[UserEvent]
) -> str | None:
    """Returns why logged histories differ from rebuilt ones, one of `CAUSES`; None: they do not."""
    rebuilt = [
        histories.raw_values(plan, events, time)
        for time in (logged.time, logged.time - _ANSWER_SECONDS)
    ]
    causes = []
    for field in plan.histories:
        own = _entries(field, logged.raw)
        possible = [_entries(field, raw) for raw in rebuilt]
        if any(_same(own, expected) for expected in possible):
            continue
        causes.append(_cause(plan, field, own, possible[0], events, logged.time))
    return max(causes, key=CAUSES.index) if causes else None


# Value, kind of event and age of an entry; the age is None if it is missing.
_Entry = tuple[str, str, float | None]


def _entries(field: schema.Field, raw: Mapping[str, Any]) -> list[_Entry]:
    values = raw.get(field.name) or []
    ages = raw.get(field.age_input) or [None] * len(values)
    kinds = raw.get(field.event_input) or field.event[:1] * len(values)
    return list(zip(values, kinds, ages, strict=True))


def _same(own: Sequence[_Entry], expected: Sequence[_Entry]) -> bool:
    return len(own) == len(expected) and all(
        one[:2] == other[:2]
        and (one[2] is None or other[2] is None or abs(one[2] - other[2]) <= _ANSWER_SECONDS)
        for one, other in zip(own, expected, strict=True)
    )


def _cause(
    plan: schema.Schema,
    field: schema.Field,
    own: Sequence[_Entry],
    expected: Sequence[_Entry],
    events: Sequence[UserEvent],
    time: float,
) -> str:
    if len(own) < len(expected) and _same(own, expected[len(expected) - len(own) :]):
        return "cut"
    if [one[:2] for one in own] == [one[:2] for one in expected]:
        return "clock"
    # More than the history keeps, for others that took the place of missing events.
    everything = dataclasses.replace(field, max_length=10_000, max_age_days=None)
    fields = tuple(everything if f.name == field.name else f for f in plan.fields)
    unlimited = dataclasses.replace(plan, fields=fields)
    known, later = (
        collections.Counter(
            one[:2]
            for one in _entries(field, histories.raw_values(unlimited, events, time + seconds))
        )
        for seconds in (0.0, _CLOCK_SECONDS)
    )
    extra = collections.Counter(one[:2] for one in own) - known
    if not extra:
        return "late"
    return "other" if extra - (later - known) else "clock"


def _answers(plan: schema.Schema, table: pa.Table) -> Iterable[LoggedHistories]:
    """Yields the histories of the answers of a file to users whose ids are known."""
    inputs = [name for field in plan.histories for name in field.inputs]
    names = [*_COLUMNS, *inputs]
    if not set(names) <= set(table.column_names):
        return
    seen = set()
    for row in table.select(names).to_pylist():
        if row["_user_id"] and row["_answer_id"] not in seen:
            seen.add(row["_answer_id"])
            raw = {name: row[name] for name in inputs}
            yield LoggedHistories(row["_user_id"], row["_time"], raw)


def _events(
    plan: schema.Schema,
    tables: Sequence[pa.Table],
    lines: Sequence[event_lines.EventLines],
    release: releases.Bundle,
) -> dict[str, list[UserEvent]]:
    """Returns the events of each user: logged impressions, and the events of the event log.

    Of a user's events with the same id, only the first counts, as in the user store.
    """
    found: dict[tuple[str, str], UserEvent] = {}
    for table in tables:
        if set(_COLUMNS) <= set(table.column_names):
            for row in table.select(list(_COLUMNS)).to_pylist():
                key = f"{row['_request_id']}/{row['_ad_id']}"
                event = UserEvent("impression", row["_time"], row["_ad_id"], {}, key)
                found.setdefault((row["_user_id"], key), event)
    for own in lines:
        for user_id, one in own.events:
            event = UserEvent(one.kind, one.time, one.ad_id, {}, one.event_id)
            found.setdefault((user_id, one.event_id), event)
    values = _values(plan, {event.ad_id for event in found.values()}, release)
    events: dict[str, list[UserEvent]] = collections.defaultdict(list)
    for (user, _), event in found.items():
        events[user].append(dataclasses.replace(event, values=values.get(event.ad_id, {})))
    return events


def _values(
    plan: schema.Schema, ad_ids: Iterable[str], release: releases.Bundle
) -> dict[str, dict[str, str]]:
    """Returns the values of the listed fields of ads."""
    listed, ids = histories.listed_fields(plan), sorted(ad_ids)
    if not listed:
        return {}
    rows = release.ad_index.find(ids)
    known = np.flatnonzero(rows >= 0)
    shown = release.ad_index.display(rows[known])
    return {
        ids[at]: {name: one[name] for name in listed if one.get(name)}
        for at, one in zip(known.tolist(), shown, strict=True)
    }
