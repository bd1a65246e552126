"""Waits for other threads and processes that set no event."""

import asyncio
import threading
import time
from collections.abc import Callable

# Guards against hangs; far beyond what a loaded machine takes.
GUARD_SECONDS = 240
_POLL_SECONDS = 0.01
# Pause between the requests of a client that puts load on a service: without it, the clients would
# use more processor time than the service.
PAUSE_SECONDS = 0.02


def until(condition: Callable[[], object]) -> None:
    """Returns once the condition holds."""
    end = time.monotonic() + GUARD_SECONDS
    poll = threading.Event()
    while not condition():
        assert time.monotonic() < end, f"it did not happen within {GUARD_SECONDS} s"
        poll.wait(_POLL_SECONDS)


async def becomes(condition):
    """Waits until a condition holds, while the event loop runs."""
    async with asyncio.timeout(GUARD_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)
