import asyncio
import shutil
import threading

import clocks
import killed
import numpy as np
import pytest
import serving_fixtures
import tensorflow as tf

from serving import errors, orchestrator, ranker, releases
from serving.config import OrchestratorConfig
from serving.requests import Filters, Request

REQUEST = Request(
    user={"country": "CH", "age": 33, "history": ["ad-3", "ad-8"]}, context={"device": "phone"}
)
ROW = {"country": "CH", "age": 33, "device": "phone", "history": ["ad-3", "ad-8"]}


@pytest.fixture
def run(tiny_bundle, ranker_address):
    """Runs `scenario(orchestrator)` in an event loop of its own."""

    def run_scenario(scenario, address=ranker_address, release=tiny_bundle, config=None, **options):
        async def main():
            service = serving_fixtures.make_orchestrator(release, address, config, **options)
            try:
                return await scenario(service)
            finally:
                await service.close()

        return asyncio.run(main())

    return run_scenario


def scores_of(answer):
    return [(ad.ad_id, ad.utility, ad.click_probability) for ad in answer.ads]


def assert_same_ads(one, other):
    assert [ad.ad_id for ad in one.ads] == [ad.ad_id for ad in other.ads]
    for name in ("utility", "click_probability", "expected_revenue", "retrieval_score"):
        values = [[getattr(ad, name) for ad in answer.ads] for answer in (one, other)]
        np.testing.assert_allclose(*values, atol=1e-5)


def direct_utilities(base, row, weights):
    """Scores the whole catalog with the SavedModel itself, [N]."""
    model = tf.saved_model.load(str(base / "ranker/1")).signatures["serving_default"]
    features = tf.constant(serving_fixtures.ad_features()[None])
    outputs = model(**serving_fixtures.raw_inputs([row]), ad_features=features)
    return sum(
        weight * outputs[serving_fixtures.OUTPUTS[head]].numpy()[0]
        for head, weight in weights.items()
    )


@pytest.mark.parametrize(
    "weights",
    [
        {"click": 1.0, "engagement": 1.0, "revenue": 1.0},
        {"click": 0.0, "engagement": 0.0, "revenue": 1.0},
        {"click": -2.0, "engagement": 0.5, "revenue": 0.0},
    ],
)
def test_the_ten_ads_are_those_of_greatest_utility(run, tiny_base, weights):
    request = serving_fixtures.changed(REQUEST, weights=weights, request_id="r-1")
    answer = run(lambda service: service.recommend(request))
    utilities = direct_utilities(tiny_base, ROW, weights)
    best = np.argsort(-utilities)[:10]
    assert [ad.ad_id for ad in answer.ads] == [f"ad-{row}" for row in best]
    np.testing.assert_allclose([ad.utility for ad in answer.ads], utilities[best], atol=1e-5)
    assert [ad.rank for ad in answer.ads] == list(range(1, 11))
    assert (answer.degraded, answer.order) == (None, "utility")
    assert (answer.request_id, answer.bundle_version) == ("r-1", 1)
    assert answer.absent_heads == []
    assert set(answer.stage_ms) == {"query_tower", "index", "features", "ranker", "total"}
    assert answer.stage_ms["total"] >= sum(answer.stage_ms.values()) / 2


def test_a_head_that_is_left_out_keeps_its_default_weight(run):
    unnamed = serving_fixtures.changed(REQUEST, weights={"revenue": 2.0})
    named = serving_fixtures.changed(REQUEST, weights={"click": 1, "engagement": 1, "revenue": 2})

    async def scenario(service):
        return await service.recommend(unnamed), await service.recommend(named)

    assert_same_ads(*run(scenario))


