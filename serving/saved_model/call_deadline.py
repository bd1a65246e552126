"""The deadline of the request that the current thread or task handles."""

import contextlib
import contextvars
import math
from collections.abc import Iterator

_deadline: contextvars.ContextVar[float] = contextvars.ContextVar("deadline", default=math.inf)


@contextlib.contextmanager
def deadline_at(deadline: float) -> Iterator[None]:
    """Sets the deadline of the calls in the block.

    Args:
        deadline: Time on the clock of `time.monotonic`. Infinity sets no deadline.
    """
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


def current_deadline() -> float:
    """Returns the deadline on the clock of `time.monotonic`; infinity without a deadline."""
    return _deadline.get()
