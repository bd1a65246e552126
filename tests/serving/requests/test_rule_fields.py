import functools
import json
import random

import pytest

from serving import errors, requests
from serving.config import UserStoreConfig
from serving.requests import Cap, Diversity, Exploration, FrequencyCap, Rules, Seen, rule_fields

KINDS = {"advertiser": "categorical", "price": "numeric", "tags": "categorical_list"}
LIMITS = UserStoreConfig().limits


def check(rules, defaults=None):
    defaults = None if defaults is None else requests.Rules(**defaults)
    if rules is not None:
        rules = requests.parse(requests.Rules, rules, "rules")
    return rule_fields.RuleFields(KINDS, defaults, LIMITS).check(rules)


def test_without_rules_none_are_in_force():
    assert check(None) == Rules(caps=(), frequency_caps=(), diversity=())


def test_json_and_models_are_the_same():
    document = {
        "caps": [{"field": "advertiser", "max": 2}],
        "frequency_caps": [{"max": 3}, {"field": "tags", "max": 5}],
        "diversity": [{"field": "tags", "penalty": 0.25}],
        "exploration": {"share": 0.1, "among": 50},
    }
    rules = check(document)
    assert rules == Rules(
        caps=[Cap(field="advertiser", max=2)],
        frequency_caps=[FrequencyCap(max=3), FrequencyCap(field="tags", max=5)],
        diversity=[Diversity(field="tags", penalty=0.25)],
        exploration=Exploration(share=0.1, among=50),
    )
    assert check(rules) == rules
    assert json.loads(json.dumps(rules.to_json())) == document


def test_a_request_replaces_the_parts_of_the_defaults_that_it_names():
    defaults = {"caps": [{"field": "advertiser", "max": 2}], "exploration": {"share": 0.5}}
    assert check({"diversity": []}, defaults) == check(defaults)
    assert check({"caps": []}, defaults) == check({"exploration": {"share": 0.5}})
    assert check({"exploration": {"share": 0}}, defaults).exploration is None
    assert check({"caps": None}, defaults) == check(defaults)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([], "rules: Input should be a valid dictionary"),
        ({"cap": []}, "rules.cap: unknown key"),
        ({"caps": {}}, "rules.caps: Input should be a valid tuple, got {} (dict)."),
        ({"caps": [{"field": "advertiser", "max": 1}] * 9}, "at most 8 items"),
        ({"caps": [{"field": "advertiser", "max": 1}] * 2}, "Expected one rule for the field 'adv"),
        ({"caps": [{"max": 1}]}, "rules.caps[0].field: Field required"),
        ({"caps": [{"field": "advertizer", "max": 1}]}, "(str). Did you mean 'advertiser'? Such"),
        ({"caps": [{"field": "price", "max": 1}]}, "got 'price' (str). It is numeric. Such f"),
        (
            {"caps": [{"field": "tags", "max": 0}]},
            "rules.caps[0].max: ",
        ),
        (
            {"caps": [{"field": "tags", "max": 2**31 + 1}]},
            "got 2147",
        ),
        ({"caps": [{"field": "tags", "max": True}]}, "valid integer, got True (bool)."),
        ({"frequency_caps": [{"max": 1}, {"max": 2}]}, "Expected one rule for the ads themselves"),
        ({"frequency_caps": [{}]}, "rules.frequency_caps[0].max: Field required"),
        (
            {"diversity": [{"field": "tags", "penalty": 1.1}]},
            "penalty: ",
        ),
        ({"diversity": [{"field": "tags"}]}, "penalty: Field required"),
        (
            {"exploration": {"share": float("nan")}},
            "rules.exploration.share: ",
        ),
        (
            {"exploration": {"share": 0.1, "among": 0}},
            "rules.exploration.among: ",
        ),
        ({"exploration": 0.1}, "rules.exploration: Input should be a valid dictionary"),
    ],
)
def test_invalid_rules_are_refused(rules, message):
    with pytest.raises(errors.InvalidRequestError) as refused:
        check(rules)
    assert message in str(refused.value)


