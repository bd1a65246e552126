"""Accepts events: checks their times, logs them, and stores them."""

import asyncio
from collections.abc import Sequence

from serving import errors, requests
from serving.impressions import FeedbackLog
from serving.orchestrator import user_data

# Batches that are added at a time; each has up to `event.MAX_EVENTS`.
_MAX_BATCHES = 100


class EventIntake:
    """Accepts the events of a service.

    Args:
        data: The user store of the process.
        feedback: Log of events. None: no log.
    """

    def __init__(self, data: user_data.UserData, feedback: FeedbackLog | None = None) -> None:
        self._data = data
        self._feedback = feedback
        self._batches = 0

    async def add(self, events: Sequence[requests.Event]) -> requests.EventsAdded:
        """Adds events. After a failure, the same events can be added again.

        Args:
            events: Events; those without a time get the current time.

        Raises:
            InvalidRequestError: An event is in the future.
            ImpressionLogError: The log of events cannot be written.
            UserStoreError: The user store failed, or too many batches wait for it.
        """
        now = self.now()
        timed = [self.checked(event, f"events[{at}]", now) for at, event in enumerate(events)]
        if self._batches >= _MAX_BATCHES:
            raise errors.UserStoreError(
                f"{self._batches} batches of events wait for the user store, the maximum. Send the "
                "events again later."
            )
        self._batches += 1
        try:
            if self._feedback is not None:
                # First: if the store fails, the events are resent, and the join drops duplicates.
                await asyncio.to_thread(self._feedback.append, timed)
            added = await self._data.append(timed) if timed else 0
        finally:
            self._batches -= 1
        return requests.EventsAdded(received=len(timed), added=added)

    def now(self) -> float:
        """Returns the time in seconds since 1970."""
        return self._data.now()

    def checked(self, event: requests.Event, place: str, now: float) -> requests.Event:
        """Returns an event with its time.

        Args:
            event: The event.
            place: Path of the event, for messages.
            now: Current time, in seconds since 1970.

        Raises:
            InvalidRequestError: The event is in the future.
        """
        if event.time is None:
            return event.model_copy(update={"time": now})
        requests.check_event_time(event, now, f"{place}.")
        return event
