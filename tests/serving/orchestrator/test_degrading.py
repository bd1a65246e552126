"""What a request gets when time, ranker or places run short."""

import asyncio
import dataclasses
import threading
import time

import numpy as np
import pytest
import serving_fixtures

from serving import errors, ranker, requests
from serving.config import BreakerConfig, OrchestratorConfig, RankingConfig
from serving.orchestrator import admission

REQUEST = requests.Request(user={"country": "CH", "age": 33}, context={"device": "phone"})


@pytest.fixture
def run(tiny_bundle):
    """Runs `scenario(orchestrator)` in an event loop of its own."""

    def run_scenario(scenario, address, config=None):
        async def main():
            service = serving_fixtures.make_orchestrator(tiny_bundle, address, config)
            try:
                return await scenario(service)
            finally:
                await service.close()

        return asyncio.run(main())

    return run_scenario


def test_a_breaker_opens_after_failures_in_a_row_and_lets_one_call_through_after_a_pause(
    monkeypatch,
):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    config = BreakerConfig(failures_to_open=3, pause_seconds=1, most_pause_seconds=3)
    circuit = ranker.CircuitBreaker(config)
    for _ in range(2):
        assert circuit.admit()
        circuit.failed()
    circuit.succeeded()  # The row is broken.
    for _ in range(3):
        assert circuit.admit()
        circuit.failed()
    assert (circuit.state, circuit.admit()) == ("open", False)
    pauses = []
    for _ in range(3):  # Each call that fails doubles the pause, from 1 to at most 3 seconds.
        start = now[0]
        while not circuit.admit():
            now[0] += 0.25
        assert not circuit.admit()  # One at a time.
        pauses.append(now[0] - start)
        circuit.failed()
    assert pauses == [1.0, 2.0, 3.0]
    now[0] += 3
    assert circuit.admit()
    circuit.abandoned()  # It said nothing, so another may try.
    assert circuit.admit()
    circuit.succeeded()
    assert (circuit.state, circuit.admit()) == ("closed", True)


def test_the_pace_is_a_line_through_what_calls_took():
    learnt = ranker.Pace()
    assert learnt.expected_ms(500) == 0.0
    learnt.observe(500, 10.0)
    # All calls alike: a quarter is taken to be fixed, so half the scores take 10 - 0.75 * 5.
    assert learnt.expected_ms(250) == pytest.approx(6.25)
    for _ in range(100):
        learnt.observe(500, 10.0)
        learnt.observe(100, 4.0)
    # 2.5 ms, and 0.015 for each score.
    assert learnt.expected_ms(300) == pytest.approx(7.0)
    assert learnt.expected_ms(0) == pytest.approx(2.5)


def test_places_are_given_back_and_a_batch_larger_than_all_of_them_is_let_in_alone():
    places = admission.Admission(2)
    with places.admitted(), places.admitted():
        with (
            pytest.raises(errors.OverloadedError, match="2 requests are in hand, at most 2"),
            places.admitted(),
        ):
            raise KeyError
        assert places.in_hand == 2
    with pytest.raises(KeyError), places.admitted(5):
        raise KeyError
    assert places.in_hand == 0


class _Slow:
    """Holds replies for so long for each candidate; the probes' replies go at once."""

    def __init__(self, seconds_per_score):
        self.seconds_per_score = seconds_per_score

    def __call__(self, reply):
        count = reply.outputs["click_probability"].tensor_shape.dim[1].size
        if count > 20:  # The probes have 20 candidates.
            time.sleep(self.seconds_per_score * count)


