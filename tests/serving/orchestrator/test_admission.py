"""Admission control: limits, and requests that cannot be answered in time."""

import contextlib

import clocks
import pytest

from serving import errors, requests
from serving.orchestrator import admission


@pytest.fixture
def clock():
    return clocks.Clock()


def within(clock, milliseconds):
    return requests.Deadline(milliseconds, clock(), clock)


def answer_in(limit, clock, seconds):
    with limit.admitted(within(clock, 60_000)):
        clock.advance(seconds)


def test_admission_is_released_and_a_request_above_the_limits_is_admitted_alone(clock):
    limit = admission.Admission(2, 100, clock=clock)
    ample = within(clock, 60_000)
    with limit.admitted(ample), limit.admitted(ample):
        with (
            pytest.raises(
                errors.OverloadedError, match="2 requests are in flight; the maximum is 2"
            ),
            limit.admitted(ample),
        ):
            raise KeyError
        assert limit.in_flight == 2
    with pytest.raises(KeyError), limit.admitted(ample, 1_000):
        raise KeyError
    assert limit.in_flight == 0
    with limit.admitted(ample, 60):
        assert limit.refusal(ample, 40) is None
        assert "need 60 ads, and 41 more would exceed the maximum of 100" in str(
            limit.refusal(ample, 41)
        )


def test_a_request_that_would_be_late_is_refused(clock):
    limit = admission.Admission(100, 1_000, clock=clock)
    for _ in range(400):
        answer_in(limit, clock, 0.1)
        # Idle time says nothing about the time of an answer.
        clock.advance(50.0)
    with contextlib.ExitStack() as held:
        for _ in range(4):
            held.enter_context(limit.admitted(within(clock, 60_000)))
        # The fifth takes 5 * 100 ms, and half of its time is reserved.
        assert limit.refusal(within(clock, 1_001)) is None
        refusal = str(limit.refusal(within(clock, 999)))
        assert (
            "With 4 requests in flight, an answer is expected to take 500 ms; the limit is 500 ms, "
            "50% of the time left until the deadline of 999 ms." in refusal
        )
        # The time that it has waited counts.
        waited = within(clock, 1_300)
        assert limit.refusal(waited) is None
        clock.advance(0.4)
        assert limit.refusal(waited) is not None
    # Nothing is ahead of it: it is answered as well as the time allows.
    assert limit.refusal(within(clock, 1)) is None


def overload(service_seconds, per_second, deadline_ms, seconds=20.0):
    """Simulates a server that answers one request after another.

    Args:
        service_seconds: Returns the duration of an answer, given the time.
        per_second: Requests per second, at equal distances.
        deadline_ms: Deadline of each request.
        seconds: Duration.

    Returns:
        Latency of each answer in milliseconds.
    """
    clock = clocks.Clock()
    begin = clock()
    limit = admission.Admission(100_000, 10**9, clock=clock)
    # End and arrival of each admitted request, and the block that ends with it.
    served, latencies = [], []

    def answer_until(now):
        while served and served[0][0] <= now:
            end, arrival, block = served.pop(0)
            clock.advance(end - clock())
            block.close()
            latencies.append((end - arrival) * 1000)
        clock.advance(now - clock())

    free_at = begin
    for number in range(int(seconds * per_second)):
        arrival = begin + number / per_second
        answer_until(arrival)
        block = contextlib.ExitStack()
        with contextlib.suppress(errors.OverloadedError):
            block.enter_context(limit.admitted(within(clock, deadline_ms)))
            free_at = max(free_at, arrival) + service_seconds(arrival - begin)
            served.append((free_at, arrival, block))
    answer_until(free_at)
    return latencies


@pytest.mark.parametrize("deadline_ms", [100, 2_000])
@pytest.mark.parametrize("load", [1, 2, 3, 10])
def test_an_overloaded_server_answers_at_its_capacity_and_in_time(load, deadline_ms):
    # 100 answers a second for 20 seconds.
    latencies = overload(lambda _: 0.01, 100 * load, deadline_ms)
    in_time = sum(latency <= deadline_ms for latency in latencies)
    assert in_time >= 0.99 * len(latencies)
    assert in_time >= 0.9 * 100 * 20


def test_admission_adapts_to_a_server_that_becomes_slower_and_faster():
    # 100 answers a second, 25 in the seconds from 8 to 12, at 150 requests a second.
    latencies = overload(lambda at: 0.04 if 8 <= at < 12 else 0.01, 150, 2_000)
    in_time = sum(latency <= 2_000 for latency in latencies)
    # Only requests admitted at the faster pace are late: half of 2 s * 100 are in flight when it
    # changes.
    assert len(latencies) - in_time <= 100
    # 16 s * 100 + 4 s * 25.
    assert in_time >= 0.9 * 1_700 - 100
