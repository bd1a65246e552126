import dataclasses

import pytest

from serving import errors, manifest, requests


def test_a_request_without_weights_gets_those_of_the_release(tiny_bundle):
    # The weights of the heads in `tfrec.heads` when the release was exported.
    weights = {"click": 1.0, "engagement": 0.5, "revenue": 2.0}
    heads = tuple(
        manifest.ReleaseHead(head.label, head.output, head.kind, weights[head.label])
        for head in tiny_bundle.manifest.heads
    )
    release = dataclasses.replace(tiny_bundle.manifest, heads=heads)
    validator = requests.Validator(release, default_k=10, max_k=1000)
    assert validator.check(requests.Request()).weights == weights
    changed = validator.check(requests.Request(weights={"click": 3.0}))
    assert changed.weights == {**weights, "click": 3.0}
    # Each request has its own.
    assert validator.check(requests.Request()).weights == weights


SERVICE = {
    "caps": [{"field": "advertiser", "max": 2}],
    "filters": {
        "conditions": [{"field": "price", "at_most": 50}],
        "allowed_ads": ["a", "b", "c"],
        "excluded_ads": ["d"],
    },
}


def test_filters_of_a_request_are_added_to_those_of_the_service(tiny_bundle):
    validator = requests.Validator(tiny_bundle.manifest, 10, 1000, SERVICE)
    alone = validator.check(requests.Request())
    assert alone.filters.to_json() == {
        "conditions": ({"field": "price", "at_most": 50.0},),
        "allowed_ads": ("a", "b", "c"),
        "excluded_ads": ("d",),
    }
    own = {
        "conditions": [{"field": "category", "none_of": ["toys"]}],
        "allowed_ads": ["e", "c", "b"],
        "excluded_ads": ["c"],
    }
    both = validator.check(requests.parse(requests.Request, {"filters": own}))
    assert both.filters.to_json() == {
        "conditions": (
            {"field": "price", "at_most": 50.0},
            {"field": "category", "none_of": ("toys",)},
        ),
        "allowed_ads": ("b", "c"),
        "excluded_ads": ("c", "d"),
    }
    # Rules of a request do not turn them off.
    assert validator.check(requests.Request(rules=requests.Rules(caps=()))).filters == alone.filters
    assert alone.rules == requests.Rules(
        caps=(requests.Cap(field="advertiser", max=2),), frequency_caps=(), diversity=()
    )


def test_a_service_and_a_request_that_allow_different_ads_allow_none(tiny_bundle):
    filters = requests.Filters(allowed_ads=("a",))
    rules = requests.ServiceRules(filters=filters)
    validator = requests.Validator(tiny_bundle.manifest, 10, 1000, rules)
    other = requests.Filters(allowed_ads=("b",))
    assert validator.check(requests.Request(filters=other)).filters.allowed_ads == ()


def test_filters_of_a_service_that_do_not_fit_the_release_are_refused(tiny_bundle):
    rules = {"filters": {"conditions": [{"field": "prize", "at_most": 50}]}}
    message = r"^rules\.filters\.conditions\[0\]\.field: .*'prize' .* Did you mean 'price'"
    with pytest.raises(errors.InvalidRequestError, match=message):
        requests.Validator(tiny_bundle.manifest, 10, 1000, rules)
    # A request has them in `filters` alone.
    with pytest.raises(errors.InvalidRequestError, match=r"rules\.filters: unknown key"):
        requests.parse(requests.Request, {"rules": rules})
