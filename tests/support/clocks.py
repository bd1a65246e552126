"""A clock that a test moves."""

import threading


class Clock:
    """A clock that only `advance` moves, which any thread may call.

    Attributes:
        advances: Seconds of each call of `advance`.
    """

    def __init__(self) -> None:
        self.advances: list[float] = []
        self._now = 1_000.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Moves the clock forward; stands in for `time.sleep` too."""
        with self._lock:
            self.advances.append(seconds)
            self._now += seconds
