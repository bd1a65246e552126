"""Releases without a ranker, and releases with heads that are weak."""

import asyncio

import pytest
import serving_fixtures

from serving import client, errors, operations, orchestrator, ranker, releases
from serving.requests import Request, Rules

REQUEST = Request(user={"country": "CH", "history": ["ad-3"]}, context={"device": "phone"}, k=5)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The base directory with a release without a ranker."""
    directory = tmp_path_factory.mktemp("retrieval")
    serving_fixtures.publish(directory, serving_fixtures.Recipe(heads=()))
    return directory


@pytest.fixture(scope="module")
def release(base):
    return releases.load(base)


@pytest.fixture
def service(release):
    return orchestrator.Orchestrator(release, None)


def test_answers_are_in_retrieval_order_and_not_degraded(service):
    answer = asyncio.run(service.recommend(REQUEST))
    assert (answer.order, answer.degraded) == ("retrieval", None)
    assert answer.absent_heads == ["click", "engagement", "revenue"]
    assert all(ad.utility is ad.click_probability is None for ad in answer.ads)
    scores = [ad.retrieval_score for ad in answer.ads]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)
    assert set(answer.stage_ms) == {"query_tower", "index", "features", "ranker", "total"}


def test_a_batch_has_the_answers_of_its_requests(service):
    async def both():
        return await serving_fixtures.together(service, [REQUEST]), await service.recommend(REQUEST)

    (one,), alone = asyncio.run(both())
    assert [ad.ad_id for ad in one.ads] == [ad.ad_id for ad in alone.ads]


def test_rules_apply_and_explanations_say_that_there_are_no_scores(service):
    rules = Rules.model_validate({"caps": [{"field": "advertiser", "max": 1}]})
    asked = serving_fixtures.changed(REQUEST, rules=rules, explain=True)
    answer = asyncio.run(service.recommend(asked))
    assert len({ad.fields["advertiser"] for ad in answer.ads}) == 5
    assert all(ad.explanation.parts is None for ad in answer.ads)


def test_it_is_ready_without_a_model_server(service):
    asyncio.run(service.verify_ranker())
    assert (service.not_ready, service.health.problems) == (None, {})


def test_weights_are_refused_with_the_reason(service):
    weighted = serving_fixtures.changed(REQUEST, weights={"click": 1.0})
    with pytest.raises(
        errors.InvalidRequestError, match=r"click: this release has no ranker.*Omit"
    ):
        asyncio.run(service.recommend(weighted))


def test_its_description_lists_the_parts(service):
    described = orchestrator.describe_release(service)
    assert described["parts"] == ("query_tower", "ad_tower", "ad_index")
    assert described["heads"] == {"click": False, "engagement": False, "revenue": False}
    assert described["weights"] == {}


def test_a_client_is_required_exactly_if_there_is_a_ranker(release, tiny_bundle, ranker_address):
    with pytest.raises(errors.RankerMismatchError, match="has a ranker; expected a ranker client"):
        orchestrator.Orchestrator(tiny_bundle, None)
    scorer = ranker.connect(tiny_bundle, ranker_address)
    with pytest.raises(errors.RankerMismatchError, match="no ranker; expected no ranker client"):
        orchestrator.Orchestrator(release, scorer)


def test_the_local_client_and_the_check_of_a_release_need_no_ranker(base):
    with client.LocalClient(base) as local:
        assert len(local.recommend(context={"country": "CH"}, k=3).ads) == 3
    assert list(operations.check_release(base, 1))[-1] == (
        "it has no ranker: answers are in retrieval order"
    )


def test_a_ranker_that_the_manifest_does_not_list_is_refused(base, tiny_base, tmp_path):
    for part in ("manifests", "query_tower", "ad_tower", "ad_index"):
        (tmp_path / part).symlink_to(base / part)
    (tmp_path / "ranker").symlink_to(tiny_base / "ranker")
    with pytest.raises(errors.BundleError, match="ranker/1/"):
        releases.load(tmp_path)


def test_a_weak_head_is_named_if_a_request_gives_it_a_weight(tmp_path):
    weak = {"engagement": "3 of 40 validation rows are positive."}
    serving_fixtures.publish(tmp_path, serving_fixtures.Recipe(weak=weak))
    bundle = releases.load(tmp_path)
    assert bundle.manifest.weak_heads == weak
    weighted = serving_fixtures.changed(REQUEST, weights={"engagement": 2.0})
    with client.LocalClient(tmp_path) as local:
        plain, asked = local.recommend(REQUEST), local.recommend(weighted)
    assert (plain.weak_heads, asked.weak_heads) == ([], ["engagement"])
    # A weak head is still scored, and has weight 0 by default.
    for ad in plain.ads:
        assert ad.engagement_probability > 0
        assert ad.utility == pytest.approx(ad.click_probability + ad.expected_revenue)
