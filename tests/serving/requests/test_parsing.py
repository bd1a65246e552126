import pydantic
import pytest

from serving import errors, requests


def test_an_instance_and_its_json_object_are_the_same_request():
    document = {
        "user": {"country": "CH"},
        "k": 3,
        "weights": {"click": 2.0},
        "filters": {
            "conditions": [{"field": "price", "at_least": 1.0}],
            "allowed_ads": ["ad-1", "ad-2"],
        },
        "rules": {"caps": [{"field": "advertiser", "max": 2}]},
        "seen": {"ads": {"ad-1": 3}},
        "dry_run": True,
    }
    request = requests.parse(requests.Request, document)
    assert requests.parse(requests.Request, request) is request
    assert requests.parse(requests.Request, dict(request)) == request
    assert requests.parse(requests.Request, request.to_json()) == request
    assert request.filters == requests.Filters(
        conditions=[requests.Condition(field="price", at_least=1)],
        # Sets of ids: order and repeated values do not matter.
        allowed_ads=["ad-2", "ad-1", "ad-2"],
    )


def test_null_is_the_same_as_absent():
    nulls = dict.fromkeys(requests.Request.model_fields)
    assert requests.parse(requests.Request, nulls) == requests.Request()
    assert requests.Request().to_json() == {}
    assert requests.Filters(allowed_ads=[]).to_json() == {"allowed_ads": ()}


@pytest.mark.parametrize(
    ("changes", "path", "value"),
    [
        ({"user": ["CH"]}, "user", "['CH'] (list)"),
        ({"user": {3: "CH"}}, "user[3]", "3 (int)"),
        ({"k": 2.0}, "k", "2.0 (float)"),
        ({"k": True}, "k", "True (bool)"),
        ({"k": "10"}, "k", "'10' (str)"),
        ({"k": 0}, "k", "0 (int)"),
        ({"weights": {"click": "1"}}, "weights.click", "'1' (str)"),
        ({"weights": {"click": float("nan")}}, "weights.click", "nan"),
        ({"weights": {"click": 1e30}}, "weights.click", "1e+30"),
        ({"weights": [1]}, "weights", "[1] (list)"),
        ({"deadline_ms": 0}, "deadline_ms", "0 (int)"),
        ({"deadline_ms": float("inf")}, "deadline_ms", "inf"),
        ({"deadline_ms": 60_001}, "deadline_ms", "60001"),
        ({"request_id": 7}, "request_id", "7 (int)"),
        ({"request_id": ""}, "request_id", "''"),
        ({"request_id": "a" * 129}, "request_id", "'aaa"),
        ({"request_id": "a\nb"}, "request_id", "'a\\nb' (str)"),
        ({"release": "old"}, "release", "'old' (str)"),
        ({"explain": 1}, "explain", "1 (int)"),
        ({"filters": {"conditions": [{}]}}, "filters.conditions[0].field", "Field required"),
        ({"filters": {"conditions": [{"field": "x"}] * 65}}, "filters.conditions", "65"),
        ({"filters": {"allowed_ads": [1.5]}}, "filters.allowed_ads[0]", "1.5"),
        ({"filters": {"allowed_ads": ["\ud800"]}}, "filters.allowed_ads", "surrogates"),
        ({"usr": {}}, "usr", "unknown key"),
        ({"rules": {"caps": [{"field": "x", "most": 1}]}}, "rules.caps[0].most", "unknown key"),
        ({"rules": {"caps": [{"field": "{a}", "max": 1}] * 2}}, "rules.caps", "field '{a}'"),
        ({"seen": {"ads": {"\ud800": 1}}}, "seen.ads", "surrogates"),
    ],
)
def test_a_wrong_value_is_refused_with_its_path(changes, path, value):
    with pytest.raises(errors.InvalidRequestError) as refused:
        requests.parse(requests.Request, changes)
    message = str(refused.value)
    assert message.startswith(f"{path}: ")
    assert value in message
    assert refused.value.code == "invalid_request"


def test_the_path_of_an_error_starts_at_the_given_place():
    with pytest.raises(errors.InvalidRequestError, match=r"^rules\.caps\[0\]\.max: "):
        requests.parse(requests.Rules, {"caps": [{"field": "x", "max": 0}]}, "rules")


def test_an_answer_of_a_newer_service_can_be_read_and_absent_explanations_are_left_out():
    document = {
        "request_id": "r",
        "bundle_version": 1,
        "degraded": None,
        "order": "utility",
        "ads": [
            {
                "rank": 1,
                "ad_id": "ad-1",
                "utility": 0.5,
                "click_probability": 0.5,
                "engagement_probability": None,
                "expected_revenue": None,
                "retrieval_score": 0.25,
                "fields": {"price": None, "tags": ["new"]},
                "propensity": 1.0,
            }
        ],
        "absent_heads": ["revenue"],
        "weak_heads": ["click"],
        "stage_ms": {"total": 1.5},
        "shortage": None,
    }
    (ad,) = document["ads"]
    parts = {"click": 1}
    wrong = {"parts": parts, "rank_without_rules": 1, "diversity_factor": 1, "explored": False}
    with pytest.raises(pydantic.ValidationError, match="explanation"):
        requests.Answer.model_validate({**document, "ads": [{**ad, "explanation": wrong}]})
    newer = requests.Answer.model_validate({**document, "newer": 1})
    assert newer.to_json() == document
    # A head that this version does not know.
    newer = requests.Answer.model_validate({**document, "ads": [{**ad, "install": 0.5}]})
    assert (newer.ads[0].install, newer.ads[0].click_probability) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("model", "value", "place"),
    [
        (requests.Request, {"filters": {"conditions": [{}] * 1_000}}, "filters.conditions"),
        (requests.Request, {"rules": {"caps": [{}] * 1_000}}, "rules.caps"),
        (requests.EventBatch, {"events": [{}] * 2_000}, "events"),
    ],
)
def test_the_values_of_a_list_that_is_too_long_are_not_validated(model, value, place):
    # Each has several errors, and a body may have hundreds of thousands of values.
    with pytest.raises(pydantic.ValidationError) as refused:
        model.model_validate(value)
    assert refused.value.error_count() == 1
    with pytest.raises(errors.InvalidRequestError, match=rf"^{place}: "):
        requests.parse(model, value)


def test_an_event_may_name_any_ad_that_a_release_can_have():
    event = {"event_id": "e", "user_id": "u", "event": "click"}
    # Such as a URL.
    assert requests.parse(requests.Event, {**event, "ad_id": "a" * 1_024}).ad_id == "a" * 1_024
    for ad_id in ("", "é" * 513, "a\0", "\ud800"):
        with pytest.raises(errors.InvalidRequestError, match=r"^ad_id: Expected (1 to 1024|text)"):
            requests.parse(requests.Event, {**event, "ad_id": ad_id})
