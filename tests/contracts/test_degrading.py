"""Degraded answers: too little time, a failing ranker, or too many requests."""

import asyncio
import contextlib
import threading

import clocks
import numpy as np
import pytest
import serving_fixtures
import waiting

from serving import errors, ranker, requests
from serving.config import OrchestratorConfig, RankingConfig
from serving.model_server import server, tensor_codec

REQUEST = requests.Request(user={"country": "CH", "age": 33}, context={"device": "phone"})


@pytest.fixture
def clock():
    """The orchestrator's clock, which only tests advance."""
    return clocks.Clock()


@pytest.fixture
def run(tiny_bundle, clock):
    """Runs `scenario(orchestrator)` in an event loop of its own."""

    def run_scenario(scenario, address, config=None):
        async def main():
            service = serving_fixtures.make_orchestrator(tiny_bundle, address, config, clock=clock)
            try:
                return await scenario(service)
            finally:
                await service.close()

        return asyncio.run(main())

    return run_scenario


def test_the_pace_is_a_linear_fit_of_the_latency():
    learned = ranker.Pace()
    assert learned.expected_ms(500) == 0.0
    learned.observe(500, 10.0)
    # All calls have one size: a quarter counts as fixed, so half the scores take 10 - 0.75 * 5.
    assert learned.expected_ms(250) == pytest.approx(6.25)
    for _ in range(100):
        learned.observe(500, 10.0)
        learned.observe(100, 4.0)
    # 2.5 ms, and 0.015 for each score.
    assert learned.expected_ms(300) == pytest.approx(7.0)
    assert learned.expected_ms(0) == pytest.approx(2.5)


def num_requests(reply):
    return reply.outputs["click_probability"].tensor_shape.dim[0].size


def num_scored(reply):
    return reply.outputs["click_probability"].tensor_shape.dim[1].size


@pytest.fixture
def slow_address(ranker_address, clock):
    """Address of a ranker that takes 0.1 s of the clock for each candidate."""

    def take_time(reply):
        if num_scored(reply) > 20:  # The probes have 20 candidates.
            clock.advance(0.1 * num_scored(reply))

    with serving_fixtures.altering_server(ranker_address, take_time) as address:
        yield address


def test_if_time_is_short_only_the_best_candidates_are_ranked(run, slow_address):
    config = OrchestratorConfig(num_candidates=300, default_deadline_ms=60_000)
    hurried = serving_fixtures.changed(REQUEST, deadline_ms=18_000)

    async def scenario(service):
        full = [await service.recommend(REQUEST) for _ in range(3)]
        fewer = [await service.recommend(hurried) for _ in range(6)]
        return full, fewer, await service.recommend(REQUEST)

    # 300 candidates take 30 s. A call may take 1.25 times what is expected, and 18 s are less than
    # that for 150: at first 1.25 * (30 - 0.75 * 15) = 23.4 s, then 18.75 s as learned from 75.
    full, fewer, at_ease = run(scenario, slow_address, config)
    assert {answer.degraded for answer in [*full, at_ease]} == {None}
    for answer in fewer:
        assert answer.degraded == (
            "Ranked the best 75 of 300 retrieved candidates: the deadline of 18000 ms left no "
            "time for more."
        )
        assert answer.order == "utility"
        assert answer.stage_ms["ranker"] == pytest.approx(7_500)
        utilities = [ad.utility for ad in answer.ads]
        assert utilities == sorted(utilities, reverse=True)
    retrieved = run(
        lambda service: service.recommend(serving_fixtures.changed(REQUEST, k=75)),
        f"127.0.0.1:{serving_fixtures.free_port()}",
        config,
    )
    assert {ad.ad_id for ad in fewer[0].ads} <= {ad.ad_id for ad in retrieved.ads}


def test_at_least_k_candidates_are_ranked(run, slow_address):
    config = OrchestratorConfig(num_candidates=300, default_deadline_ms=60_000)

    async def scenario(service):
        for _ in range(3):
            await service.recommend(REQUEST)
        return await service.recommend(serving_fixtures.changed(REQUEST, k=200, deadline_ms=25_000))

    # 300 take 30 s, and the 200 requested ones 20 s.
    answer = run(scenario, slow_address, config)
    assert len(answer.ads) == 200
    assert "Ranked the best 200 of 300" in answer.degraded


