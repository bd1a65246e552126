"""A circuit breaker, which pauses calls to a server that fails repeatedly.

    closed ── consecutive failures ──► open ── pause elapsed ──► one trial call
       ▲                                ▲                              │
       └─────────── success ────────────┼────────── failure ───────────┘

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
    """Counts failures and decides whether a call is allowed. Not thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._pause = _PAUSE_SECONDS
        self._open_until: float | None = None
        self._is_trying = False

    @property
    def is_open(self) -> bool:
        """Whether calls are paused, except for trial calls."""
        return self._open_until is not None

    def admit(self) -> bool:
        """Returns whether a call is allowed. Report its end as succeeded, failed or abandoned."""
        if self._open_until is None:
            return True
        if self._is_trying or self._clock() < self._open_until:
            return False
        self._is_trying = True
        return True

    def succeeded(self) -> None:
        """Records a successful call."""
        self._failures = 0
        self._pause = _PAUSE_SECONDS
        self._open_until = None
        self._is_trying = False

    def failed(self) -> None:
        """Records a call that failed because of the server."""
        self._failures += 1
        was_trial, self._is_trying = self._is_trying, False
        if was_trial:
            self._pause = min(2 * self._pause, _MAX_PAUSE_SECONDS)
        if was_trial or (self._failures >= _FAILURES_TO_OPEN and not self.is_open):
            self._open_until = self._clock() + self._pause

    def abandoned(self) -> None:
        """Records a call whose end is no evidence about the server, such as a cancellation."""
        self._is_trying = False
