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


def milliseconds_text(milliseconds: float) -> str:
    """Returns a duration for a message, such as `0.4 ms` or `1500 ms`.

    Args:
        milliseconds: Duration in milliseconds; a negative one counts as 0.
    """
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{max(0.0, milliseconds):.2g} ms"