def test_a_failed_call_is_retried_with_half_of_the_candidates(run, ranker_address):
    calls = []

    def fail_once(reply):
        calls.append(num_scored(reply))
        if calls.count(300) == 1 and calls[-1] == 300:
            raise RuntimeError("injected")

    config = OrchestratorConfig(num_candidates=300, default_deadline_ms=30_000)

    async def scenario(service):
        return [await service.recommend(REQUEST) for _ in range(2)]

    with serving_fixtures.altering_server(ranker_address, fail_once) as address:
        first, second = run(scenario, address, config)
    # The probes, with 20 candidates, run again after the failure.
    assert [count for count in calls if count != 20] == [300, 150, 300]
    assert first.degraded == (
        "Ranked the best 150 of 300 retrieved candidates: the first ranker call failed."
    )
    assert (first.order, second.degraded) == ("utility", None)


def test_requests_with_scores_of_nan_do_not_keep_others_from_being_ranked(run, ranker_address):
    poisoned = [True] * 8

    def edit(reply):
        if num_scored(reply) != 20 and poisoned and poisoned.pop():
            for output in reply.outputs.values():
                output.ClearField("tensor_content")
                output.float_val[:] = [float("nan")] * num_scored(reply)

    config = OrchestratorConfig(num_candidates=300, default_deadline_ms=30_000)

    async def scenario(service):
        # Each request calls the ranker twice.
        return [await service.recommend(REQUEST) for _ in range(5)]

    with serving_fixtures.altering_server(ranker_address, edit) as address:
        *bad, good = run(scenario, address, config)
    assert {answer.order for answer in bad} == {"retrieval"}
    assert all("contains only NaN or infinity" in answer.degraded for answer in bad)
    assert (good.order, good.degraded) == ("utility", None)


def test_a_request_that_the_ranker_rejects_degrades_no_other_of_its_batch(run, ranker_address):
    alone = []

    def edit(reply):
        requests, ads = (dim.size for dim in reply.outputs["click_probability"].tensor_shape.dim)
        if ads == 20:  # the probes
            return
        alone.append(requests == 1)
        # The first is alone. The others together; then the first of them, and half of its
        # candidates.
        if requests == 3 or sum(alone) in (2, 3):
            raise RuntimeError("injected")

    config = OrchestratorConfig(
        num_candidates=300, default_deadline_ms=30_000, ranker=RankingConfig(max_calls=1)
    )

    async def scenario(service):
        return await serving_fixtures.together(service, [REQUEST] * 4)

    with serving_fixtures.altering_server(ranker_address, edit) as address:
        answers = run(scenario, address, config)
    assert [answer.order for answer in answers] == ["utility", "retrieval", "utility", "utility"]
    assert [answer.degraded is None for answer in answers] == [True, False, True, True]


def test_a_score_of_nan_counts_as_0_and_its_ad_is_named(run, ranker_address):
    def edit(reply):
        if num_scored(reply) == 300:  # Not the probes.
            reply.outputs["click_probability"].float_val[7] = np.nan

    config = OrchestratorConfig(num_candidates=300, default_deadline_ms=30_000)
    all_ads = serving_fixtures.changed(REQUEST, k=300)

    async def scenario(service):
        found = await service._retrieval.find(
            service.check(REQUEST), 300, requests.Deadline(30_000, service._clock(), service._clock)
        )
        return found.ads.ad_ids(found.rows[0, 7:8]), await service.recommend(all_ads)

    with serving_fixtures.altering_server(ranker_address, edit) as address:
        (bad,), answer = run(scenario, address, config)
    assert answer.order == "utility"
    assert answer.degraded == (
        f"The ranker's score of ad {bad!r} is NaN or infinite; expected a finite number. 1 score "
        "counts as 0."
    )
    assert [ad.ad_id for ad in answer.ads if ad.click_probability == 0] == [bad]
    assert len(answer.ads) == 300