def test_unknown_categories_and_missing_fields_are_answered(run):
    requests = [
        Request(),
        Request(user={"country": "Atlantis"}, context={"device": "abacus"}),
        Request(user={"country": None, "age": None}),
        Request(user={"country": ""}),
        Request(user={"country": 7, "age": 10}),
        Request(user={"country": "7", "age": 10.0}),
        Request(user={"history": []}),
        Request(user={"history": [None, ""]}),
        Request(user={"history": [7, "ad-3"]}),
        Request(user={"history": ("7", None, "ad-3", "")}),
    ]
    answers = run(lambda service: serving_fixtures.together(service, requests))
    assert all(len(answer.ads) == 10 and answer.degraded is None for answer in answers)
    # Null, empty and absent are the same, in lists too; a whole number is its digits.
    for same in (2, 3, 6, 7):
        assert_same_ads(answers[0], answers[same])
    assert_same_ads(answers[4], answers[5])
    assert_same_ads(answers[8], answers[9])
    assert scores_of(answers[8]) != scores_of(answers[0])


@pytest.mark.parametrize("k", [1, 299, 300, 301, 10**9, 10**400])
def test_k_beyond_the_catalog_gives_all_ads(run, k):
    answer = run(lambda service: service.recommend(serving_fixtures.changed(REQUEST, k=k)))
    assert len({ad.ad_id for ad in answer.ads}) == min(k, 300)


def test_k_beyond_the_candidates_widens_the_search(run):
    config = OrchestratorConfig(num_candidates=5, default_deadline_ms=30_000)
    request = serving_fixtures.changed(REQUEST, k=50)
    answer = run(lambda service: service.recommend(request), config=config)
    assert len(answer.ads) == 50


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user": {"contry": "CH"}}, "user: unknown field 'contry'.*Did you mean 'country'.*Known"),
        ({"context": {"price": 3}}, "context: unknown field 'price'.*field of the ad"),
        ({"context": {"country": "CH"}}, "context: the field .country. is in both user and"),
        ({"user": {"age": "old"}}, r"user\.age: expected a finite number or null, got 'old' \(str"),
        ({"user": {"age": True}}, r"user\.age: expected a finite number .* got True \(bool"),
        (
            {"user": {"age": float("nan")}},
            r"user\.age: .*got nan .*Send null \(in Python, None\) for a missing value",
        ),
        (
            {"context": {"device": float("nan")}},
            r"context\.device: .*got nan .*Send null \(in Python, None\) for a missing",
        ),
        (
            {"user": {"history": float("nan")}},
            r"user\.history: .*got nan .*Send null \(in Python, None\) for a missing",
        ),
        ({"user": {"age": float("inf")}}, r"user\.age: .*got inf"),
        ({"user": {"age": 1e300}}, r"user\.age: "),
        ({"user": {"age": 10**5000}}, r"user\.age: .*an int of 16610 bits"),
        (
            {"user": {"country": ["CH"]}},
            r"user\.country: expected a string.*got \['CH'\] \(list\)\.$",
        ),
        ({"user": {"country": {"a": 1}}}, r"user\.country: expected a string.*\(dict"),
        (
            {"user": {"country": 1.5}},
            r"user\.country: expected a string.*1\.5 \(float\)",
        ),
        ({"user": {"country": "\ud800"}}, r"user\.country: expected text without unpaired surro"),
        (
            {"user": {"history": "ad-3"}},
            r"user\.history: expected a list of strings or null, got 'ad-3' \(str\)",
        ),
        ({"user": {"history": {"a": 1}}}, r"user\.history: expected a list of strings.*\(dict"),
        ({"user": {"history": 3}}, r"user\.history: expected a list of strings.*got 3 \(int"),
        ({"user": {"history": ["a", 1.5]}}, r"user\.history\[1\]: expected a string.*got 1\.5"),
        ({"user": {"history": ["a", ["b"]]}}, r"user\.history\[1\]: expected a string.*\(list"),
        (
            {"user": {"history": ["\ud800"]}},
            r"user\.history\[0\]: expected text without unpaired surrogates",
        ),
        ({"user": {"history": ["a"] * 1001}}, r"user\.history: expected at most 1000 .*got 1001"),
        ({"weights": {"clicks": 1}}, "weights: unknown head 'clicks'.*Did you mean 'click'"),
        (
            {"filters": {"conditions": [{"field": "country", "any_of": ["CH"]}]}},
            r"filters\.conditions\[0\]\.field: expected the name of an ad field, got 'country'",
        ),
        (
            {"filters": {"conditions": [{"field": "price", "any_of": ["cheap"]}]}},
            r"filters\.conditions\[0\]\.any_of\[0\]: expected a finite number, got 'cheap'",
        ),
    ],
)
def test_a_refused_request_names_the_field(run, changes, message):
    request = serving_fixtures.changed(REQUEST, **changes)
    with pytest.raises(errors.InvalidRequestError, match=message):
        run(lambda service: service.recommend(request))


