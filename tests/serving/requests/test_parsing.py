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


def test_keyword_arguments_of_the_clients_are_the_fields_of_a_request():
    assert list(requests.RequestFields.__annotations__) == list(requests.Request.model_fields)


def test_null_is_the_same_as_absent():
    nulls = dict.fromkeys(requests.Request.model_fields)
    assert requests.parse(requests.Request, nulls) == requests.Request()
    assert requests.Request().to_json() == {}
    assert requests.Filters(allowed_ads=[]).to_json() == {"allowed_ads": ()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user": ["CH"]}, "user: expected an object, got ['CH'] (list)."),
        ({"user": {3: "CH"}}, "user[3]: expected a string, got 3 (int)."),
        ({"k": 2.0}, "k: expected an integer, got 2.0 (float)."),
        ({"k": True}, "k: expected an integer, got True (bool)."),
        ({"k": "10"}, "k: expected an integer, got '10' (str)."),
        ({"weights": {"click": "1"}}, "weights.click: expected a number, got '1' (str)."),
        ({"weights": [1]}, "weights: expected an object, got [1] (list)."),
        ({"request_id": 7}, "request_id: expected a string, got 7 (int)."),
        ({"explain": 1}, "explain: expected true or false, got 1 (int)."),
        (
            {"filters": []},
            "filters: expected an object with the keys conditions, allowed_ads, excluded_ads, "
            "got [] (list).",
        ),
        (
            {"filters": {"conditions": [{"field": "price", "at_lest": 1}]}},
            "filters.conditions[0]: unknown key 'at_lest' (str). Did you mean 'at_least'? "
            "Keys: field, any_of, none_of, all_of, at_least, at_most.",
        ),
        (
            {"filters": {"conditions": [{}]}},
            "filters.conditions[0].field: expected a value, got none. Add it.",
        ),
        ({"filters": {"allowed_ads": [1.5]}}, "filters.allowed_ads[0]: expected a string, got 1.5"),
        ({"usr": {}}, "request: unknown key 'usr' (str). Did you mean 'user'? Keys: user, con"),
        (
            {"rules": {"caps": [{"field": "x", "most": 1}]}},
            "rules.caps[0]: unknown key 'most' (str). Keys: field, max.",
        ),
    ],
)
def test_wrong_types_and_keys_are_refused_as_such(changes, message):
    with pytest.raises(errors.RequestTypeError) as refused:
        requests.parse(requests.Request, changes)
    assert str(refused.value).startswith(message)
    assert (refused.value.status, refused.value.code) == (422, "invalid_request")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "k: expected at least 1, got 0 (int)."),
        ({"weights": {"click": float("nan")}}, "weights.click: expected a finite number, got nan"),
        ({"weights": {"click": 1e30}}, "weights.click: expected at most 1000000000, got 1e+30"),
        ({"deadline_ms": 0}, "deadline_ms: expected more than 0, got 0 (int)."),
        ({"deadline_ms": float("inf")}, "deadline_ms: expected a finite number, got inf"),
        ({"deadline_ms": 60_001}, "deadline_ms: expected at most 60000"),
        ({"request_id": ""}, "request_id: expected at least 1 characters, got ''"),
        ({"request_id": "a" * 129}, "request_id: expected at most 128 characters, got 'aaa"),
        ({"request_id": "a\nb"}, "request_id: expected printable characters, got 'a\\nb' (str)."),
        ({"release": "old"}, "release: expected 'stable' or 'canary', got 'old' (str)."),
        (
            {"filters": {"conditions": [{"field": "x"}] * 65}},
            "filters.conditions: expected at most 64 values, ",
        ),
        (
            {"filters": {"allowed_ads": ["\ud800"]}},
            "filters.allowed_ads: expected text without unpaired",
        ),
        (
            {"rules": {"caps": [{"field": "{a}", "max": 1}] * 2}},
            "rules.caps: expected one rule for the field '{a}', got [",
        ),
        ({"seen": {"ads": {"\ud800": 1}}}, "seen.ads: expected text without unpaired surrogates"),
    ],
)
def test_values_beyond_their_limits_are_refused(changes, message):
    with pytest.raises(errors.InvalidRequestError) as refused:
        requests.parse(requests.Request, changes)
    assert str(refused.value).startswith(message)
    assert (refused.value.status, refused.value.code) == (400, "invalid_request")


def test_the_path_of_an_error_starts_at_the_given_place():
    with pytest.raises(errors.InvalidRequestError, match=r"^rules\.caps\[0\]\.max: expected at"):
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


def test_all_type_errors_are_listed_up_to_a_maximum():
    with pytest.raises(errors.RequestTypeError) as refused:
        requests.parse(requests.Request, {"k": "3", "explain": 1, "kk": 4})
    lines = str(refused.value).split("\n")
    assert lines[0].startswith("request: unknown key 'kk' (str). Did you mean 'k'?")
    assert lines[1:] == [
        "k: expected an integer, got '3' (str).",
        "explain: expected true or false, got 1 (int).",
    ]
    conditions = [{"field": 1}] * 30
    with pytest.raises(errors.RequestTypeError) as refused:
        requests.parse(requests.Request, {"filters": {"conditions": conditions}})
    lines = str(refused.value).split("\n")
    assert (len(lines), lines[-1]) == (21, "There are more errors.")


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
    with pytest.raises(errors.InvalidRequestError, match=rf"^{place}: expected at most \d+ values"):
        requests.parse(model, value)


def test_only_the_first_of_many_errors_are_listed():
    with pytest.raises(errors.RequestTypeError) as refused:
        requests.parse(requests.Request, {f"key{number}": 1 for number in range(5_000)})
    lines = str(refused.value).split("\n")
    assert (len(lines), lines[-1]) == (21, "There are more errors.")


def test_an_event_may_name_any_ad_that_a_release_can_have():
    event = {"event_id": "e", "user_id": "u", "event": "click"}
    # Such as a URL.
    assert requests.parse(requests.Event, {**event, "ad_id": "a" * 1_024}).ad_id == "a" * 1_024
    for ad_id in ("", "é" * 513, "a\0", "\ud800"):
        with pytest.raises(errors.InvalidRequestError, match=r"^ad_id: expected (1 to 1024|text)"):
            requests.parse(requests.Event, {**event, "ad_id": ad_id})
