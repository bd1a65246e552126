"""Until when the caller of the request in this thread waits for its answer."""

import contextlib
import contextvars
import math
import time
from collections.abc import Iterator

_deadline: contextvars.ContextVar[float] = contextvars.ContextVar("deadline", default=math.inf)


@contextlib.contextmanager
def deadline_within(seconds: float | None) -> Iterator[None]:
    """Sets the deadline of what runs in the block; None for none."""
    with deadline_at(math.inf if seconds is None else time.monotonic() + seconds):
        yield


@contextlib.contextmanager
def deadline_at(deadline: float) -> Iterator[None]:
    """Sets the deadline of what runs in the block, by `time.monotonic`; infinity for none."""
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


def current_deadline() -> float:
    """Returns the deadline by `time.monotonic`; infinity if there is none."""
    return _deadline.get()