def condition(field, **parts):
    return {"conditions": [{"field": field, **parts}]}


@pytest.mark.parametrize(
    ("filters", "eligible"),
    [
        # Ad r is of advertiser r % 9; every fifth has no category, else it is c{r % 4}; prices
        # are r / 2, but for every seventh; ads 2, 5, 8, … have the tags "new" and t{r}.
        (condition("advertiser", any_of=["advertiser-4"]), lambda row: row % 9 == 4),
        (
            condition("category", none_of=["c1", "c2"]),
            lambda row: row % 5 == 0 or row % 4 in (0, 3),
        ),
        (
            condition("price", at_least=100, at_most=110),
            lambda row: row % 7 and 200 <= row <= 220,
        ),
        (condition("tags", all_of=["new", "t299"]), lambda row: row == 299),
        (Filters(allowed_ads=["ad-7", "ad-8", "ad-x"]), lambda row: row in (7, 8)),
        (Filters(excluded_ads=["ad-7", "ad-8"]), lambda row: row not in (7, 8)),
    ],
)
def test_only_eligible_ads_answer_and_they_are_the_best_of_them(run, tiny_base, filters, eligible):
    weights = {"click": 1.0, "engagement": 1.0, "revenue": 1.0}
    request = serving_fixtures.changed(REQUEST, filters=filters)
    answer = run(lambda service: service.recommend(request))
    utilities = direct_utilities(tiny_base, ROW, weights)
    rows = [row for row in range(300) if eligible(row)]
    best = sorted(rows, key=lambda row: -utilities[row])[:10]
    assert [ad.ad_id for ad in answer.ads] == [f"ad-{row}" for row in best]
    np.testing.assert_allclose([ad.utility for ad in answer.ads], utilities[best], atol=1e-5)
    assert answer.degraded is None


def test_an_answer_lists_the_candidates_it_was_chosen_from_and_rules_change_only_the_ads(run):
    rules = {"caps": [{"field": "advertiser", "max": 1}]}
    request = serving_fixtures.changed(REQUEST, candidates=True, rules=rules)

    async def scenario(service):
        return await service.recommend(request), await service.recommend(REQUEST)

    answer, plain = run(scenario)
    assert plain.candidates is None
    assert "candidates" not in plain.to_json()
    pool = answer.candidates
    assert [ad.rank for ad in pool] == list(range(1, serving_fixtures.NUM_ADS + 1))
    scores = [ad.retrieval_score for ad in pool]
    assert scores == sorted(scores, reverse=True)
    by_utility = sorted(pool, key=lambda ad: -ad.utility)
    assert [ad.ad_id for ad in by_utility[:10]] == [ad.ad_id for ad in plain.ads]
    # There are nine advertisers.
    assert len(answer.ads) == 9


def test_no_eligible_ad_is_an_empty_answer_and_the_ranker_is_not_called(run):
    request = serving_fixtures.changed(REQUEST, filters={"allowed_ads": ["of another catalog"]})
    answer = run(lambda service: service.recommend(request))
    assert (answer.ads, answer.degraded, answer.order) == ([], None, "utility")
    # No ranker listens at this address, so a call would degrade the answer.
    address = f"127.0.0.1:{serving_fixtures.free_port()}"
    answer = run(lambda service: service.recommend(request), address=address)
    assert (answer.ads, answer.degraded) == ([], None)


def test_a_batch_of_different_filters_answers_as_its_requests_alone(run):
    filters = [
        None,
        condition("advertiser", any_of=["advertiser-4"]),
        condition("advertiser", any_of=["advertiser-5"]),
        {"allowed_ads": []},
        condition("price", at_least=100),
        None,
        condition("advertiser", any_of=["advertiser-4"]),
        {"allowed_ads": ["ad-3"]},
    ]
    requests = [
        serving_fixtures.changed(REQUEST, user={"age": 20 + number}, filters=wanted, k=5)
        for number, wanted in enumerate(filters)
    ]

    async def scenario(service):
        together = await serving_fixtures.together(service, requests)
        return together, [await service.recommend(request) for request in requests]

    together, alone = run(scenario)
    assert [len(answer.ads) for answer in together] == [5, 5, 5, 0, 5, 5, 5, 1]
    for one, other in zip(together, alone, strict=True):
        assert_same_ads(one, other)