def test_a_ranker_that_recovers_is_found_without_requests(run, ranker_address):
    broken = threading.Event()

    def edit(reply):
        if broken.is_set():
            raise RuntimeError("injected")

    async def scenario(service):
        assert (await service.recommend(REQUEST)).degraded is None
        broken.set()
        assert (await service.recommend(REQUEST)).order == "retrieval"
        await waiting.becomes(lambda: service.health.problems)
        broken.clear()
        await service.observe()
        assert service.health.problems == {}

    with serving_fixtures.altering_server(ranker_address, edit) as address:
        run(scenario, address)


class _Held:
    """Holds the ranker's replies while `go_on` is not set."""

    def __init__(self):
        self.go_on, self.arrived = threading.Event(), threading.Event()
        self.go_on.set()

    def __call__(self, reply):
        if not self.go_on.is_set():
            self.arrived.set()
        assert self.go_on.wait(60)


def test_a_hanging_ranker_opens_the_circuit_breaker_until_its_probes_pass(run, ranker_address):
    held = _Held()
    config = OrchestratorConfig(default_deadline_ms=200)
    patient = serving_fixtures.changed(REQUEST, deadline_ms=60_000)

    async def scenario(service):
        assert (await service.recommend(patient)).degraded is None
        held.go_on.clear()
        late = [await service.recommend(REQUEST) for _ in range(4)]
        paused = await service.recommend(patient)
        held.go_on.set()
        # The probes close the breaker.
        await service.observe()
        return late, paused, await service.recommend(patient)

    with serving_fixtures.altering_server(ranker_address, held) as address:
        late, paused, again = run(scenario, address, config)
    for answer in late:
        assert answer.order == "retrieval"
        assert "did not answer within" in answer.degraded
        assert "called again shortly" not in answer.degraded
    assert (paused.order, again.degraded) == ("retrieval", None)
    assert "It is called again shortly." in paused.degraded


def test_a_call_in_flight_is_answered_by_the_next_server_when_its_own_ends(run, ranker_address):
    held = _Held()
    config = OrchestratorConfig(num_candidates=300, default_deadline_ms=60_000)

    async def scenario(service, ending):
        full = await service.recommend(REQUEST)
        held.go_on.clear()
        # The servers take turns.
        asked = []
        while not held.arrived.is_set():
            asked.append(asyncio.create_task(service.recommend(REQUEST)))
            await asyncio.to_thread(held.arrived.wait, 0.5)
        # Drops the call, as TensorFlow Serving does on SIGTERM.
        await asyncio.to_thread(ending.close)
        return [full, *await asyncio.gather(*asked), await service.recommend(REQUEST)]

    with contextlib.ExitStack() as ending:
        first = ending.enter_context(serving_fixtures.altering_server(ranker_address, held))
        answers = run(
            lambda service: scenario(service, ending), f"ipv4:{first},{ranker_address}", config
        )
        held.go_on.set()
    assert {answer.degraded for answer in answers} == {None}
    assert len({tuple(ad.ad_id for ad in answer.ads) for answer in answers}) == 1


def test_a_ranker_without_a_free_thread_is_named_and_used_again(run, tiny_base):
    async def scenario(service, running):
        full = await service.recommend(REQUEST)
        with serving_fixtures.taken_thread(running):
            # More often than failures open the circuit breaker.
            busy = [await service.recommend(REQUEST) for _ in range(5)]
        return full, busy, await service.recommend(REQUEST)

    with server.ModelServer({"ranker": tiny_base / "ranker"}, grpc_max_threads=1) as running:
        full, busy, again = run(
            lambda service: scenario(service, running), f"127.0.0.1:{running.port}"
        )
    assert (full.degraded, again.degraded) == (None, None)
    for answer in busy:
        assert answer.order == "retrieval"
        assert "had no free thread" in answer.degraded


