"""A circuit breaker, which pauses calls to a server that fails repeatedly.

    closed ── consecutive failures ──► open ── pause elapsed ──► half-open: one trial call
       ▲                                 ▲                            │
       └──────────── success ────────────┼───────── failure ──────────┘

References: M. Nygard, Release It!, 2nd edition, 2018, "Circuit Breaker".
"""

import time
from collections.abc import Callable

# Consecutive failures that open the breaker.
_FAILURES_TO_OPEN = 4
# Time until the first trial call, which doubles after each one that fails.
_PAUSE_SECONDS = 0.5
_MAX_PAUSE_SECONDS = 4.0


class CircuitBreaker:
    """Counts failures and decides whether a call is allowed. Not thread-safe.

    Args:
        clock: Monotonic clock in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._pause = _PAUSE_SECONDS
        self._open_until: float | None = None
        self._trying = False

    @property
    def state(self) -> str:
        """`closed`, `open` or `half_open`."""
        if self._open_until is None:
            return "closed"
        return "open" if self._clock() < self._open_until else "half_open"

    def admit(self) -> bool:
        """Returns whether a call is allowed. Report its end as succeeded, failed or abandoned."""
        state = self.state
        if state == "closed":
            return True
        if state == "open" or self._trying:
            return False
        self._trying = True
        return True

    def succeeded(self) -> None:
        """Records a successful call."""
        self._failures = 0
        self._pause = _PAUSE_SECONDS
        self._open_until = None
        self._trying = False

    def failed(self) -> None:
        """Records a call that failed because of the server."""
        self._failures += 1
        tried, self._trying = self._trying, False
        if tried:
            self._pause = min(2 * self._pause, _MAX_PAUSE_SECONDS)
        if tried or (self._failures >= _FAILURES_TO_OPEN and self.state == "closed"):
            self._open_until = self._clock() + self._pause

    def abandoned(self) -> None:
        """Records a call whose end is no evidence about the server, such as a cancellation."""
        self._trying = False