def test_without_a_ranker_the_filters_still_hold(run):
    address = f"127.0.0.1:{serving_fixtures.free_port()}"
    request = serving_fixtures.changed(REQUEST, filters=condition("price", at_most=3), k=20)
    answer = run(lambda service: service.recommend(request), address=address)
    # Prices up to 3 have the rows 0 to 6; row 0 has none.
    assert sorted(ad.ad_id for ad in answer.ads) == [f"ad-{row}" for row in range(1, 7)]
    assert answer.order == "retrieval"


def test_more_ads_than_allowed_are_refused(run):
    config = OrchestratorConfig(max_k=20)
    with pytest.raises(errors.InvalidRequestError, match="k: expected at most 20"):
        run(lambda s: s.recommend(serving_fixtures.changed(REQUEST, k=21)), config=config)


def varied_requests(count):
    return [
        Request(
            user={
                "country": f"country-{number}",
                "age": number,
                "history": [f"ad-{place}" for place in range(number % 5)],
            },
            context={"device": ["phone", "tablet", None][number % 3]},
            k=1 + number % 12,
            weights={"click": 1.0, "revenue": number / 10},
            request_id=f"request-{number}",
            deadline_ms=30_000,
        )
        for number in range(count)
    ]


def test_a_batch_answers_as_its_requests_alone(run):
    requests = [*varied_requests(37), serving_fixtures.changed(REQUEST, k=250)]
    config = OrchestratorConfig(num_candidates=100, default_deadline_ms=30_000)

    async def scenario(service):
        alone = [await service.recommend(request) for request in requests[:-1]]
        alone.append(
            await service.recommend(serving_fixtures.changed(requests[-1], deadline_ms=30_000))
        )
        return await serving_fixtures.together(service, requests), alone

    for together, alone in zip(*run(scenario, config=config), strict=True):
        assert together.degraded is alone.degraded is None
        assert_same_ads(together, alone)


def test_64_requests_at_once_each_get_their_own_answer(run):
    requests = varied_requests(64)

    async def scenario(service):
        at_once = await asyncio.gather(*(service.recommend(request) for request in requests))
        return at_once, [await service.recommend(request) for request in requests]

    at_once, alone = run(scenario)
    assert [answer.request_id for answer in at_once] == [r.request_id for r in requests]
    for one, other in zip(at_once, alone, strict=True):
        assert one.degraded is None
        assert_same_ads(one, other)
    assert len({tuple(scores_of(answer)) for answer in at_once}) == 64


def test_a_ranker_client_works_in_one_event_loop_after_another(tiny_bundle, ranker_address):
    outputs = tiny_bundle.manifest.outputs.values()
    client = ranker.RankerClient(ranker_address, version=1, outputs=outputs)
    columns = releases.query_columns(tiny_bundle.manifest)
    features = tiny_bundle.ad_index.features(releases.candidate_rows(tiny_bundle.manifest))

    async def scenario():
        try:
            return await client.predict(columns, features, 30.0)
        finally:
            await client.close()

    first, second = (asyncio.run(scenario()) for _ in range(2))
    np.testing.assert_array_equal(first["click_probability"], second["click_probability"])


def test_the_event_loop_stays_responsive_while_requests_are_answered(run, monkeypatch):
    embedding, go_on = threading.Event(), threading.Event()
    embed = releases.QueryTower.embed

    def held(tower, columns, weights):
        embedding.set()
        assert go_on.wait(30)
        return embed(tower, columns, weights)

    monkeypatch.setattr(releases.QueryTower, "embed", held)

    async def scenario(service):
        running = asyncio.create_task(serving_fixtures.together(service, varied_requests(200)))
        assert await asyncio.to_thread(embedding.wait, 30)
        # If this blocked the loop, the call could not continue.
        go_on.set()
        return await running

    assert len(run(scenario)) == 200


