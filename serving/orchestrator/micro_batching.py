"""Micro-batches concurrent requests: those that arrive while a call runs share the next call.

A request that arrives while a thread is free runs at once and alone, so batching never delays it.
Requests wait only while all threads are busy.
"""

import asyncio
import collections
import dataclasses
from collections.abc import Callable, Hashable, Sequence
from concurrent import futures
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(eq=False)
class _Waiting(Generic[Item, Result]):
    """An item that waits for a call; see `Batcher.submit`."""

    key: Hashable
    item: Item
    future: "asyncio.Future[Result]"
    is_late: Callable[[], bool] | None = None


class Batcher(Generic[Item, Result]):
    """Runs a blocking function on batches of items in threads. Use it from one event loop."""

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        executor: futures.Executor,
        *,
        max_running: int,
        max_items: int,
    ) -> None:
        """Creates a batcher.

        Args:
            run: Maps items to results, in the same order.
            executor: Executor that `run` is called in.
            max_running: Maximum number of concurrent calls.
            max_items: Maximum number of items per call.
        """
        self._run = run
        self._executor = executor
        self._max_running = max_running
        self._max_items = max_items
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: collections.deque[_Waiting[Item, Result]] = collections.deque()

    async def submit(self, key: Hashable, item: Item, is_late: Callable[[], bool]) -> Result:
        """Returns the result of an item.

        Args:
            key: Only items with equal keys share a call.
            item: Argument for `run`.
            is_late: Returns whether the result is no longer needed.

        Raises:
            TimeoutError: The item had to wait, and was late when its turn came.
            Exception: `run` raised it for this item.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(key, item, future)
        self._waiting.append(waiting)
        self._start()
        # An item that is started at once is never late.
        waiting.is_late = is_late
        return await future

    def _start(self) -> None:
        while self._waiting and self._running < self._max_running:
            members = self._next()
            if members:
                self._running += 1
                task = asyncio.get_running_loop().create_task(self._serve(members))
                # The event loop keeps only a weak reference to a task.
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _next(self) -> list[tuple[Item, "asyncio.Future[Result]"]]:
        """Removes the first waiting item and the following ones with the same key."""
        key = self._waiting[0].key
        taken: list[tuple[Item, asyncio.Future[Result]]] = []
        skipped = []
        while self._waiting and len(taken) < self._max_items:
            entry = self._waiting.popleft()
            if entry.future.done():  # The request was canceled.
                continue
            if entry.is_late is not None and entry.is_late():
                entry.future.set_exception(TimeoutError("The item waited too long."))
            elif entry.key == key:
                taken.append((entry.item, entry.future))
            else:
                skipped.append(entry)
        self._waiting.extendleft(reversed(skipped))
        return taken

    async def _serve(self, members: Sequence[tuple[Item, "asyncio.Future[Result]"]]) -> None:
        try:
            await self._resolve(members)
        finally:
            self._running -= 1
            self._start()

    async def _resolve(self, members: Sequence[tuple[Item, "asyncio.Future[Result]"]]) -> None:
        loop = asyncio.get_running_loop()
        items = [item for item, _ in members]
        try:
            results = await loop.run_in_executor(self._executor, self._run, items)
        except Exception as error:
            if len(members) > 1:
                # One item may have caused the error; the others must not fail with it.
                for member in members:
                    await self._resolve([member])
            elif not members[0][1].done():
                members[0][1].set_exception(error)
            return
        for (_, future), result in zip(members, results, strict=True):
            if not future.done():
                future.set_result(result)
