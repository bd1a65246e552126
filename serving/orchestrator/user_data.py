"""Reads and writes the user store for the requests of a process, and never delays them for long.

    data = UserData(users.open_store("sqlite:users.db"), config, metrics, health)
    read = await data.read("u17", impressions=False, now=time.time(), timeout_ms=5.0)

A late read continues without its request, so that a slow connection is open for the next one. A
store that fails or is late repeatedly is not used for a while (`CircuitBreaker`). Impressions are
written in the background, those of many answers at a time.
"""

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from serving import errors, requests, users
from serving.circuit_breaker import CircuitBreaker
from serving.config import UserStoreConfig
from serving.health import Health
from serving.orchestrator import service_metrics
from serving.users import StoredEvent, User
from tfrecords.schema import IMPRESSION

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")
_Impressions: TypeAlias = list[tuple[str, StoredEvent]]

PART = "user store"
FOUND, UNKNOWN, LATE, FAILED = "found", "unknown", "late", "failed"
# Answers whose impressions share a write.
_ANSWERS_PER_WRITE = 100
_EXPIRE_SECONDS = 3600.0
_PROBE_SECONDS = 5.0
# A store that hangs must not delay the shutdown of the service for longer.
_CLOSE_SECONDS = 5.0
# Not a valid user id, so the health probe never reads real data.
_PROBE_ID = ""


@dataclasses.dataclass(frozen=True)
class UserRead:
    """Result of reading the data of a user.

    Attributes:
        user: Stored data; None if the store did not answer.
        problem: `late` or `failed`; None if it answered.
        milliseconds: Duration in milliseconds.
    """

    user: User | None
    problem: str | None
    milliseconds: float