def test_a_ranker_that_is_busy_until_the_deadline_gives_retrieval_order(run, ranker_address):
    config = OrchestratorConfig(default_deadline_ms=60_000, ranker=RankingConfig(max_calls=1))
    held = _Held()

    async def scenario(service):
        await service.recommend(REQUEST)
        held.go_on.clear()
        first = asyncio.create_task(service.recommend(REQUEST))
        assert await asyncio.to_thread(held.arrived.wait, 60)
        late = serving_fixtures.changed(REQUEST, deadline_ms=200)
        # The first of them frees no call for the second when it stops waiting.
        waiting = [await service.recommend(late) for _ in range(2)]
        held.go_on.set()
        return waiting, await first

    with serving_fixtures.altering_server(ranker_address, held) as address:
        waiting, first = run(scenario, address, config)
    assert first.degraded is None
    for answer in waiting:
        assert answer.order == "retrieval"
        assert "The ranker was busy until the deadline of 200 ms" in answer.degraded


def test_concurrent_requests_share_the_time_so_that_all_are_ranked(run, ranker_address, clock):
    config = OrchestratorConfig(
        num_candidates=300,
        default_deadline_ms=60_000,
        ranker=RankingConfig(max_calls=1, min_candidates=25),
    )
    hurried = serving_fixtures.changed(REQUEST, deadline_ms=50_000)
    held = _Held()

    def take_time(reply):
        held(reply)
        if num_scored(reply) != 20:  # the probes
            clock.advance(0.02 * num_scored(reply) * num_requests(reply))

    async def scenario(service):
        for _ in range(2):
            assert (await service.recommend(REQUEST)).degraded is None
        held.go_on.clear()
        crowd = asyncio.gather(*(service.recommend(hurried) for _ in range(20)))
        # One is being ranked, and the others wait for it.
        await asyncio.to_thread(waiting.until, lambda: service._ranking._batcher.num_waiting == 19)
        held.go_on.set()
        return await crowd

    # One at a time, 300 candidates take 6 s: in 50 s no more than eight requests are ranked so.
    with serving_fixtures.altering_server(ranker_address, take_time) as address:
        answers = run(scenario, address, config)
    assert {answer.order for answer in answers} == {"utility"}
    assert sum("Ranked the best" in str(answer.degraded) for answer in answers) >= 12


@pytest.fixture
def ask_together(run, ranker_address):
    """Asks requests while the only call to the ranker is taken, so that they wait together.

    Returns their answers, and the number of requests of each call. `edit(reply)` may change a reply
    of a call, or fail it.
    """

    def ask(asked, edit=lambda reply: None, **options):
        config = OrchestratorConfig(
            num_candidates=300,
            default_deadline_ms=60_000,
            ranker=RankingConfig(max_calls=1),
            **options,
        )
        held, calls = _Held(), []

        def count(reply):
            held(reply)
            if num_scored(reply) != 20:  # the probes
                calls.append(num_requests(reply))
                edit(reply)

        async def scenario(service):
            for _ in range(2):
                assert (await service.recommend(REQUEST)).degraded is None
            held.go_on.clear()
            first = asyncio.create_task(service.recommend(REQUEST))
            assert await asyncio.to_thread(held.arrived.wait, 60)
            others = asyncio.gather(*map(service.recommend, asked))
            await waiting.becomes(lambda: service._ranking._batcher.num_waiting == len(asked))
            calls.clear()
            held.go_on.set()
            await first
            return await others

        with serving_fixtures.altering_server(ranker_address, count) as address:
            return run(scenario, address, config), calls[1:]

    return ask


def test_requests_that_wait_for_the_ranker_share_a_call(run, ranker_address, ask_together):
    asked = [
        serving_fixtures.changed(REQUEST, user={"country": country, "age": age}, k=k)
        for country, age, k in (("CH", 33, 10), ("DE", 50, 20), ("FR", None, 5), ("CH", 20, 10))
    ]
    answers, calls = ask_together(asked)
    assert calls == [4]

    async def one_by_one(service):
        return [await service.recommend(request) for request in asked]

    config = OrchestratorConfig(num_candidates=300, default_deadline_ms=60_000)
    for answer, alone in zip(answers, run(one_by_one, ranker_address, config), strict=True):
        assert answer.degraded is None
        assert [ad.ad_id for ad in answer.ads] == [ad.ad_id for ad in alone.ads]
        np.testing.assert_allclose(
            [ad.utility for ad in answer.ads], [ad.utility for ad in alone.ads], rtol=1e-4
        )


