"""Compares the histories in an impression log with histories computed from the logged events.

A service makes a history from the data in its user store at that moment. Offline, the histories of
the same requests are rebuilt from all logged events. If the two are equal, the model is served with
the inputs that it would be trained on. A difference has a cause:

    unread  the store was late or failed, so the request went on without its user
    lost    the store did not have events that it had received
    cut     the service had only the events that the store keeps: the latest ones
    late    events from before the request arrived after it
    clock   the service had events from after the request, or with other ages: two clocks differ
    other   unlogged events, or a history that the caller sent
"""

import collections
import contextlib
import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from serving import impressions, live, releases
from serving.config import UserStoreConfig
from serving.operations import event_lines, findings
from tfrecords import histories, schema
from tfrecords.histories import UserEvent

CAUSES = ("unread", "lost", "cut", "late", "clock", "other")
_REMEDIES = {
    "unread": "find out why the user store was late or failed: see the service's log and "
    "tfrec_user_reads_total; --user_store_ms is the time that a request waits for it.",
    "lost": "the store was emptied or did not accept the events (see the service's log), the user "
    "was erased or deleted, or the store keeps events for a shorter time (--user_ttl_days); tfrec "
    "rebuild_users adds what the logs have.",
    "cut": "the store keeps the latest {actions} actions and {impressions} impressions of a user "
    "for {days:g} days; models learn from longer histories than they are served. Set a smaller "
    "max_length or max_age_days in the schema.",
    "late": "send events sooner; models learn from them as if they had arrived in time.",
    "clock": "synchronize the clocks.",
    "other": "log all events, and let requests carry the user id instead of a history.",
}
# The history was read within this time of the logged time of the request.
_READ_SECONDS = 1.0
# With a wrong clock, events from up to this long after a request may be in its history.
_CLOCK_SECONDS = 600.0
_COLUMNS = (
    "_answer_id", "_request_id", "_time", "_user_id", "_user_data", "_ad_id", "_bundle_version",
)  # fmt: skip
_STORE = UserStoreConfig()


@dataclasses.dataclass(frozen=True)
class LoggedHistories:
    """The histories of one answer.

    Attributes:
        user_id: Id of the user.
        time: Time in the log, in seconds since 1970.
        raw: Raw inputs of the histories, as the models received them.
        user_data: Outcome of reading the user store, as in `Answer.user_data`; None: not read.
    """

    user_id: str
    time: float
    raw: Mapping[str, Sequence[Any] | None]
    user_data: str | None


@dataclasses.dataclass
class KnownEvents:
    """The logged events of a user.

    Attributes:
        events: The events.
        received: Event id -> time of arrival in seconds since 1970, if the log has it.
    """

    events: list[UserEvent] = dataclasses.field(default_factory=list)
    received: dict[str, float] = dataclasses.field(default_factory=dict)


def compare_histories(
    files: Sequence[pathlib.Path],
    event_files: Sequence[pathlib.Path],
    release: releases.Bundle,
) -> str:
    """Compares logged histories with rebuilt ones, for a release's answers to known users.

    Args:
        files: Files of the impression log.
        event_files: Files of the log of events, JSON lines as the service logs them.
        release: Loaded release, with the histories and the ads.

    Raises:
        WrongError: Some histories differ.
        SkippedError: The release has no histories, or the log has no answers of it to known users.
        ImpressionLogError: A file is not part of an impression log.
    """
    plan = schema.schema_from_json(release.manifest.schema)
    if not plan.histories:
        raise findings.SkippedError(f"release {release.version} has no histories")
    columns = [*_COLUMNS, *(name for field in plan.histories for name in field.inputs)]
    tables = [impressions.read_file(path, columns) for path in files]
    logged = [answer for table in tables for answer in _answers(plan, table, release.version)]
    if not logged:
        raise findings.SkippedError(
            f"it has no answers of release {release.version} to users whose ids are known"
        )
    now = time.time()
    lines = [event_lines.read_event_lines(path, now) for path in event_files]
    events = _events(plan, tables, lines, release)
    nothing = KnownEvents()
    counts = collections.Counter(
        cause_of(plan, answer, events.get(answer.user_id, nothing)) for answer in logged
    )
    equal = counts.pop(None, 0)
    summary = f"{equal} of {len(logged)} answers ({equal / len(logged):.1%}) have the histories"
    rejected = sum(file.rejected for file in lines)
    left_out = ""
    if rejected:
        examples = event_lines.first_examples([text for file in lines for text in file.examples])
        counted, *shown = event_lines.describe_rejected(rejected, examples)
        left_out = f"; {counted} {'; '.join(shown)}"
    if not counts:
        return f"{summary} that follow from the logged events{left_out}"
    found = [cause for cause in CAUSES if counts[cause]]
    causes = ", ".join(f"{cause}: {counts[cause]}" for cause in found)
    limits = {
        "actions": _STORE.max_actions,
        "impressions": _STORE.max_impressions,
        "days": _STORE.ttl_days,
    }
    raise findings.WrongError(
        "the histories that follow from the logged events",
        f"{summary}; others differ ({causes}){left_out}",
        " ".join(f"For {cause}, {_REMEDIES[cause].format_map(limits)}" for cause in found),
    )


