"""Reads and writes the user store for the requests of a process, and never delays them for long.

    data = UserData(users.open_store("sqlite:users.db"), config, metrics)
    read = await data.read(["u17"], impressions=False, now=time.time(), timeout_ms=5.0)

A late read continues without its request, so that a slow connection is open for the next one. A
store that fails or is late repeatedly is not used for a while (`users.CircuitBreaker`).
Impressions are written in the background, for many answers at a time; reads add the ones that are
not written yet. `problem` says why the latest read or write failed, unless that is long ago, or
which setting of the server may lose users. The log names each problem once until the store can be
used again, and then the number of impressions that were dropped.
"""

import asyncio
import collections
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from serving import errors, requests, users
from serving.config import UserStoreConfig
from serving.orchestrator import service_metrics
from serving.users import CircuitBreaker, StoredEvent, User
from tfrecords.schema import IMPRESSION

_logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

FOUND, UNKNOWN, LATE, FAILED = "found", "unknown", "late", "failed"
# Answers whose impressions share a write.
_ANSWERS_PER_WRITE = 100
_EXPIRE_SECONDS = 3600.0
_PROBE_SECONDS = 5.0
# A failure is a problem of the store for this long: the next write may be hours away.
_PROBLEM_SECONDS = 60.0
# A store that hangs must not delay the shutdown of the service for longer.
_CLOSE_SECONDS = 5.0
# An id that no user has.
_PROBE_ID = ""


@dataclasses.dataclass(frozen=True)
class UsersRead:
    """Result of reading the data of users.

    Attributes:
        users: Stored data of each user; None if the store did not answer.
        problem: `late` or `failed`; None if it answered.
        milliseconds: Duration in milliseconds.
    """

    users: Sequence[User] | None
    problem: str | None
    milliseconds: float