def assert_retrieval_order(answer, release, reason):
    assert reason in answer.degraded
    assert answer.order == "retrieval"
    inputs = serving_fixtures.raw_inputs([ROW])
    tower = serving_fixtures.QueryTowerModule(seed=0)
    query = tower.serve(inputs)["query_embedding"].numpy()[0]
    best = np.argsort(-(serving_fixtures.ad_embeddings() @ query))[:10]
    assert [ad.ad_id for ad in answer.ads] == [f"ad-{row}" for row in best]
    for name in ("utility", "click_probability", "engagement_probability", "expected_revenue"):
        assert {getattr(ad, name) for ad in answer.ads} == {None}


def test_without_a_server_answers_are_degraded_to_retrieval_order(run, tiny_bundle):
    async def scenario(service):
        return await service.recommend(REQUEST), service.not_ready

    answer, not_ready = run(scenario, address=f"127.0.0.1:{serving_fixtures.free_port()}")
    assert_retrieval_order(answer, tiny_bundle, "is not available")
    assert "is not available" in not_ready


def test_a_late_ranker_costs_the_order_but_not_the_deadline(run, tiny_bundle, ranker_address):
    held = threading.Event()
    held.set()

    async def scenario(service):
        full = await service.recommend(REQUEST)
        held.clear()
        # It comes although the ranker still holds its reply.
        late = await service.recommend(serving_fixtures.changed(REQUEST, deadline_ms=150))
        held.set()
        return full, late, await service.recommend(REQUEST)

    # The clock stands still, so that however slow the machine is, the ranker has 145 ms.
    with serving_fixtures.altering_server(ranker_address, lambda _: held.wait(30)) as address:
        full, late, again = run(scenario, address=address, clock=clocks.Clock())
    assert full.degraded is None
    assert_retrieval_order(late, tiny_bundle, "did not answer within")
    assert_same_ads(full, again)


def test_an_answer_says_that_the_deadline_was_too_short_to_rank(run, tiny_bundle):
    request = serving_fixtures.changed(REQUEST, deadline_ms=1)
    answer = run(lambda service: service.recommend(request))
    assert_retrieval_order(answer, tiny_bundle, "the deadline is 1 ms")


async def ask_until(service, is_wanted):
    """Sends requests until an answer meets the condition, and returns it."""
    async with asyncio.timeout(120):
        while not is_wanted(answer := await service.recommend(REQUEST)):
            pass
    return answer


def test_a_server_stopped_and_restarted_during_requests(run, tiny_base, tiny_bundle):
    async def scenario(service, server, port):
        full = await service.recommend(REQUEST)
        running = [asyncio.create_task(service.recommend(REQUEST)) for _ in range(8)]
        await asyncio.to_thread(server.stop)
        during = await asyncio.gather(*running)
        down = await ask_until(service, lambda answer: answer.degraded)
        ready_while_down = service.not_ready is None and "ranker" in service.health.problems
        with serving_fixtures.serve_ranker(tiny_base, port):
            again = await ask_until(service, lambda answer: answer.degraded is None)
        return full, during, down, ready_while_down, again

    port = serving_fixtures.free_port()
    with serving_fixtures.serve_ranker(tiny_base, port) as server:
        full, during, down, ready_while_down, again = run(
            lambda service: scenario(service, server, port), address=f"127.0.0.1:{port}"
        )
    assert full.degraded is None
    assert_retrieval_order(down, tiny_bundle, f"ranker at 127.0.0.1:{port}")
    assert ready_while_down
    assert_same_ads(full, again)
    for answer in during:
        if answer.degraded is None:
            assert_same_ads(full, answer)
        else:
            assert_retrieval_order(answer, tiny_bundle, f"ranker at 127.0.0.1:{port}")


@pytest.fixture(scope="module")
def other_base(tmp_path_factory):
    """Base directory with a release of another training, of the same version. Read only."""
    base = tmp_path_factory.mktemp("other")
    serving_fixtures.publish(base, serving_fixtures.Recipe(seed=9))
    return base