def cause_of(plan: schema.Schema, logged: LoggedHistories, known: KnownEvents) -> str | None:
    """Returns why logged histories differ from rebuilt ones, one of `CAUSES`, or None."""
    compared = [_UserHistory(plan, field, logged, known) for field in plan.histories]
    causes = [history.cause() for history in compared if not history.follows(known.events)]
    return max(causes, key=CAUSES.index, default=None)


# Value, kind of event and age of an entry; the age is None if it is missing.
_Entry = tuple[str, str, float | None]


@dataclasses.dataclass(frozen=True)
class _UserHistory:
    """A history of a logged answer, and the known events of its user."""

    plan: schema.Schema
    field: schema.Field
    logged: LoggedHistories
    known: KnownEvents

    @functools.cached_property
    def entries(self) -> list[_Entry]:
        """The logged entries."""
        return self._entries(self.logged.raw)

    def follows(self, events: Sequence[UserEvent], is_limited: bool = False) -> bool:
        """Returns whether the history follows from events, at some instant near the logged time.

        Args:
            events: Events of the user.
            is_limited: Whether only the events that a store keeps are used.
        """
        return any(
            _same(self.entries, self._rebuilt(_kept(events, at) if is_limited else events, at))
            for at in self._instants(events)
        )

    def cause(self) -> str:
        """Returns why the history does not follow from the known events."""
        time = self.logged.time
        if not self.entries and self.logged.user_data in ("late", "failed"):
            return "unread"
        if self.follows(self.known.events, is_limited=True):
            return "cut"
        arrivals = [at for at in self.known.received.values() if abs(at - time) < _READ_SECONDS]
        for until in sorted({time, time - _READ_SECONDS, *arrivals}):
            in_time = [
                event
                for event in self.known.events
                if self.known.received.get(event.event_id or "", -math.inf) <= until
            ]
            if self.follows(in_time):
                return "late"
        expected = self._rebuilt(self.known.events, time)
        if [entry[:2] for entry in self.entries] == [entry[:2] for entry in expected]:
            return "clock"
        return self._cause_of_extra() or self._cause_of_missing(expected)

    def _entries(self, raw: Mapping[str, Any]) -> list[_Entry]:
        values = raw.get(self.field.name) or []
        ages = raw.get(self.field.age_input) or [None] * len(values)
        kinds = raw.get(self.field.event_input) or self.field.event[:1] * len(values)
        return list(zip(values, kinds, ages, strict=True))

    def _rebuilt(self, events: Sequence[UserEvent], at: float) -> list[_Entry]:
        return self._entries(histories.raw_values(self.plan, events, at))

    def _instants(self, events: Sequence[UserEvent]) -> list[float]:
        """Returns instants near the logged time that cover each state of the history."""
        time, max_age_days = self.logged.time, self.field.max_age_days
        since, until = time - _READ_SECONDS, time + _READ_SECONDS
        # An event counts after its time, and until its maximum age.
        ages = [0.0] if max_age_days is None else [0.0, max_age_days * 86_400]
        changes = {event.time + age for event in events for age in ages}
        return [time, since, *sorted(at for at in changes if since < at < until), until]

    def _cause_of_extra(self) -> str | None:
        """Returns why it has entries that no event before the request explains, or None."""
        # Without limits: where events are missing, the history has older ones instead.
        everything = dataclasses.replace(self.field, max_length=10_000, max_age_days=None)
        fields = tuple(everything if f.name == self.field.name else f for f in self.plan.fields)
        unlimited = dataclasses.replace(self, plan=dataclasses.replace(self.plan, fields=fields))
        known, later = (
            collections.Counter(
                entry[:2]
                for entry in unlimited._rebuilt(self.known.events, self.logged.time + seconds)
            )
            for seconds in (_READ_SECONDS, _CLOCK_SECONDS)
        )
        extra = collections.Counter(entry[:2] for entry in self.entries) - known
        if not extra:
            return None
        return "other" if extra - (later - known) else "clock"

    def _cause_of_missing(self, expected: Sequence[_Entry]) -> str:
        """Returns why it lacks events that, as far as is known, arrived in time."""
        entries, user_data = self.entries, self.logged.user_data
        if user_data is None or (user_data == "unknown" and entries):
            return "other"
        has_arrivals = all(event.event_id in self.known.received for event in self.known.events)
        is_latest = _same(entries, expected[len(expected) - len(entries) :])
        return "lost" if is_latest or has_arrivals else "late"


