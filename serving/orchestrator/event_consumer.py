"""Moves events from a stream into the user store and the log of events.

    consumer = EventConsumer(reader, EventIntake(data, feedback))
    await consumer.run(stopping)

An entry is acknowledged after it is stored, so that none is lost if the process, the store or the
stream's server fails. An entry that is not a valid event is counted, logged and acknowledged:
retrying would not help.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

import pydantic_core

from serving import errors, requests, users
from serving.orchestrator import event_intake

# Pause after a failure of the store or the stream.
_PAUSE_SECONDS = 0.2
_SECONDS_PER_REPORT = 60.0


class EventConsumer:
    """Consumes a stream until it is stopped.

    Args:
        reader: Reads the stream.
        accepted: Accepts the events.
        clock: Returns seconds, for the reports in the log.

    Attributes:
        received: Number of valid events.
        added: Number of events that the store did not have.
        rejected: Number of entries that are not valid events.
        problem: Why the last attempt failed, or None.
    """

    def __init__(
        self,
        reader: users.StreamReader,
        accepted: event_intake.EventIntake,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = reader
        self._clock = clock
        self._next_report = clock() + _SECONDS_PER_REPORT
        self._events = accepted
        self.received = 0
        self.added = 0
        self.rejected = 0
        self.problem: str | None = None

    async def run(self, stopping: asyncio.Event) -> None:
        """Consumes until `stopping` is set; failures are logged and retried.

        The log has the numbers of events and of waiting entries once a minute.

        Args:
            stopping: Ends the run within a second.
        """
        while not stopping.is_set():
            if self._clock() >= self._next_report:
                self._next_report = self._clock() + _SECONDS_PER_REPORT
                await self._report()
            try:
                await self._step()
            except (errors.UserStoreError, errors.ImpressionLogError) as error:
                if str(error) != self.problem:
                    logging.warning("%s Events wait in the stream.", error)
                self.problem = str(error)
                # Before later entries, so that the order stays.
                self._reader.retry()
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                if self.problem is not None:
                    logging.warning("The stream of events is available again.")
                self.problem = None

    async def _report(self) -> None:
        try:
            backlog = await self._reader.backlog()
        except errors.UserStoreError as error:
            waiting = f"what waits in the stream is not known: {error}"
        else:
            unread = "an unknown number of" if backlog.unread is None else backlog.unread
            waiting = (
                f"{unread} entries of the stream are not read yet, and "
                f"{backlog.unacknowledged} are not stored yet"
            )
        logging.info(
            "%d events since the start, of which %d were new; %d entries were no events; %s",
            self.received,
            self.added,
            self.rejected,
            waiting,
        )

    async def _step(self) -> None:
        entries = await self._reader.read()
        valid, rejected = self._valid(entries)
        # They count once, even if the store fails and the others are redelivered.
        await self._reader.acknowledge(rejected)
        self.rejected += len(rejected)
        if valid:
            added = await self._events.add(valid)
            self.received += added.received
            self.added += added.added
        await self._reader.acknowledge(entries)

    def _valid(
        self, entries: Sequence[users.StreamEntry]
    ) -> tuple[list[requests.Event], list[users.StreamEntry]]:
        """Returns the valid events, and the entries that are none."""
        found, rejected, now = [], [], time.time()
        for entry in entries:
            try:
                text = entry.event
                if text is None:
                    raise errors.InvalidRequestError("expected a field 'event', got none")
                event = requests.parse(requests.Event, pydantic_core.from_json(text), "event")
                if event.time is None:
                    # The entry may have waited. The clock of the server may be ahead.
                    event = event.model_copy(update={"time": min(entry.time, now)})
                found.append(self._events.checked(event, "event", now))
            except (ValueError, errors.InvalidRequestError) as error:
                rejected.append(entry)
                logging.error("Entry %s of the stream was rejected: %s", entry.entry_id, error)
        return found, rejected