def test_a_server_with_another_model_is_never_used(run, tiny_bundle, other_base):
    async def scenario(service):
        answers = [await service.recommend(REQUEST) for _ in range(3)]
        with pytest.raises(errors.RankerMismatchError, match="serves another model as version 1"):
            await service.verify_ranker()
        return answers, service.not_ready

    with serving_fixtures.serve_ranker(other_base) as server:
        answers, not_ready = run(scenario, address=f"127.0.0.1:{server.port}")
    for answer in answers:
        assert_retrieval_order(answer, tiny_bundle, "serves another model as version 1")
    assert "serves another model" in not_ready


def test_a_server_without_the_pinned_version_is_waited_for(run, tiny_base, tmp_path, caplog):
    base = shutil.copytree(tiny_base, tmp_path / "bundles")
    assert killed.publish_copy(base, tiny_base) == 2
    with serving_fixtures.serve_ranker(tiny_base) as server:
        answer = run(
            lambda service: service.recommend(REQUEST),
            address=f"127.0.0.1:{server.port}",
            release=releases.load(base),
        )
    assert "does not serve ranker version 2" in answer.degraded
    assert answer.bundle_version == 2
    # Pollers of gRPC in other threads also log.
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("serving")]
    assert "does not serve ranker version 2" in ours[0]


def edit_version(reply):
    reply.model_spec.version.value = 4


def edit_nan(reply):
    scores = reply.outputs["click_probability"]
    scores.float_val[:] = [float("nan")] * len(scores.float_val)


def edit_shape(reply):
    reply.outputs["expected_revenue"].tensor_shape.dim[1].size = 7


def edit_length(reply):
    del reply.outputs["expected_revenue"].float_val[-1]


def edit_outputs(reply):
    del reply.outputs["expected_revenue"]


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (edit_version, "version 4; expected the pinned version 1"),
        (edit_nan, "click_probability contains only NaN or infinity"),
        (edit_shape, "Expected expected_revenue as float32"),
        (edit_length, "Expected 60 values of expected_revenue, got 59"),
        (edit_outputs, "output expected_revenue is missing"),
    ],
)
def test_an_unusable_reply_is_never_used(run, tiny_bundle, ranker_address, edit, reason):
    with serving_fixtures.altering_server(ranker_address, edit) as address:
        answer = run(lambda service: service.recommend(REQUEST), address=address)
    assert_retrieval_order(answer, tiny_bundle, reason)


def test_a_client_that_pins_another_version_is_refused(tiny_bundle, ranker_address):
    client = ranker.RankerClient(ranker_address, version=3, outputs=[])
    with pytest.raises(
        errors.RankerMismatchError, match="requests version 3; expected the bundle's version 1"
    ):
        orchestrator.Orchestrator(tiny_bundle, client)


def test_absent_heads_are_null_and_their_weights_refused(run, tmp_path):
    serving_fixtures.publish(tmp_path, serving_fixtures.Recipe(heads=("click",)))
    release = releases.load(tmp_path)
    with serving_fixtures.serve_ranker(tmp_path) as server:
        address = f"127.0.0.1:{server.port}"
        answer = run(lambda s: s.recommend(REQUEST), address=address, release=release)
        weighted = serving_fixtures.changed(REQUEST, weights={"revenue": 1.0})
        with pytest.raises(errors.InvalidRequestError, match=r"no revenue head.*Heads: click\."):
            run(lambda s: s.recommend(weighted), address=address, release=release)
    assert answer.absent_heads == ["engagement", "revenue"]
    assert answer.degraded is None
    for ad in answer.ads:
        assert ad.utility == ad.click_probability
        assert ad.engagement_probability is ad.expected_revenue is None


def test_a_catalog_of_one_ad(run, tmp_path):
    serving_fixtures.publish(tmp_path, serving_fixtures.Recipe(num_ads=1))
    with serving_fixtures.serve_ranker(tmp_path) as server:
        answer = run(
            lambda service: service.recommend(REQUEST),
            address=f"127.0.0.1:{server.port}",
            release=releases.load(tmp_path),
        )
    assert [ad.ad_id for ad in answer.ads] == ["ad-0"]
    assert answer.degraded is None