def at_cap(caps, seen):
    fields = rule_fields.RuleFields(KINDS)
    if seen is not None:
        seen = requests.parse(requests.Seen, seen, "seen")
    fields.check_seen(seen)
    caps = check({"frequency_caps": caps}).frequency_caps
    return rule_fields.at_cap(caps, functools.partial(rule_fields.counts_of, seen))


def test_ads_and_values_at_their_frequency_cap_are_found():
    caps = [{"max": 3}, {"field": "advertiser", "max": 2}]
    seen = {
        "ads": {"ad-1": 3, "ad-2": 2, "ad-3": 9},
        "fields": {"advertiser": {"a1": 1, "a2": 2}, "tags": {"new": 100}},
    }
    assert at_cap(caps, seen) == {None: ("ad-1", "ad-3"), "advertiser": ("a2",)}
    assert at_cap(caps, Seen(ads={7: 3})) == {None: ("7",)}
    assert at_cap(caps, None) == at_cap(caps, {}) == at_cap([], seen) == {}


def test_counts_of_a_request_are_of_impressions_only():
    seen = {"ads": {"ad-1": 3, "ad-2": 2}}
    assert at_cap([{"max": 1, "event": "click"}], seen) == {}
    # Either of two caps on the same events makes an ad ineligible, whatever its hours.
    caps = [{"max": 3}, {"max": 2, "hours": 24}]
    assert at_cap(caps, seen) == {None: ("ad-1", "ad-2")}


def test_the_impressions_of_an_answer_count_for_the_caps_of_fields():
    by_tag = FrequencyCap(field="tags", max=5)
    caps = [by_tag, FrequencyCap(max=3), FrequencyCap(field="tags", max=1, event="click")]
    assert rule_fields.shown_before(caps, lambda cap: {"new": 2}) == {by_tag: {"new": 2}}
    assert rule_fields.shown_before(caps, lambda cap: None) == {by_tag: {}}


def test_without_a_user_store_only_impressions_can_be_capped():
    impressions = [FrequencyCap(max=3, hours=24), FrequencyCap(max=9, event="impression")]
    clicks = Rules(frequency_caps=[*impressions, FrequencyCap(max=1, event="click")])
    fields = rule_fields.RuleFields(KINDS)
    assert fields.check(Rules(frequency_caps=impressions)).frequency_caps == tuple(impressions)
    message = r"rules\.frequency_caps\[2\]\.event: .* got 'click', .* with --user_store"
    for check_rules in (
        lambda: fields.check(clicks),
        lambda: rule_fields.RuleFields(KINDS, clicks),
    ):
        with pytest.raises(errors.InvalidRequestError, match=message):
            check_rules()


@pytest.mark.parametrize(
    ("cap", "message"),
    [
        (
            {"max": 6},
            r"\[0\]\.max: expected at most 5, the number of impressions that the user store",
        ),
        ({"max": 6, "field": "tags"}, r"\[0\]\.max: expected at most 5"),
        ({"max": 3, "event": "click"}, r"\[0\]\.max: expected at most 2, the number of actions"),
        ({"max": 1, "hours": 25}, r"\[0\]\.hours: expected at most 24, .* longer --user_ttl_days"),
    ],
)
def test_caps_beyond_what_the_user_store_keeps_are_refused(cap, message):
    limits = requests.StoreLimits(max_actions=2, max_impressions=5, hours=24.0)
    rules = Rules(frequency_caps=[FrequencyCap(**cap)])
    with pytest.raises(errors.InvalidRequestError, match=message):
        rule_fields.RuleFields(KINDS, limits=limits).check(rules)
    with pytest.raises(errors.InvalidRequestError, match=message):
        rule_fields.RuleFields(KINDS, rules, limits=limits)