class UserData:
    """The user store of a process. Use it from one event loop.

    Args:
        store: The store, which `close` closes.
        config: Options. None: the defaults.
        metrics: Metrics to update. None: new ones.
        clock: Returns seconds, for durations and the circuit breaker.
        now: Returns the time in seconds since 1970.
    """

    def __init__(
        self,
        store: users.UserStore,
        config: UserStoreConfig | None = None,
        metrics: service_metrics.ServiceMetrics | None = None,
        clock: Callable[[], float] = time.perf_counter,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.config = config or UserStoreConfig()
        self.now = now
        self._store = store
        self._metrics = metrics or service_metrics.ServiceMetrics()
        self._clock = clock
        self._breaker = CircuitBreaker(clock)
        self._queue: collections.deque[list[tuple[str, StoredEvent]]] = collections.deque()
        # User id -> impressions that are queued or being written, in the order of the queue.
        self._unwritten: dict[str, collections.deque[StoredEvent]] = {}
        # Answers that were queued, and that are written or dropped, since the start.
        self._num_queued = 0
        self._num_written = 0
        self._closing = False
        self._writing: asyncio.Task[None] | None = None
        self._upkeep: list[asyncio.Task[None]] = []
        # Operation of the store -> error and time of its latest failure.
        self._problems: dict[str, tuple[str, float]] = {}
        # Errors logged since the store last worked.
        self._logged: set[str] = set()
        self._settings_problem: str | None = None
        # Dropped impressions that are not logged yet.
        self._num_dropped = 0
        self._had_problem = False
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def problem(self) -> str | None:
        """Why the store cannot be used, or None."""
        settings = [self._settings_problem] if self._settings_problem else []
        return " ".join(dict.fromkeys([*self._recent_problems(), *settings])) or None

    def status(self) -> dict[str, Any]:
        """Returns the number of answers whose impressions wait, and the problem, for monitoring."""
        return {"queued_answers": len(self._queue), "problem": self.problem}

    async def read(
        self, user_ids: Sequence[str], impressions: bool, now: float, timeout_ms: float
    ) -> UsersRead:
        """Reads users within a time. It never fails.

        Args:
            user_ids: Ids of the users.
            impressions: Whether to read their impressions, too.
            now: Time of the request, in seconds since 1970.
            timeout_ms: Time for the read in milliseconds.
        """
        started = self._clock()
        # Before the read, because they may be written during it.
        unwritten = [tuple(self._unwritten.get(user_id, ())) for user_id in user_ids]
        found, problem = await self._read(user_ids, impressions, now, timeout_ms)
        if found is not None and impressions:
            found = [_with_shown(*pair, now) for pair in zip(found, unwritten, strict=True)]
        milliseconds = (self._clock() - started) * 1000
        for user in found or [User()] * len(user_ids):
            state = problem or (FOUND if user.is_known else UNKNOWN)
            self._metrics.count("user_reads", state)
        return UsersRead(found, problem, milliseconds)

    def record(self, user_id: str, answer: requests.Answer, asked_at: float) -> None:
        """Queues the ads of an answer as impressions of its user. Returns at once, never fails.

        Args:
            user_id: Id of the user.
            answer: Answer that was sent.
            asked_at: Time of the request, in seconds since 1970. If the user is erased before the
                answer, it stays erased.
        """
        if not self.config.record_impressions or not answer.ads:
            return
        if self._closing or len(self._queue) >= self.config.max_queued:
            self._drop(len(answer.ads))
            return
        shown = [
            StoredEvent(f"{answer.request_id}/{ad.ad_id}", IMPRESSION, ad.ad_id, asked_at)
            for ad in answer.ads
        ]
        self._queue.append([(user_id, event) for event in shown])
        self._unwritten.setdefault(user_id, collections.deque()).extend(shown)
        self._num_queued += 1
        self._start_writing()

    async def append(self, events: Sequence[requests.Event]) -> int:
        """Adds events and returns the number of new ones.

        Args:
            events: Events with their times.

        Raises:
            UserStoreError: The store failed.
        """
        stored = [
            (e.user_id, StoredEvent(e.event_id, e.event, e.ad_id, e.time or 0.0, e.amount))
            for e in events
        ]
        added = await self._limited("write", self._store.append(stored, self.now()))
        self._metrics.count("user_events", "received", len(events))
        return added

    async def get(self, user_id: str) -> User:
        """Returns all stored data of a user.

        Raises:
            UserStoreError: The store failed.
        """

        async def flushed() -> User:
            await self.flush()
            (found,) = await self._store.read([user_id], self.now(), True)
            return found

        return await self._limited("read", flushed())

    async def set_profile(self, user_id: str, profile: Mapping[str, Any]) -> None:
        """Replaces the profile of a user, raw query fields.

        Raises:
            UserStoreError: The store failed.
        """
        await self._limited("write", self._store.set_profile(user_id, profile, self.now()))

    async def delete(self, user_id: str) -> bool:
        """Erases a user from the store; returns whether it had any data.

        For an hour, the store ignores earlier events of the user, see `UserStore.delete`.

        Raises:
            UserStoreError: The store failed.
        """

        async def flushed() -> bool:
            # Queued impressions count as data that the store had.
            await self.flush()
            return await self._store.delete(user_id, self.now())

        return await self._limited("write", flushed())

    def start_upkeep(self) -> None:
        """Starts to check regularly whether the store answers, and to delete expired users."""
        self._upkeep = [self._start(self._probe()), self._start(self._expire())]

    async def flush(self) -> None:
        """Waits until the impressions that are queued now are written, or dropped."""
        until = self._num_queued
        while self._num_written < until:
            await asyncio.wait({self._start_writing()})

    async def close(self) -> None:
        """Writes queued impressions and closes the store; impressions of later answers are dropped.

        So are impressions that the store does not accept within `_CLOSE_SECONDS`.
        """
        self._closing = True
        for task in self._upkeep:
            task.cancel()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.flush()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                with contextlib.suppress(errors.UserStoreError):
                    await self._store.close()
        except TimeoutError:
            await self._give_up()
        self._log_dropped()

    async def _limited(self, operation: str, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Returns the result of an operation of the store within the time for writes."""
        seconds = self.config.write_timeout_seconds

        async def limited() -> _Result:
            try:
                return await asyncio.wait_for(work, seconds)
            except TimeoutError as error:
                raise errors.UserStoreError(
                    f"The user store did not finish a request within {seconds:g} s. Send it again "
                    "later, which is harmless."
                ) from error

        return await self._noted(operation, limited())

    async def _give_up(self) -> None:
        """Drops the impressions that are not written."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._drop(sum(map(len, self._queue)))
        self._queue.clear()
        _logger.error(
            "The user store did not finish within %g s of the end of the service.", _CLOSE_SECONDS
        )

    def _drop(self, count: int) -> None:
        self._metrics.count("user_events", "dropped", count)
        self._num_dropped += count

    def _log_dropped(self) -> None:
        if self._num_dropped:
            _logger.error(
                "%d impressions were dropped, because the user store did not accept them in time. "
                "Frequency caps do not count them.",
                self._num_dropped,
            )
            self._num_dropped = 0

    def _recent_problems(self) -> list[str]:
        since = self._clock() - _PROBLEM_SECONDS
        return [problem for problem, failed_at in self._problems.values() if failed_at > since]

    async def _noted(self, operation: str, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Returns the result of an operation of the store, and notes whether it failed."""
        try:
            result = await work
        except Exception as error:
            if not self._recent_problems():
                self._logged.clear()
            if str(error) not in self._logged:
                self._logged.add(str(error))
                _logger.error("%s", error)
            self._problems[operation] = str(error), self._clock()
            self._observe_problem()
            raise
        if self._problems.pop(operation, None) is not None and not self._recent_problems():
            _logger.warning("The user store can be used again.")
        if not self._queue and not self._recent_problems():
            self._log_dropped()
        self._observe_problem()
        return result

    def _observe_problem(self) -> None:
        has_problem = self.problem is not None
        if has_problem != self._had_problem:
            self._had_problem = has_problem
            self._metrics.observe_problem("user_store_problem", has_problem)

    async def _read(
        self, user_ids: Sequence[str], impressions: bool, now: float, timeout_ms: float
    ) -> tuple[list[User] | None, str | None]:
        if not self._breaker.admit():
            return None, FAILED

        async def noted() -> list[User]:
            return await self._noted("read", self._store.read(user_ids, now, impressions))

        reading = self._start(noted())
        try:
            await asyncio.wait({reading}, timeout=timeout_ms / 1000)
            # If this thread was busy, it sees the reply and the timeout together.
            for _ in range(3):
                if not reading.done():
                    await asyncio.sleep(0)
        except asyncio.CancelledError:
            self._breaker.abandoned()
            raise
        if reading.done() and reading.exception() is None:
            self._breaker.succeeded()
            return reading.result(), None
        if not reading.done():
            if timeout_ms < self.config.read_timeout_ms:
                # A request that was nearly late itself is no evidence about the store.
                self._breaker.abandoned()
            else:
                self._breaker.failed()
            return None, LATE
        self._breaker.failed()
        return None, FAILED

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Starts a task that may outlive its request."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Retrieving the exception keeps asyncio from logging it.
            task.exception()

    def _start_writing(self) -> asyncio.Task[None]:
        if self._writing is None or self._writing.done():
            self._writing = self._start(self._write_queued())
        return self._writing

    async def _write_queued(self) -> None:
        """Writes the impressions of some answers, and starts to write the next ones."""
        count = min(_ANSWERS_PER_WRITE, len(self._queue))
        answers = [self._queue.popleft() for _ in range(count)]
        events = [event for answer in answers for event in answer]
        try:
            await self._noted("write", self._store.append(events, self.now()))
        except asyncio.CancelledError:
            # `close` writes them, which is harmless if they are written already, or counts them.
            self._queue.extendleft(reversed(answers))
            count, events = 0, []
            raise
        except errors.UserStoreError:
            self._drop(len(events))
        else:
            self._metrics.count("user_events", "shown", len(events))
        finally:
            self._num_written += count
            self._forget_unwritten(events)
        if self._queue:
            self._writing = self._start(self._write_queued())

    def _forget_unwritten(self, events: Sequence[tuple[str, StoredEvent]]) -> None:
        """Forgets impressions that are written or dropped, the first of the queue."""
        for user_id, _ in events:
            self._unwritten[user_id].popleft()
            if not self._unwritten[user_id]:
                del self._unwritten[user_id]

    async def _probe(self) -> None:
        """Reads a user regularly, so that a failure and its end are noticed without requests.

        Checks the settings, too: they may change, or be lost with the data.
        """
        # The client of Redis may ignore a cancellation while it connects.
        while not self._closing:
            with contextlib.suppress(errors.UserStoreError):
                await self._noted("read", self._store.read([_PROBE_ID], self.now()))
                await self._check_settings()
            await self._pause(_PROBE_SECONDS)

    async def _check_settings(self) -> None:
        problem = await self._noted("settings", self._store.check_settings())
        if problem not in (None, self._settings_problem):
            _logger.warning("%s", problem)
        self._settings_problem = problem
        self._observe_problem()

    async def _expire(self) -> None:
        """Deletes expired users regularly. Reads and writes work even if that fails."""
        failed = None
        while not self._closing:
            try:
                await self._store.expire(self.now())
                failed = None
            except errors.UserStoreError as error:
                if str(error) not in (failed, *self._recent_problems()):
                    _logger.warning("Expired users are not deleted yet: %s", error)
                failed = str(error)
            await self._pause(_EXPIRE_SECONDS if failed is None else _PROBE_SECONDS)

    async def _pause(self, seconds: float) -> None:
        """Waits between two checks of the store, unless it is being closed."""
        if not self._closing:
            await asyncio.sleep(seconds)


def _with_shown(user: User, shown: Sequence[StoredEvent], now: float) -> User:
    """Returns a user with impressions that the store may not have yet, without those after now."""
    known = {event.event_id for event in user.impressions}
    new = {e.event_id: e for e in shown if e.event_id not in known and e.time <= now}
    if not new:
        return user
    in_order = sorted(
        (*user.impressions, *new.values()), key=lambda event: (event.time, event.event_id)
    )
    return dataclasses.replace(user, impressions=in_order)