class UserData:
    """The user store of a process. Use it from one event loop.

    Args:
        store: The store, which `close` closes.
        config: Options. None: the defaults.
        metrics: Metrics to update. None: new ones.
        health: Where problems of the store are reported. None: nowhere.
        clock: Returns seconds, for durations and the circuit breaker.
        now: Returns the time in seconds since 1970.
    """

    def __init__(
        self,
        store: users.UserStore,
        config: UserStoreConfig | None = None,
        metrics: service_metrics.ServiceMetrics | None = None,
        health: Health | None = None,
        clock: Callable[[], float] = time.perf_counter,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.config = config or UserStoreConfig()
        self.now = now
        self._store = store
        self._metrics = metrics or service_metrics.ServiceMetrics()
        self._health = health or Health()
        self._clock = clock
        self._breaker = CircuitBreaker(clock)
        # Operation of the store -> why its last call failed.
        self._problems: dict[str, str] = {}
        # The impressions of an answer, or what `flush` waits for.
        self._queue: asyncio.Queue[_Impressions | asyncio.Future[None]] = asyncio.Queue(
            self.config.max_queued
        )
        # What `flush` waits for, once the events that were taken with it are written.
        self._reached: list[asyncio.Future[None]] = []
        # The writer, from the first answer on, and the upkeep.
        self._background: dict[str, asyncio.Task[None]] = {}
        # Reads that may outlive their requests.
        self._reading: set[asyncio.Task[User]] = set()
        self._is_closing = False

    def start_upkeep(self) -> None:
        """Starts to check regularly whether the store answers, and to delete expired users."""
        self._start("upkeep", self._maintain)

    def status(self) -> dict[str, Any]:
        """Returns the number of answers whose impressions wait, and the problem, for monitoring."""
        return {"queued_answers": self._queue.qsize(), "problem": self._health.problem(PART)}

    async def read(
        self, user_id: str, impressions: bool, now: float, timeout_ms: float
    ) -> UserRead:
        """Reads a user within a time. It never fails.

        Args:
            user_id: Id of the user.
            impressions: Whether to read the impressions, too.
            now: Time of the request, in seconds since 1970.
            timeout_ms: Time for the read in milliseconds.
        """
        started = self._clock()
        found, problem = await self._read(user_id, impressions, now, timeout_ms)
        outcome = problem or (FOUND if found is not None and found.is_known else UNKNOWN)
        self._metrics.count("user_reads", outcome)
        return UserRead(found, problem, (self._clock() - started) * 1000)

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
        shown = [
            StoredEvent(f"{answer.request_id}/{ad.ad_id}", IMPRESSION, ad.ad_id, asked_at)
            for ad in answer.ads
        ]
        if self._is_closing or self._queue.full():
            self._metrics.count("user_events", "dropped", len(shown))
            return
        self._queue.put_nowait([(user_id, event) for event in shown])
        self._start("writer", self._write)

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
            return await self._store.read(user_id, self.now(), True)

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

    async def flush(self) -> None:
        """Waits until the impressions that are queued now are written, or dropped."""
        self._start("writer", self._write)
        reached = asyncio.get_running_loop().create_future()
        await self._queue.put(reached)
        await reached

    async def close(self) -> None:
        """Writes queued impressions and closes the store; impressions of later answers are dropped.

        So are impressions that the store does not accept within `_CLOSE_SECONDS`.
        """
        self._is_closing = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.flush()
        tasks = [*self._background.values(), *self._reading]
        for task in tasks:
            task.cancel()
        with contextlib.suppress(TimeoutError, errors.UserStoreError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await asyncio.gather(*tasks, return_exceptions=True)
                await self._store.close()
        left: _Impressions = []
        while not self._queue.empty():
            left += self._taken(self._queue.get_nowait())
        if left:
            self._metrics.count("user_events", "dropped", len(left))
            _logger.error("%d impressions were not written to the user store in time.", len(left))

    def _start(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if name not in self._background:
            self._background[name] = asyncio.get_running_loop().create_task(work())

    async def _limited(self, operation: str, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Returns the result of an operation of the store within the time for writes."""
        seconds = self.config.write_timeout_seconds
        try:
            result = await asyncio.wait_for(work, seconds)
        except TimeoutError as error:
            late = errors.UserStoreError(
                f"The user store did not finish a request within {seconds:g} s. Send it again "
                "later, which is harmless."
            )
            self._note(operation, late)
            raise late from error
        except errors.UserStoreError as error:
            self._note(operation, error)
            raise
        self._note(operation, None)
        return result

    def _note(self, operation: str, error: Exception | str | None) -> None:
        """Records whether an operation of the store works."""
        self._problems.pop(operation, None)
        if error is not None:
            self._problems[operation] = str(error)
        self._health.set(PART, " ".join(dict.fromkeys(self._problems.values())) or None)

    async def _read(
        self, user_id: str, impressions: bool, now: float, timeout_ms: float
    ) -> tuple[User | None, str | None]:
        if not self._breaker.admit():
            return None, FAILED

        async def noted() -> User:
            try:
                found = await self._store.read(user_id, now, impressions)
            except errors.UserStoreError as error:
                self._note("read", error)
                raise
            self._note("read", None)
            return found

        reading = asyncio.get_running_loop().create_task(noted())
        self._reading.add(reading)
        reading.add_done_callback(self._read_ended)
        try:
            await asyncio.wait({reading}, timeout=timeout_ms / 1000)
            # If this thread was busy, it sees the reply and the timeout together.
            for _ in range(3):
                if not reading.done():
                    await asyncio.sleep(0)
        except asyncio.CancelledError:
            self._breaker.abandoned()
            raise
        if not reading.done():
            if timeout_ms < self.config.read_timeout_ms:
                # A request that was nearly late itself is no evidence about the store.
                self._breaker.abandoned()
            else:
                self._breaker.failed()
            return None, LATE
        if reading.exception() is not None:
            self._breaker.failed()
            return None, FAILED
        self._breaker.succeeded()
        return reading.result(), None

    def _read_ended(self, task: asyncio.Task[User]) -> None:
        self._reading.discard(task)
        if not task.cancelled():
            # Retrieving the exception keeps asyncio from logging it.
            task.exception()

    async def _write(self) -> None:
        """Writes queued impressions."""
        while True:
            events = self._taken(await self._queue.get())
            outcome = "dropped"
            try:
                if events:
                    await self._store.append(events, self.now())
                    self._note("write", None)
                outcome = "shown"
            except Exception as error:
                # Later impressions must be written, whatever is wrong with these.
                self._note("write", error)
            finally:
                self._metrics.count("user_events", outcome, len(events))
                for reached in self._reached:
                    if not reached.done():
                        reached.set_result(None)
                self._reached.clear()

    def _taken(self, first: _Impressions | asyncio.Future[None]) -> _Impressions:
        """Takes answers from the queue, after the first one, and returns their events."""
        taken = [first]
        while len(taken) < _ANSWERS_PER_WRITE and not self._queue.empty():
            taken.append(self._queue.get_nowait())
        self._reached += [one for one in taken if isinstance(one, asyncio.Future)]
        return [event for one in taken if isinstance(one, list) for event in one]

    async def _maintain(self) -> None:
        """Notices a failure and its end without requests, and deletes expired users."""
        expired_at = -_EXPIRE_SECONDS
        # The client of Redis may ignore a cancellation while it connects.
        while not self._is_closing:
            try:
                await self._store.read(_PROBE_ID, self.now())
                self._note("read", None)
                if time.monotonic() - expired_at >= _EXPIRE_SECONDS:
                    await self._store.expire(self.now())
                    expired_at = time.monotonic()
                self._note("maintenance", None)
            except errors.UserStoreError as error:
                self._note("maintenance", error)
            await asyncio.sleep(_PROBE_SECONDS)