def test_a_shared_call_has_requests_with_similar_deadlines_and_no_more_than_allowed(ask_together):
    # The others have 60 s.
    similar, other = (
        serving_fixtures.changed(REQUEST, deadline_ms=seconds * 1000) for seconds in (50, 20)
    )
    asked = [REQUEST, other, similar, *[REQUEST] * 3]
    answers, calls = ask_together(asked, requests_per_call=3)
    assert sorted(calls) == [1, 2, 3]
    assert {answer.degraded for answer in answers} == {None}


def test_a_request_with_bad_scores_degrades_no_other_of_its_call(ask_together):
    def spoil(reply):
        if num_requests(reply) == 3:
            for output in reply.outputs.values():
                scores = tensor_codec.decode(output).copy()
                scores[1, :7] = np.nan
                output.CopyFrom(tensor_codec.encode_tensor(scores))

    answers, calls = ask_together([REQUEST] * 3, spoil)
    assert calls == [3]
    (degraded,) = {answer.degraded for answer in answers} - {None}
    assert "7 scores count as 0." in degraded
    assert [answer.degraded for answer in answers].count(None) == 2


def test_a_request_that_the_ranker_rejects_degrades_no_other_of_its_call(ask_together):
    seen = []

    def reject(reply):
        seen.append(num_requests(reply))
        # After the held one: the three together; then the second one, and half of its candidates.
        if seen[-1] == 3 or (3 in seen and len(seen) - seen.index(3) in (3, 4)):
            raise RuntimeError("injected")

    answers, calls = ask_together([REQUEST] * 3, reject)
    assert calls == [3, 1, 1, 1, 1]
    assert sorted(answer.order for answer in answers) == ["retrieval", "utility", "utility"]


def test_requests_above_the_limit_are_refused_and_the_others_answered(run, ranker_address):
    config = OrchestratorConfig(max_in_flight=8, default_deadline_ms=30_000)

    async def scenario(service):
        results = await asyncio.gather(
            *(service.recommend(REQUEST) for _ in range(20)), return_exceptions=True
        )
        return results, service.admission.in_flight, await service.recommend(REQUEST)

    results, in_flight, after = run(scenario, ranker_address, config)
    refused = [result for result in results if isinstance(result, errors.OverloadedError)]
    assert len(refused) == 12
    assert {result.degraded for result in results if result not in refused} == {None}
    assert (in_flight, after.degraded) == (0, None)


def test_time_that_passed_before_the_service_began_counts(run, ranker_address, clock):
    async def scenario(service):
        await service.recommend(REQUEST)
        return await service.recommend(
            serving_fixtures.changed(REQUEST, deadline_ms=400), clock() - 0.5
        )

    answer = run(scenario, ranker_address)
    assert "No time was left for ranking: the deadline is 400 ms." in answer.degraded
    assert answer.stage_ms["total"] == pytest.approx(500)


def test_scores_do_not_depend_on_the_number_of_candidates(run, ranker_address):
    """A candidate's score does not depend on its neighbors, so fewer give the same scores."""
    config = OrchestratorConfig(num_candidates=300, default_deadline_ms=30_000)

    def fail_large(reply):
        if num_scored(reply) == 300:
            raise RuntimeError("injected")

    async def scenario(service):
        return await service.recommend(serving_fixtures.changed(REQUEST, k=300))

    full = run(scenario, ranker_address, config)
    some = serving_fixtures.changed(REQUEST, k=40)
    with serving_fixtures.altering_server(ranker_address, fail_large) as address:
        fewer = run(lambda service: service.recommend(some), address, config)
    utilities = {ad.ad_id: ad.utility for ad in full.ads}
    assert fewer.degraded.startswith("Ranked the best 150 of 300")
    np.testing.assert_allclose(
        [ad.utility for ad in fewer.ads], [utilities[ad.ad_id] for ad in fewer.ads], atol=1e-5
    )
