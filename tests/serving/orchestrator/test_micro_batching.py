"""Waiting items share the next call, and no item waits while a thread is free."""

import asyncio
import threading

import pytest

from serving.orchestrator import micro_batching


def scenario(main, run, *, max_running=1, max_items=4):
    """Runs `main(batcher)` in an event loop of its own."""

    async def with_batcher():
        return await main(
            micro_batching.Batcher(
                lambda items: asyncio.to_thread(run, items),
                max_running=max_running,
                can_share=lambda items: len(items) <= max_items,
            )
        )

    return asyncio.run(with_batcher())


def test_a_request_that_finds_a_free_thread_runs_alone_and_waiting_ones_share_a_call():
    calls, began, go = [], threading.Event(), threading.Event()

    def run(items):
        calls.append(list(items))
        began.set()
        assert go.wait(30)
        return [item * 10 for item in items]

    async def main(batches):
        first = asyncio.create_task(batches.submit("a", 1, 60))
        assert await asyncio.to_thread(began.wait, 30)
        assert calls == [[1]]  # At once, and alone.
        keys = "aabaaaa"
        others = [asyncio.create_task(batches.submit(k, n, 60)) for n, k in enumerate(keys, 2)]
        # After the first step of each task.
        asyncio.get_running_loop().call_soon(go.set)
        return await asyncio.gather(first, *others)

    assert scenario(main, run) == [10, 20, 30, 40, 50, 60, 70, 80]
    # At most four of one key; skipped items keep their position.
    assert calls == [[1], [2, 3, 5, 6], [4], [7, 8]]


def test_an_error_fails_only_the_item_that_caused_it():
    go = threading.Event()

    def run(items):
        assert go.wait(30)
        if 3 in items:
            raise KeyError("three")
        return list(items)

    async def main(batches):
        tasks = [asyncio.create_task(batches.submit("a", n, 60)) for n in (1, 2, 3, 4)]
        # After the first step of each task.
        asyncio.get_running_loop().call_soon(go.set)
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = scenario(main, run)
    assert found[:2] + found[3:] == [1, 2, 4]
    with pytest.raises(KeyError, match="three"):
        raise found[2]


class HeldRun:
    """A computation that waits until it may go on."""

    def __init__(self):
        self.calls, self.began, self.go = [], threading.Event(), threading.Event()

    def __call__(self, items):
        self.calls.append(list(items))
        self.began.set()
        assert self.go.wait(30)
        return list(items)


def test_an_item_that_is_canceled_while_it_waits_is_not_computed():
    held = HeldRun()

    async def main(batches):
        tasks = [asyncio.create_task(batches.submit("a", n, 60)) for n in (1, 2, 3)]
        assert await asyncio.to_thread(held.began.wait, 30)
        tasks[1].cancel()
        # After the task has ended.
        asyncio.get_running_loop().call_soon(held.go.set)
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = scenario(main, held)
    assert (found[0], found[2], held.calls) == (1, 3, [[1], [3]])
    assert isinstance(found[1], asyncio.CancelledError)


def test_an_item_that_waits_too_long_is_not_computed():
    held = HeldRun()

    async def main(batches):
        first = asyncio.create_task(batches.submit("a", 1, 0.0))
        assert await asyncio.to_thread(held.began.wait, 30)
        second = asyncio.create_task(batches.submit("a", 2, 60.0))
        with pytest.raises(TimeoutError):
            await batches.submit("a", 3, 0.0)
        held.go.set()
        return await asyncio.gather(first, second)

    # An item that starts at once is never late.
    assert scenario(main, held) == [1, 2]
    assert held.calls == [[1], [2]]