def test_caps_within_the_limits_of_the_store_or_with_counts_in_the_request_are_accepted():
    fields = rule_fields.RuleFields(KINDS, limits=requests.StoreLimits(2, 5, 24.0))
    fields.check(Rules(frequency_caps=[FrequencyCap(max=5, hours=24)]))
    fields.check(Rules(frequency_caps=[FrequencyCap(max=9, hours=25)]), Seen(ads={"ad-1": 8}))


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        (3, "seen: Input should be a valid dictionary"),
        ({"ads": ["ad-1"]}, "seen.ads: Input should be a valid dictionary, got ['ad-1'] (list)"),
        ({"ads": {"ad-1": 1.5}}, "seen.ads.ad-1: Input should be a valid integer"),
        (
            {"ads": {"ad-1": -1}},
            "seen.ads.ad-1: ",
        ),
        ({"ads": {1.5: 1}}, "seen.ads.1.5: Input should be a valid string, got 1.5 (float)"),
        ({"fields": []}, "seen.fields: Input should be a valid dictionary, got [] (list)"),
        ({"fields": {"x": {}}}, "seen.fields: expected the name of a categorical or list field"),
        ({"fields": {"tags": 3}}, "seen.fields.tags: Input should be a valid dictionary"),
    ],
)
def test_invalid_counts_are_refused(seen, message):
    with pytest.raises(errors.InvalidRequestError) as refused:
        at_cap([{"max": 1}], seen)
    assert message in str(refused.value)


def test_frequency_caps_become_filters():
    price = requests.Condition(field="price", at_most=3.0)
    own = requests.Filters(conditions=[price], allowed_ads=["ad-1", "ad-9"], excluded_ads=["ad-2"])
    merged = rule_fields.merged(own, {None: ("ad-1", "ad-2"), "tags": ("new",)})
    assert merged == requests.Filters(
        conditions=[price, requests.Condition(field="tags", none_of=["new"])],
        allowed_ads=["ad-1", "ad-9"],
        excluded_ads=["ad-1", "ad-2"],
    )
    assert rule_fields.merged(own, {}) is own
    assert rule_fields.merged(None, {}) is None
    assert rule_fields.merged(None, {"tags": ("new",)}).excluded_ads is None


def test_random_rules_are_accepted_or_refused_with_a_message():
    rng = random.Random(8)
    leaves = [
        *(None, True, 0, 1, 3, -1, 2**70, 0.5, 1.0, float("nan"), float("inf"), "", "\ud800"),
        *("advertiser", "tags", "price", "ads", [], {}),
    ]
    keys = [
        *("caps", "frequency_caps", "diversity", "exploration", "ads", "fields"),
        *("field", "max", "penalty", "share", "among", "advertiser", 7, None),
    ]

    def value(depth):
        if depth == 0 or rng.random() < 0.3:
            return rng.choice(leaves)
        if rng.random() < 0.4:
            return [value(depth - 1) for _ in range(rng.randint(0, 2))]
        return {rng.choice(keys): value(depth - 1) for _ in range(rng.randint(0, 3))}

    refusals, taken = [], 0
    caps = [{"max": 1}]
    for _ in range(3_000):
        for call in (check, functools.partial(at_cap, caps)):
            try:
                call(value(3))
                taken += 1
            except errors.InvalidRequestError as error:
                refusals.append(str(error))
    assert taken > 100
    assert all(": " in text for text in refusals)


class Boost(requests.request.RequestPart):
    field: str
    factor: float


class RulesWithBoosts(requests.Rules):
    boosts: tuple[Boost, ...] | None = None


def test_a_new_type_of_rule_is_in_force_and_its_field_is_checked(monkeypatch):
    monkeypatch.setattr(rule_fields.request, "Rules", RulesWithBoosts)
    of_service = (Boost(field="brand", factor=2.0),)
    fields = rule_fields.RuleFields({"brand": "categorical"}, RulesWithBoosts(boosts=of_service))
    assert fields.check(None).boosts == of_service
    assert fields.check(RulesWithBoosts(boosts=())).boosts == ()
    with pytest.raises(errors.InvalidRequestError, match=r"rules\.boosts\[0\]\.field: .* 'brnd'"):
        fields.check(RulesWithBoosts(boosts=(Boost(field="brnd", factor=2.0),)))
