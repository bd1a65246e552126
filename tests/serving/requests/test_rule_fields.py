import functools
import random

import pytest

from serving import errors, requests
from serving.requests import rule_fields, rule_messages

KINDS = {"advertiser": "categorical", "price": "numeric", "tags": "categorical_list"}


def check(rules, defaults=None):
    return rule_fields.RuleFields(KINDS, defaults).check(rules)


def test_without_rules_nothing_holds():
    assert check(None) == rule_messages.Rules((), (), (), None)


def test_json_and_dataclasses_are_the_same():
    document = {
        "caps": [{"field": "advertiser", "most": 2}],
        "frequency_caps": [{"most": 3}, {"field": "tags", "most": 5}],
        "diversity": [{"field": "tags", "penalty": 0.25}],
        "exploration": {"share": 0.1, "among": 50},
    }
    rules = check(document)
    assert rules == rule_messages.Rules(
        (rule_messages.Cap("advertiser", 2),),
        (rule_messages.FrequencyCap(3), rule_messages.FrequencyCap(5, "tags")),
        (rule_messages.Diversity("tags", 0.25),),
        rule_messages.Exploration(0.1, 50),
    )
    assert check(rules) == rules
    assert rules.to_json() == document


def test_a_request_replaces_the_parts_of_the_defaults_that_it_names():
    defaults = {"caps": [{"field": "advertiser", "most": 2}], "exploration": {"share": 0.5}}
    assert check({"diversity": []}, defaults) == check(defaults)
    assert check({"caps": []}, defaults) == check({"exploration": {"share": 0.5}})
    assert check({"exploration": {"share": 0}}, defaults).exploration is None
    assert check({"caps": None}, defaults) == check(defaults)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([], "rules: expected an object with the keys caps, frequency_caps, diversity, explor"),
        ({"cap": []}, "rules: unknown key 'cap' (str). Keys: caps"),
        ({"caps": {}}, "rules.caps: expected a list of at most 8 rules, got {} (dict)."),
        ({"caps": [{"field": "advertiser", "most": 1}] * 9}, "at most 8 rules, got 9"),
        ({"caps": [{"field": "advertiser", "most": 1}] * 2}, "expected one of the field 'adv"),
        ({"caps": [{"most": 1}]}, "rules.caps[0]: expected the name of a categorical or list"),
        ({"caps": [{"field": "advertizer", "most": 1}]}, "did you mean 'advertiser'?"),
        ({"caps": [{"field": "price", "most": 1}]}, "got 'price' (str); it is numeric. Such f"),
        ({"caps": [{"field": "tags", "most": 0}]}, "rules.caps[0].most: expected an integer from"),
        (
            {"caps": [{"field": "tags", "most": True}]},
            "expected an integer from 1 to 2147483648, got T",
        ),
        ({"frequency_caps": [{"most": 1}, {"most": 2}]}, "expected one of the ads themselves"),
        ({"frequency_caps": [{}]}, "rules.frequency_caps[0].most: expected an integer"),
        ({"diversity": [{"field": "tags", "penalty": 1.1}]}, "penalty: expected a number from 0"),
        ({"diversity": [{"field": "tags"}]}, "penalty: expected a number from 0 to 1, got None"),
        ({"exploration": {"share": float("nan")}}, "rules.exploration.share: expected a number"),
        ({"exploration": {"share": 0.1, "among": 0}}, "rules.exploration.among: expected an int"),
        ({"exploration": 0.1}, "rules.exploration: expected an object with the keys share, among"),
    ],
)
def test_what_is_no_rule_is_refused(rules, message):
    with pytest.raises(errors.InvalidRequestError) as refused:
        check(rules)
    assert message in str(refused.value)


def at_cap(caps, seen):
    fields = rule_fields.RuleFields(KINDS)
    return fields.at_cap(fields.check({"frequency_caps": caps}).frequency_caps, seen)


def test_what_is_at_its_frequency_cap_is_named():
    caps = [{"most": 3}, {"field": "advertiser", "most": 2}]
    seen = {
        "ads": {"ad-1": 3, "ad-2": 2, "ad-3": 9},
        "fields": {"advertiser": {"a1": 1, "a2": 2}, "tags": {"new": 100}},
    }
    assert at_cap(caps, seen) == {None: ("ad-1", "ad-3"), "advertiser": ("a2",)}
    assert at_cap(caps, rule_messages.Seen(ads={7: 3})) == {None: ("7",)}
    assert at_cap(caps, None) == at_cap(caps, {}) == at_cap([], seen) == {}


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        (3, "seen: expected an object with the keys ads, fields"),
        ({"ads": ["ad-1"]}, "seen.ads: expected an object of at most 50000 values"),
        ({"ads": {"ad-1": 1.5}}, "seen.ads['ad-1' (str)]: expected an integer from 0 to 2"),
        ({"ads": {"ad-1": -1}}, "expected an integer from 0 to 2147483648, got -1"),
        ({"ads": {1.5: 1}}, "seen.ads[0]: expected a string or an integer"),
        ({"fields": []}, "seen.fields: expected an object of ad fields"),
        ({"fields": {"x": {}}}, "seen.fields: expected the name of a categorical or list field"),
        ({"fields": {"tags": 3}}, "seen.fields.tags: expected an object"),
    ],
)
def test_counts_that_are_none_are_refused(seen, message):
    with pytest.raises(errors.InvalidRequestError) as refused:
        at_cap([{"most": 1}], seen)
    assert message in str(refused.value)


def test_frequency_caps_become_filters():
    own = requests.Filters((requests.Condition("price", at_most=3.0),), ("ad-1", "ad-9"), ("ad-2",))
    merged = rule_fields.merged(own, {None: ("ad-1", "ad-2"), "tags": ("new",)})
    assert merged == requests.Filters(
        (requests.Condition("price", at_most=3.0), requests.Condition("tags", none_of=("new",))),
        ("ad-1", "ad-9"),
        ("ad-1", "ad-2"),
    )
    assert rule_fields.merged(own, {}) is own
    assert rule_fields.merged(None, {}) is None
    assert rule_fields.merged(None, {"tags": ("new",)}).excluded_ads is None


def test_whatever_comes_as_rules_is_taken_or_refused_in_words():
    rng = random.Random(8)
    leaves = [
        *(None, True, 0, 1, 3, -1, 2**70, 0.5, 1.0, float("nan"), float("inf"), "", "\ud800"),
        *("advertiser", "tags", "price", "ads", [], {}),
    ]
    keys = [
        *("caps", "frequency_caps", "diversity", "exploration", "ads", "fields"),
        *("field", "most", "penalty", "share", "among", "advertiser", 7, None),
    ]

    def value(depth):
        if depth == 0 or rng.random() < 0.3:
            return rng.choice(leaves)
        if rng.random() < 0.4:
            return [value(depth - 1) for _ in range(rng.randint(0, 2))]
        return {rng.choice(keys): value(depth - 1) for _ in range(rng.randint(0, 3))}

    fields, refusals, taken = rule_fields.RuleFields(KINDS), [], 0
    caps = [rule_messages.FrequencyCap(1)]
    for _ in range(3_000):
        for call in (fields.check, functools.partial(fields.at_cap, caps)):
            try:
                call(value(3))
                taken += 1
            except errors.InvalidRequestError as error:
                refusals.append(str(error))
    assert taken > 100
    assert all("expected" in text or "unknown key" in text for text in refusals)