def _same(entries: Sequence[_Entry], expected: Sequence[_Entry]) -> bool:
    return len(entries) == len(expected) and all(
        entry[:2] == rebuilt[:2]
        and (entry[2] is None or rebuilt[2] is None or abs(entry[2] - rebuilt[2]) <= _READ_SECONDS)
        for entry, rebuilt in zip(entries, expected, strict=True)
    )


def _kept(events: Sequence[UserEvent], time: float) -> list[UserEvent]:
    """Returns the events that a store with default limits has at a time."""
    ordered = sorted(
        (e for e in events if time - _STORE.ttl_seconds <= e.time < time),
        key=lambda event: (event.time, event.event_id or ""),
    )
    shown = [event for event in ordered if event.event == schema.IMPRESSION]
    acted = [event for event in ordered if event.event != schema.IMPRESSION]
    return [*acted[-_STORE.max_actions :], *shown[-_STORE.max_impressions :]]


def _answers(plan: schema.Schema, table: pa.Table, version: int) -> Iterable[LoggedHistories]:
    """Yields the histories of a release's answers in a file to users whose ids are known."""
    inputs = [name for field in plan.histories for name in field.inputs]
    names = [*_COLUMNS, *inputs]
    if not set(names) <= set(table.column_names):
        return
    seen = set()
    # Another release may have other histories.
    release_rows = table.filter(pc.equal(table["_bundle_version"], version))
    for row in release_rows.select(names).to_pylist():
        if row["_user_id"] and row["_answer_id"] not in seen:
            seen.add(row["_answer_id"])
            raw = {name: row[name] for name in inputs}
            yield LoggedHistories(row["_user_id"], row["_time"], raw, row["_user_data"])


def _events(
    plan: schema.Schema,
    tables: Sequence[pa.Table],
    lines: Sequence[event_lines.EventLines],
    release: releases.Bundle,
) -> dict[str, KnownEvents]:
    """Returns the events of each user: logged impressions, and events of the event log.

    Of a user's events with the same id, only the first counts, as in the user store. Impressions,
    which are most of the events, are left out if no history lists them.
    """
    found: dict[tuple[str, str], UserEvent] = {}
    received: dict[tuple[str, str], float] = {}
    lists_impressions = any(schema.IMPRESSION in field.event for field in plan.histories)
    for table in tables:
        if lists_impressions and impressions.counts_as_shown(table):
            for row in table.select(list(_COLUMNS)).to_pylist():
                key = f"{row['_request_id']}/{row['_ad_id']}"
                event = UserEvent(schema.IMPRESSION, row["_time"], row["_ad_id"], {}, key)
                found.setdefault((row["_user_id"], key), event)
                received.setdefault((row["_user_id"], key), event.time)
    for file in lines:
        for pair, arrived in file.received.items():
            received[pair] = max(arrived, received.get(pair, arrived))
        for user_id, logged in file.events:
            event = UserEvent(logged.kind, logged.time, logged.ad_id, {}, logged.event_id)
            found.setdefault((user_id, logged.event_id), event)
    values = _values(plan, {event.ad_id for event in found.values()}, release)
    events: dict[str, KnownEvents] = collections.defaultdict(KnownEvents)
    for (user, event_id), event in found.items():
        known = events[user]
        known.events.append(dataclasses.replace(event, values=values.get(event.ad_id, {})))
        if (user, event_id) in received:
            known.received[event_id] = received[user, event_id]
    return events


def _values(
    plan: schema.Schema, ad_ids: Iterable[str], release: releases.Bundle
) -> dict[str, dict[str, str]]:
    """Returns the values of ads in the listed fields, with live updates."""
    listed, ids = histories.listed_fields(plan), sorted(ad_ids)
    if not listed:
        return {}
    with contextlib.closing(live.LiveIndex(release)) as updated:
        known = updated.view().values(ids, listed)
    return {
        ad_id: {name: known[name][ad_id][0] for name in listed if known[name].get(ad_id)}
        for ad_id in ids
    }