def test_with_less_time_than_all_candidates_take_the_best_of_them_are_ranked(run, ranker_address):
    config = OrchestratorConfig(num_candidates=300, default_deadline_ms=30_000)
    hurried = dataclasses.replace(REQUEST, deadline_ms=180)

    async def scenario(service):
        full = [await service.recommend(REQUEST) for _ in range(3)]
        fewer = [await service.recommend(hurried) for _ in range(6)]
        at_ease = await service.recommend(REQUEST)
        return full, fewer, at_ease

    # 300 candidates take 0.3 s, 150 take 0.15 and 75 take 0.08 of the 0.18 s that there are.
    with serving_fixtures.altering_server(ranker_address, _Slow(0.001)) as address:
        full, fewer, at_ease = run(scenario, address, config)
    assert {answer.degraded for answer in [*full, at_ease]} == {None}
    assert any("Ranked the best 75 of 300 candidates" in str(answer.degraded) for answer in fewer)
    for answer in fewer:
        assert answer.degraded is not None
        if answer.order == "utility":
            utilities = [ad.utility for ad in answer.ads]
            assert utilities == sorted(utilities, reverse=True)
            # The best of those with the greatest retrieval scores.
            assert "left no time for more" in answer.degraded
    ranked = next(answer for answer in fewer if answer.order == "utility")
    retrieved = run(
        lambda service: service.recommend(dataclasses.replace(REQUEST, k=150)),
        f"127.0.0.1:{serving_fixtures.free_port()}",
        config,
    )
    assert {ad.ad_id for ad in ranked.ads} <= {ad.ad_id for ad in retrieved.ads}


def test_as_many_are_ranked_as_the_answer_shows(run, ranker_address):
    config = OrchestratorConfig(num_candidates=300, default_deadline_ms=30_000)

    async def scenario(service):
        for _ in range(3):
            await service.recommend(REQUEST)
        return await service.recommend(dataclasses.replace(REQUEST, k=200, deadline_ms=500))

    # 300 take 0.6 s, the 200 that are asked for 0.4.
    with serving_fixtures.altering_server(ranker_address, _Slow(0.002)) as address:
        answer = run(scenario, address, config)
    assert len(answer.ads) == 200
    assert answer.order == "retrieval" or "Ranked the best 200 of 300" in answer.degraded


def test_a_call_that_fails_at_once_is_made_again_for_half_of_the_candidates(run, ranker_address):
    calls = []

    def fail_once(reply):
        count = reply.outputs["click_probability"].tensor_shape.dim[1].size
        calls.append(count)
        if calls.count(300) == 1 and count == 300:
            raise RuntimeError("planted")

    config = OrchestratorConfig(num_candidates=300, default_deadline_ms=30_000)

    async def scenario(service):
        return [await service.recommend(REQUEST) for _ in range(2)]

    with serving_fixtures.altering_server(ranker_address, fail_once) as address:
        first, second = run(scenario, address, config)
    assert calls == [20, 300, 150, 300]
    assert first.degraded == (
        "Ranked the best 150 of 300 candidates by retrieval: a first call failed."
    )
    assert (first.order, second.degraded) == ("utility", None)


def test_a_ranker_that_hangs_is_left_alone_and_asked_again_after_a_pause(run, ranker_address):
    held = threading.Event()
    pauses = BreakerConfig(failures_to_open=3, pause_seconds=0.3, most_pause_seconds=0.3)
    config = OrchestratorConfig(default_deadline_ms=200, ranker=RankingConfig(pauses=pauses))
    patient = dataclasses.replace(REQUEST, deadline_ms=30_000)

    async def scenario(service):
        held.set()
        assert (await service.recommend(patient)).degraded is None
        held.clear()
        paused = None
        for _ in range(30):
            answer = await service.recommend(REQUEST)
            assert answer.order == "retrieval"
            if "did not answer within" in answer.degraded and "asked again" in answer.degraded:
                paused = answer
                break
        held.set()
        for _ in range(200):
            answer = await service.recommend(patient)
            if answer.degraded is None:
                return paused
            await asyncio.sleep(0.05)
        raise AssertionError(f"Not asked again: {answer.degraded}")

    with serving_fixtures.altering_server(ranker_address, lambda _: held.wait(30)) as address:
        paused = run(scenario, address, config)
    # It did not wait for the ranker: nothing like the 200 ms of the deadline.
    assert paused.stage_ms["ranker"] < 50


