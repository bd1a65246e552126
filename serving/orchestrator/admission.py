"""A bounded queue: what could not be answered in a useful time is refused at the door."""

import contextlib
from collections.abc import Iterator

import prometheus_client

from serving import errors

RETRY_AFTER_SECONDS = 1


class Admission:
    """Counts the work that is in hand. For one event loop, no threads.

    Args:
        most: Requests in hand, beyond which others are refused.
        gauge: Follows their number; None = nobody looks.
    """

    def __init__(self, most: int, gauge: prometheus_client.Gauge | None = None) -> None:
        self._most = most
        self._gauge = gauge
        self.in_flight = 0

    @contextlib.contextmanager
    def admitted(self, num_requests: int = 1) -> Iterator[None]:
        """Holds places while requests are answered.

        A batch that is larger than the whole queue is let in when nothing else is in hand.

        Raises:
            OverloadedError: There are no places.
        """
        if self.in_flight and self.in_flight + num_requests > self._most:
            raise errors.OverloadedError(
                f"{self.in_flight} requests are in hand, at most {self._most} may be. Send it again "
                f"in {RETRY_AFTER_SECONDS} s, or more slowly; more workers or replicas take more."
            )
        self._count(num_requests)
        try:
            yield
        finally:
            self._count(-num_requests)

    def _count(self, num_requests: int) -> None:
        self.in_flight += num_requests
        if self._gauge is not None:
            self._gauge.inc(num_requests)
