"""The deadline of a request; it travels with the request through every stage."""

import dataclasses
import time
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Deadline:
    """A point in time on the monotonic clock.

    Attributes:
        milliseconds: Time from the arrival of the request to the deadline.
        started: Time of arrival in seconds, by `clock`.
        clock: Returns seconds.
    """

    milliseconds: float
    started: float
    clock: Callable[[], float] = time.perf_counter

    def remaining_ms(self) -> float:
        """Returns the milliseconds that are left; negative after the deadline."""
        return self.milliseconds - (self.clock() - self.started) * 1000
