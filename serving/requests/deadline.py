"""How long a request may take; it travels with the request through every stage."""

import dataclasses
import time
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Deadline:
    """A point in time on a monotonic clock.

    Attributes:
        milliseconds: From the request's arrival.
        started: What the clock said at its arrival.
        clock: Returns seconds.
    """

    milliseconds: float
    started: float
    clock: Callable[[], float] = time.perf_counter

    def remaining_ms(self) -> float:
        """Returns the milliseconds that are left, below 0 when it is over."""
        return self.milliseconds - (self.clock() - self.started) * 1000
