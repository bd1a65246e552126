"""Admission control: limits the number of requests in flight and refuses the rest."""

import contextlib
from collections.abc import Iterator

import prometheus_client

from serving import errors

RETRY_AFTER_SECONDS = 1


class Admission:
    """Counts requests in flight. Not thread-safe: use it from one event loop.

    Args:
        max_in_flight: Maximum number of requests in flight; further requests are refused.
        gauge: Exports the number of requests in flight. None: not exported.
    """

    def __init__(self, max_in_flight: int, gauge: prometheus_client.Gauge | None = None) -> None:
        self._max_in_flight = max_in_flight
        self._gauge = gauge
        self.in_flight = 0

    @contextlib.contextmanager
    def admitted(self, num_requests: int = 1) -> Iterator[None]:
        """Counts requests as in flight until the block ends.

        A batch larger than the limit is admitted if nothing else is in flight.

        Args:
            num_requests: Number of requests to admit.

        Raises:
            OverloadedError: The limit is reached.
        """
        if self.in_flight and self.in_flight + num_requests > self._max_in_flight:
            raise errors.OverloadedError(
                f"{self.in_flight} requests are in flight; the maximum is {self._max_in_flight}. "
                f"Retry in {RETRY_AFTER_SECONDS} s, send requests at a lower rate, or add workers "
                "or replicas."
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
