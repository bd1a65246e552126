"""How long a request may take; it travels with the request through every stage."""

import dataclasses
import time


@dataclasses.dataclass(frozen=True)
class Deadline:
    """A point in time, on a clock that nobody can set.

    Attributes:
        milliseconds: From the request's arrival.
        started: `time.perf_counter()` at its arrival.
    """

    milliseconds: float
    started: float

    def remaining_ms(self) -> float:
        """Returns the milliseconds that are left, below 0 when it is over."""
        return self.milliseconds - (time.perf_counter() - self.started) * 1000
