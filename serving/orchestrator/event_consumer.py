"""Moves events from a stream into the user store and the log of events.

    consumer = EventConsumer(reader, EventIntake(data, feedback))
    await consumer.run(stopping)

An entry is acknowledged after it was stored, so no entry is lost if the process, the store or the
server of the stream ends. An entry that is not a valid event is counted, logged and acknowledged,
because it will never become valid. An event that is ahead of the clock of this host, which may be
some minutes behind, stays in the stream and is read again until it is valid.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence

import pydantic_core

from serving import errors, requests, users
from serving.orchestrator import event_intake
from tfrecords import terminal

_logger = logging.getLogger(__name__)

# Pause after a failure of the store or the stream, doubled after each further one: each attempt
# writes the events to the log again.
_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.2, 30.0
_SECONDS_PER_REPORT = 60.0
# An event that becomes valid later than that, by this clock and by the server's, has a wrong time,
# such as one of another time zone.
_MAX_WAIT_SECONDS = 1800.0
_SECONDS_BETWEEN_WARNINGS = 60.0
# If the clock is set back, events that were valid are in the future for a while.
_RETRIED = (errors.UserStoreError, errors.ImpressionLogError, errors.InvalidRequestError)
# Maximum number of characters of a rejected entry in the log.
_MAX_LOGGED = 200


@dataclasses.dataclass
class _Sorted:
    """Entries that were read, by their outcome."""

    valid: list[requests.Event] = dataclasses.field(default_factory=list)
    stored: list[users.StreamEntry] = dataclasses.field(default_factory=list)
    rejected: list[users.StreamEntry] = dataclasses.field(default_factory=list)
    max_seconds_ahead: float = 0.0


class EventConsumer:
    """Consumes a stream until it is stopped.

    Args:
        reader: Reads the stream.
        intake: Accepts the events.
        clock: Returns seconds, for the reports and warnings in the log.

    Attributes:
        received: Number of valid events.
        added: Number of events that were added to the store. It had the others, or they exceed a
            user's limits, are too old or precede an erasure.
        rejected: Number of entries that are not valid events.
        problem: Why the last attempt failed, or None.
    """

    def __init__(
        self,
        reader: users.StreamReader,
        intake: event_intake.EventIntake,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = reader
        self._clock = clock
        self._next_report = clock() + _SECONDS_PER_REPORT
        self._intake = intake
        self.received = 0
        self.added = 0
        self.rejected = 0
        self.problem: str | None = None
        self._next_warning = 0.0

    async def run(self, stopping: asyncio.Event) -> None:
        """Consumes until `stopping` is set; failures are logged and retried.

        Logs the numbers of events and of waiting entries once a minute.

        Args:
            stopping: Ends the run within a second.
        """
        pause = _PAUSE_SECONDS
        while not stopping.is_set():
            if self._clock() >= self._next_report:
                self._next_report = self._clock() + _SECONDS_PER_REPORT
                await self._report()
            try:
                await self._step()
            except _RETRIED as error:
                if str(error) != self.problem:
                    _logger.warning("%s Events wait in the stream.", error)
                self.problem = str(error)
                # Before later entries, to keep the order.
                self._reader.retry()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), pause)
                pause = min(2 * pause, _MAX_PAUSE_SECONDS)
            else:
                pause = _PAUSE_SECONDS
                if self.problem is not None:
                    _logger.warning("The stream of events is available again.")
                self.problem = None

    def summary(self) -> str:
        """Returns the numbers of events and entries since the start, as text."""
        return (
            f"{terminal.format_count(self.received, 'event')} since the start, {self.added:,} of "
            f"them added to the store{requests.others_not_added(self.received - self.added)}; "
            f"{self.rejected:,} entries were not events"
        )

    async def _report(self) -> None:
        try:
            backlog = await self._reader.backlog()
        except errors.UserStoreError as error:
            waiting = f"the number of waiting entries is not known: {error}"
        else:
            unread = "an unknown number of" if backlog.unread is None else backlog.unread
            waiting = (
                f"{unread} entries of the stream are not read yet, and "
                f"{backlog.unacknowledged} are not stored yet"
            )
        _logger.info("%s; %s", self.summary(), waiting)

    async def _step(self) -> None:
        read = self._sorted(await self._reader.read())
        # Acknowledged first, so that they count once even if the store fails.
        await self._reader.acknowledge(read.rejected)
        self.rejected += len(read.rejected)
        if read.valid:
            added = await self._intake.add(read.valid)
            self.received += added.received
            self.added += added.added
        await self._reader.acknowledge(read.stored)

    def _sorted(self, entries: Sequence[users.StreamEntry]) -> _Sorted:
        found, now = _Sorted(), self._intake.now()
        for entry in entries:
            try:
                event = _event(entry, now)
                happened = event.time or now
                ahead = happened - now
                # If this clock is behind, as after a pause of the machine, the server's is not.
                wait = happened - max(now, entry.time) - requests.MAX_SECONDS_AHEAD
                if ahead > requests.MAX_SECONDS_AHEAD and wait <= _MAX_WAIT_SECONDS:
                    found.max_seconds_ahead = max(found.max_seconds_ahead, ahead)
                    continue
                found.valid.append(self._intake.checked(event, "event", now))
                found.stored.append(entry)
            except (ValueError, errors.InvalidRequestError) as error:
                found.rejected.append(entry)
                _log_rejected(entry, error)
        if found.max_seconds_ahead and self._clock() >= self._next_warning:
            self._next_warning = self._clock() + _SECONDS_BETWEEN_WARNINGS
            _logger.warning(
                "Events of the stream are up to %.0f s ahead of the clock of this host. They wait "
                "in the stream until they are at most %g s ahead. Check the clocks.",
                found.max_seconds_ahead,
                requests.MAX_SECONDS_AHEAD,
            )
        return found


def _event(entry: users.StreamEntry, now: float) -> requests.Event:
    if entry.event is None:
        raise errors.InvalidRequestError("expected a field 'event', got none.")
    try:
        value = pydantic_core.from_json(entry.event)
    except ValueError as error:
        raise ValueError(f"expected a JSON object ({error}).") from error
    event = requests.parse(requests.Event, value, "event")
    if event.time is None:
        # The entry may have waited. The clock of the server may be ahead.
        return event.model_copy(update={"time": min(entry.time, now)})
    return event


def _log_rejected(entry: users.StreamEntry, error: Exception) -> None:
    text = (entry.event or b"").decode(errors="replace")
    _logger.error(
        "Entry %s of the stream was rejected: %s Its text begins: %r",
        entry.entry_id.decode(),
        " ".join(str(error).split()),
        text[:_MAX_LOGGED],
    )
