"""Puts what waits into one call: while calls run, others gather, and nobody waits for more.

Whoever comes while a place is free is served at once and alone: a lone request is never delayed.
Only when all places are taken do requests wait, and those that wait share the next call.
"""

import asyncio
import collections
from collections.abc import Callable, Hashable, Sequence
from concurrent import futures
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Runs a blocking function of many items in threads. For one event loop at a time."""

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        executor: futures.Executor,
        *,
        max_running: int,
        max_items: int,
    ) -> None:
        """Prepares it.

        Args:
            run: Returns the results of items, in their order.
            executor: Where it runs.
            max_running: Calls at once.
            max_items: Of one call.
        """
        self._run = run
        self._executor = executor
        self._max_running = max_running
        self._max_items = max_items
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: collections.deque[tuple[Hashable, Item, asyncio.Future[Result]]] = (
            collections.deque()
        )

    async def submit(self, key: Hashable, item: Item) -> Result:
        """Returns the result of an item.

        Args:
            key: Only items of one key share a call.
            item: What is asked for.

        Raises:
            Exception: What `run` raises of this item alone.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, item, future))
        self._start()
        return await future

    def _start(self) -> None:
        while self._waiting and self._running < self._max_running:
            members = self._next()
            if members:
                self._running += 1
                task = asyncio.get_running_loop().create_task(self._serve(members))
                # The loop itself keeps no more than a weak reference to a task.
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _next(self) -> list[tuple[Item, "asyncio.Future[Result]"]]:
        """Takes the first that waits, and those of its key behind it."""
        key = self._waiting[0][0]
        taken: list[tuple[Item, asyncio.Future[Result]]] = []
        others = []
        while self._waiting and len(taken) < self._max_items:
            entry = self._waiting.popleft()
            if entry[2].done():  # Its request was given up.
                continue
            if entry[0] == key:
                taken.append(entry[1:])
            else:
                others.append(entry)
        self._waiting.extendleft(reversed(others))
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
                # One of them may be at fault, and the others are not to suffer for it.
                for member in members:
                    await self._resolve([member])
            elif not members[0][1].done():
                members[0][1].set_exception(error)
            return
        for (_, future), result in zip(members, results, strict=True):
            if not future.done():
                future.set_result(result)