def test_a_ranker_that_is_busy_until_the_deadline_gives_retrieval_order(run, ranker_address):
    config = OrchestratorConfig(default_deadline_ms=30_000, ranker=RankingConfig(most_calls=1))
    held = threading.Event()
    held.set()

    async def scenario(service):
        await service.recommend(REQUEST)
        held.clear()
        first = asyncio.create_task(service.recommend(REQUEST))
        while not service.admission.in_hand:
            await asyncio.sleep(0)
        await asyncio.sleep(0.2)
        waiting = await service.recommend(dataclasses.replace(REQUEST, deadline_ms=200))
        held.set()
        return waiting, await first

    with serving_fixtures.altering_server(ranker_address, lambda _: held.wait(30)) as address:
        waiting, first = run(scenario, address, config)
    assert (waiting.order, first.degraded) == ("retrieval", None)
    assert "The ranker was busy until the deadline of 200 ms" in waiting.degraded


def test_a_crowd_shares_the_time_so_that_all_are_ranked(run, ranker_address):
    config = OrchestratorConfig(
        num_candidates=300,
        default_deadline_ms=30_000,
        ranker=RankingConfig(most_calls=1, least_candidates=25),
    )
    hurried = dataclasses.replace(REQUEST, deadline_ms=2_500)

    async def scenario(service):
        for _ in range(3):
            assert (await service.recommend(REQUEST)).degraded is None
        return await asyncio.gather(*(service.recommend(hurried) for _ in range(20)))

    # One at a time, 300 candidates take 0.3 s: in 2.5 s no more than eight requests are ranked so.
    with serving_fixtures.altering_server(ranker_address, _Slow(0.001)) as address:
        answers = run(scenario, address, config)
    assert sum(answer.order == "utility" for answer in answers) >= 15
    assert any("Ranked the best" in str(answer.degraded) for answer in answers)


def test_requests_beyond_the_places_are_refused_and_the_others_answered(run, ranker_address):
    config = OrchestratorConfig(max_in_hand=8, default_deadline_ms=30_000)

    async def scenario(service):
        results = await asyncio.gather(
            *(service.recommend(REQUEST) for _ in range(20)), return_exceptions=True
        )
        return results, service.admission.in_hand, await service.recommend(REQUEST)

    results, in_hand, after = run(scenario, ranker_address, config)
    refused = [result for result in results if isinstance(result, errors.OverloadedError)]
    assert len(refused) == 12
    assert {result.degraded for result in results if result not in refused} == {None}
    assert (in_hand, after.degraded) == (0, None)


def test_time_that_passed_before_the_service_began_counts(run, ranker_address):
    async def scenario(service):
        await service.recommend(REQUEST)
        earlier = time.perf_counter() - 0.5
        return await service.recommend(dataclasses.replace(REQUEST, deadline_ms=400), earlier)

    answer = run(scenario, ranker_address)
    assert "No time was left to rank: the deadline is 400 ms." in answer.degraded
    assert answer.stage_ms["total"] > 500


def test_scores_of_fewer_candidates_are_those_of_all(run, ranker_address):
    """A candidate's score does not depend on its neighbours, so fewer give the same scores."""
    config = OrchestratorConfig(num_candidates=300, default_deadline_ms=30_000)

    def fail_large(reply):
        if reply.outputs["click_probability"].tensor_shape.dim[1].size == 300:
            raise RuntimeError("planted")

    async def scenario(service):
        return await service.recommend(dataclasses.replace(REQUEST, k=300))

    full = run(scenario, ranker_address, config)
    some = dataclasses.replace(REQUEST, k=40)
    with serving_fixtures.altering_server(ranker_address, fail_large) as address:
        fewer = run(lambda service: service.recommend(some), address, config)
    utilities = {ad.ad_id: ad.utility for ad in full.ads}
    assert fewer.degraded.startswith("Ranked the best 150 of 300")
    np.testing.assert_allclose(
        [ad.utility for ad in fewer.ads], [utilities[ad.ad_id] for ad in fewer.ads], atol=1e-5
    )
