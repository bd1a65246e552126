"""Micro-batches concurrent requests: those that arrive while a call runs share the next call.

A request that arrives while a call may start runs at once and alone, so batching never delays it.
Requests wait only while the maximum number of calls is running.
"""

import asyncio
import collections
import dataclasses
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

from serving import errors

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(eq=False)
class _Waiting(Generic[Item, Result]):
    """An item that waits for a call; see `Batcher.submit`."""

    key: Hashable
    item: Item
    future: "asyncio.Future[Result]"
    timer: asyncio.TimerHandle = dataclasses.field(init=False)

    def give_up(self) -> None:
        """Ends the wait."""
        if not self.future.done():
            self.future.set_exception(TimeoutError("The item waited too long."))


class Batcher(Generic[Item, Result]):
    """Runs a function on batches of items. Use it from one event loop."""

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        max_running: int,
        can_share: Callable[[Sequence[Item]], bool],
    ) -> None:
        """Creates a batcher."""
        self._run = run
        self._max_running = max_running
        self._can_share = can_share
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: collections.deque[_Waiting[Item, Result]] = collections.deque()

    @property
    def num_waiting(self) -> int:
        """Number of items that wait for a call."""
        return len(self._waiting)

    async def submit(self, key: Hashable, item: Item, max_wait_seconds: float) -> Result:
        """Returns the result of an item."""
        if not self._waiting and self._running < self._max_running:
            self._running += 1
            try:
                (result,) = await self._run([item])
            finally:
                self._end()
            return result
        loop = asyncio.get_running_loop()
        waiting: _Waiting[Item, Result] = _Waiting(key, item, loop.create_future())
        waiting.timer = loop.call_later(max(max_wait_seconds, 0.0), waiting.give_up)
        self._waiting.append(waiting)
        self._start()
        return await waiting.future

    def _end(self) -> None:
        self._running -= 1
        self._start()

    def _start(self) -> None:
        """Starts calls for waiting items, up to the maximum number."""
        while self._waiting and self._running < self._max_running:
            members = self._next()
            if members:
                self._running += 1
                task = asyncio.get_running_loop().create_task(self._serve(members))
                # The event loop keeps only a weak reference to a task.
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _next(self) -> list[_Waiting[Item, Result]]:
        """Removes the first waiting item and the following ones that share its call."""
        taken: list[_Waiting[Item, Result]] = []
        left: collections.deque[_Waiting[Item, Result]] = collections.deque()
        is_full = False
        for entry in self._waiting:
            if entry.future.done():  # It gave up, or the request was canceled.
                continue
            if taken and entry.key == taken[0].key and not is_full:
                is_full = not self._can_share([*(other.item for other in taken), entry.item])
            if taken and (is_full or entry.key != taken[0].key):
                left.append(entry)
                continue
            entry.timer.cancel()
            taken.append(entry)
        self._waiting = left
        return taken

    async def _serve(self, members: Sequence[_Waiting[Item, Result]]) -> None:
        try:
            await self._resolve(members)
        finally:
            self._end()

    async def _resolve(self, members: Sequence[_Waiting[Item, Result]]) -> None:
        try:
            results = await self._run([member.item for member in members])
        except Exception as error:
            if len(members) > 1:
                # One item may have caused the error; the others must not fail with it.
                for member in members:
                    await self._resolve([member])
            elif not members[0].future.done():
                members[0].future.set_exception(error)
            return
        for member, result in zip(members, results, strict=True):
            if not member.future.done():
                member.future.set_result(result)


async def answer_each(
    answer: Callable[[Item], Awaitable[Result]], requests: Iterable[Item], at_once: int
) -> list[Result | errors.ServingError]:
    """Answers the requests of a batch as many single ones, so that they share calls.

    Args:
        answer: Answers a request.
        requests: Requests.
        at_once: Number of requests in flight at a time.

    Returns:
        The answer to each request, or the error that refused it.
    """
    turns = asyncio.Semaphore(at_once)

    async def outcome(request: Item) -> Result | errors.ServingError:
        async with turns:
            try:
                return await answer(request)
            except errors.ServingError as error:
                return error

    return await asyncio.gather(*map(outcome, requests))
