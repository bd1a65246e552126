"""Rules in whole answers: the bundle of serving_fixtures, 300 ads of nine advertisers."""

import asyncio
import collections

import pytest
import serving_fixtures

from serving import client, errors
from serving.config import OrchestratorConfig
from serving.requests import Answer, Cap, Filters, FrequencyCap, Request, Rules, Seen

REQUEST = Request(user={"country": "CH", "age": 33}, context={"device": "phone"})


def recommend(release, address, *requests, rules=None):
    """Answers requests in process, one after another."""

    async def main():
        config = OrchestratorConfig(default_deadline_ms=30_000, rules=rules)
        service = serving_fixtures.make_orchestrator(release, address, config)
        try:
            return [await service.recommend(request) for request in requests]
        finally:
            await service.close()

    return asyncio.run(main())


def make_request(k=10, **parts):
    return serving_fixtures.changed(REQUEST, k=k, **parts)


def advertisers(answer):
    return collections.Counter(ad.fields["advertiser"] for ad in answer.ads)


@pytest.fixture(scope="module")
def nowhere():
    return f"127.0.0.1:{serving_fixtures.free_port()}"


def test_caps_hold_in_ranked_and_in_degraded_answers(tiny_bundle, ranker_address, nowhere):
    rules = Rules(caps=[Cap(field="advertiser", max=1)])
    for address in (ranker_address, nowhere):
        everything, capped = recommend(
            tiny_bundle, address, make_request(k=300), make_request(k=5, rules=rules)
        )
        first_ads = {}
        for ad in everything.ads:
            first_ads.setdefault(ad.fields["advertiser"], ad.ad_id)
        assert [ad.ad_id for ad in capped.ads] == list(first_ads.values())[:5]
        assert (capped.degraded is None) == (address == ranker_address)
        assert capped.shortage is None
        assert [ad.rank for ad in capped.ads] == [1, 2, 3, 4, 5]
        assert {ad.propensity for ad in capped.ads} == {1.0}


def test_an_answer_that_caps_shorten_says_why(tiny_bundle, ranker_address):
    rules = {"caps": [{"field": "advertiser", "max": 1}]}
    (answer,) = recommend(tiny_bundle, ranker_address, make_request(rules=rules))
    assert advertisers(answer) == {f"advertiser-{n}": 1 for n in range(9)}
    assert answer.shortage == (
        "9 of 10 ads: the caps leave out the other 291 candidates: at most 1 with the same "
        "advertiser (reached for 300 candidates)."
    )


def test_a_shortage_names_filters_frequency_caps_or_the_catalog(tiny_bundle, ranker_address):
    allowed = Filters(allowed_ads=["ad-1", "ad-2"])
    frequency = {"frequency_caps": [{"max": 1}]}
    answers = recommend(
        tiny_bundle,
        ranker_address,
        make_request(filters=allowed),
        make_request(filters=allowed, rules=frequency, seen={"ads": {"ad-1": 1}}),
        make_request(k=301),
        make_request(filters=Filters(allowed_ads=[]), rules={"exploration": {"share": 1}}),
    )
    assert [answer.shortage for answer in answers] == [
        "2 of 10 ads: no more ads meet the filters.",
        "1 of 10 ads: no more ads meet the filters and frequency caps.",
        "300 of 301 ads: the catalog has no more.",
        "0 of 10 ads: no more ads meet the filters.",
    ]


def test_ads_that_the_user_has_seen_often_are_left_out(tiny_bundle, ranker_address):
    # An advertiser has fewer ads than its cap.
    caps = {"frequency_caps": [{"max": 3}, {"field": "advertiser", "max": 50}]}
    first, again, other = recommend(
        tiny_bundle,
        ranker_address,
        make_request(),
        make_request(
            seen={"ads": {"ad-0": 2, "ad-4": 3}, "fields": {"advertiser": {"advertiser-3": 50}}},
            explain=True,
            k=300,
        ),
        make_request(rules={"frequency_caps": []}, seen={"ads": {"ad-4": 3}}, k=300),
        rules=caps,
    )
    assert len(first.ads) == 10
    shown = {ad.ad_id for ad in again.ads}
    # 300 ads without the 33 of advertiser 3 (3, 12, …, 291) and without ad-4.
    assert len(shown) == 300 - 33 - 1
    assert "ad-0" in shown
    assert "ad-4" not in shown
    assert "advertiser-3" not in advertisers(again)
    assert [vars(cap) for cap in again.explanation.at_frequency_cap] == [
        {"field": None, "count": 1},
        {"field": "advertiser", "count": 1},
    ]
    assert len(other.ads) == 300


