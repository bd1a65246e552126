"""Admission control: refuses requests that would be late, and bounds the work in a process.

A request waits for those ahead of it. By Little's law, the last of n requests in flight is answered
after n times the mean time between two answers, so requests whose deadline is earlier are refused
before any work is done for them. The limit on concurrency that follows adapts to the machine, the
release and the load: a slower ranker, or another process on the same cores, lowers it within about
25 answers. Requests with longer deadlines may queue longer.

References: J. D. C. Little, A Proof for the Queuing Formula L = λW, Operations Research 9(3), 1961.
B. Maurer, Fail at Scale, ACM Queue 13(8), 2015, "Controlled delay".
"""

import contextlib
import time
from collections.abc import Callable, Iterator

import prometheus_client

from serving import errors, requests

RETRY_AFTER_SECONDS = 1
# Time between answers before the first ones are known.
_FIRST_INTERVAL_SECONDS = 0.01
# Weight of the latest answer in the mean time between answers. Answers to requests that shared a
# call come together: with a weight of 0.1, the mean is too low after them, and at three times the
# capacity a tenth of the answers were late.
_WEIGHT = 0.04
# Share of its deadline that a request may be expected to take. The rest is a margin for
# what the mean cannot predict: slower requests, and cores that other processes use. With 0.75,
# a tenth of the answers at three times the capacity were late.
_SHARE = 0.5


class Admission:
    """Counts requests and ads in flight in a process. Not thread-safe: use it from one event loop.

    Args:
        max_in_flight: Maximum number of requests in flight.
        max_ads: Maximum number of ads that the requests in flight need.
        gauge: Exports the number of requests in flight. None: not exported.
        clock: Returns seconds.

    Attributes:
        in_flight: Number of requests in flight.
    """

    def __init__(
        self,
        max_in_flight: int,
        max_ads: int,
        gauge: prometheus_client.Gauge | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._max_in_flight = max_in_flight
        self._max_ads = max_ads
        self._gauge = gauge
        self._clock = clock
        self.in_flight = 0
        self._ads = 0
        self._interval = _FIRST_INTERVAL_SECONDS
        self._last_answer = -float("inf")

    def refusal(
        self, deadline: requests.Deadline, num_ads: int = 0
    ) -> errors.OverloadedError | None:
        """Returns why a request is refused at the moment, or None.

        It is admitted if nothing is in flight.

        Args:
            deadline: Deadline of the request.
            num_ads: Number of ads that it needs.
        """
        if not self.in_flight:
            return None
        if self.in_flight >= self._max_in_flight:
            return _overloaded(
                f"{self.in_flight} requests are in flight; the maximum is {self._max_in_flight}."
            )
        if self._ads + num_ads > self._max_ads:
            return _overloaded(
                f"The requests in flight need {self._ads} ads, and {num_ads} more would exceed the "
                f"maximum of {self._max_ads}."
            )
        expected_ms = (self.in_flight + 1) * self._interval * 1000
        allowed_ms = _SHARE * deadline.remaining_ms()
        if expected_ms > allowed_ms:
            return _overloaded(
                f"With {self.in_flight} requests in flight, an answer is expected to take "
                f"{requests.milliseconds_text(expected_ms)}; the limit is "
                f"{requests.milliseconds_text(allowed_ms)}, {_SHARE:.0%} of the time "
                f"left until the deadline of {deadline.milliseconds:g} ms."
            )
        return None

    @contextlib.contextmanager
    def admitted(self, deadline: requests.Deadline, num_ads: int = 0) -> Iterator[None]:
        """Counts a request as in flight until the block ends.

        Args:
            deadline: Deadline of the request.
            num_ads: Number of ads that it needs.

        Raises:
            OverloadedError: The process has too many requests or ads in flight, or the request
                would miss its deadline.
        """
        refusal = self.refusal(deadline, num_ads)
        if refusal is not None:
            raise refusal
        started = self._clock()
        self._count(1, num_ads)
        try:
            yield
            self._note_answer(started)
        finally:
            self._count(-1, -num_ads)

    def _note_answer(self, started: float) -> None:
        """Updates the mean time between answers; idle time does not count."""
        now = self._clock()
        elapsed = now - max(started, self._last_answer)
        self._interval += _WEIGHT * (elapsed - self._interval)
        self._last_answer = now

    def _count(self, num_requests: int, num_ads: int) -> None:
        self.in_flight += num_requests
        self._ads += num_ads
        if self._gauge is not None:
            self._gauge.inc(num_requests)


def _overloaded(reason: str) -> errors.OverloadedError:
    return errors.OverloadedError(
        f"{reason} Retry in {RETRY_AFTER_SECONDS} s, send requests at a lower rate, or add workers "
        "or replicas."
    )