def test_the_parts_of_an_explanation_sum_to_the_utility(tiny_bundle, ranker_address):
    weights = {"click": 1.5, "engagement": -2, "revenue": 0.25}
    (answer,) = recommend(tiny_bundle, ranker_address, make_request(weights=weights, explain=True))
    for index, ad in enumerate(answer.ads):
        parts = ad.explanation.parts
        scores = (ad.click_probability, ad.engagement_probability, ad.expected_revenue)
        assert [part.score for part in parts.values()] == list(scores)
        assert {head: part.weight for head, part in parts.items()} == weights
        assert all(part.part == part.score * part.weight for part in parts.values())
        assert sum(part.part for part in parts.values()) == pytest.approx(ad.utility, abs=1e-12)
        assert ad.explanation.rank_without_rules == index + 1
        assert not ad.explanation.explored
    assert vars(answer.explanation) == {
        "candidates": 300,
        "at_frequency_cap": [],
        "left_out": [],
        "explored_slots": 0,
    }


def test_an_explanation_names_what_the_rules_left_out(tiny_bundle, ranker_address):
    rules = {"caps": [{"field": "advertiser", "max": 1}]}
    everything, capped = recommend(
        tiny_bundle,
        ranker_address,
        make_request(k=300),
        make_request(k=9, rules=rules, explain=True),
    )
    order = [ad.ad_id for ad in everything.ads]
    shown = [ad.ad_id for ad in capped.ads]
    above = [ad for ad in order[: order.index(shown[-1])] if ad not in shown]
    (left_out,) = capped.explanation.left_out
    assert (left_out.rule, left_out.field, left_out.count) == ("cap", "advertiser", len(above))
    assert left_out.ads == above[:10]
    ranks = [ad.explanation.rank_without_rules for ad in capped.ads]
    assert ranks == [order.index(ad) + 1 for ad in shown]


def test_diversity_also_applies_to_degraded_answers(tiny_bundle, ranker_address, nowhere):
    rules = {"diversity": [{"field": "advertiser", "penalty": 1}]}
    for address in (ranker_address, nowhere):
        (answer,) = recommend(tiny_bundle, address, make_request(k=9, rules=rules, explain=True))
        assert max(advertisers(answer).values()) == 1
        assert {ad.explanation.diversity_factor for ad in answer.ads} == {1.0}
        assert (answer.ads[0].explanation.parts is None) == (address == nowhere)


def test_explored_positions_have_their_propensity(tiny_bundle, ranker_address):
    rules = {"exploration": {"share": 1.0}}
    (answer,) = recommend(tiny_bundle, ranker_address, make_request(k=3, rules=rules, explain=True))
    # The first is one of 300, the second of 299, the third of 298.
    expected = [1 / 300, 1 / 299, 1 / 298]
    assert [ad.propensity for ad in answer.ads] == pytest.approx(expected)
    assert answer.explanation.explored_slots == 3


def test_default_rules_that_do_not_fit_the_release_are_refused(tiny_bundle, nowhere):
    with pytest.raises(
        errors.InvalidRequestError, match=r"rules.caps\[0\].field: expected the name"
    ):
        recommend(tiny_bundle, nowhere, rules={"caps": [{"field": "brand", "max": 1}]})


def test_frequency_caps_on_clicks_without_a_user_store_are_refused(tiny_bundle, nowhere):
    rules = {"frequency_caps": [{"max": 1, "event": "click"}]}
    for options in ({"rules": rules}, {}):
        with pytest.raises(errors.InvalidRequestError, match="only a user store counts"):
            recommend(tiny_bundle, nowhere, make_request(rules=rules), **options)


def test_the_client_sends_rules_and_reads_explanations(service_url):
    with client.Client(service_url, timeout_seconds=60) as service:
        answer = service.recommend(
            user={"country": "CH"},
            k=4,
            rules=Rules(
                caps=[Cap(field="advertiser", max=1)],
                frequency_caps=[FrequencyCap(max=2)],
            ),
            seen=Seen(ads={"ad-5": 2}),
            explain=True,
        )
        assert max(advertisers(answer).values()) == 1
        assert vars(answer.explanation.at_frequency_cap[0]) == {"field": None, "count": 1}
        part = answer.ads[0].explanation.parts["click"]
        assert part.part == part.score == answer.ads[0].click_probability
        with pytest.raises(
            errors.ClientRequestError, match=r"rules\.caps\[0\]\.field: expected the"
        ):
            service.recommend(rules={"caps": [{"field": "x", "max": 1}]})
        assert Answer.model_validate(answer.to_json()) == answer
