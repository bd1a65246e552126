"""Answers as text."""

from serving import requests
from serving.operations import local_service

AD = requests.RankedAd(
    rank=1,
    ad_id="ad-17",
    utility=0.31,
    click_probability=0.21,
    engagement_probability=None,
    expected_revenue=None,
    retrieval_score=0.83,
    fields={"price": 12.5},
)
ANSWER = requests.Answer(
    request_id="42",
    bundle_version=3,
    degraded=None,
    order="utility",
    ads=[AD],
    absent_heads=["engagement", "revenue"],
    stage_ms={"total": 8.0},
)


def test_an_answer_shows_the_heads_that_the_release_has():
    lines = local_service.describe_answer(ANSWER).splitlines()
    assert lines[0] == "release 3, 1 ad by utility"
    assert lines[1].split() == ["rank", "ad", "utility", "click", "fields"]
    assert lines[2].split() == ["1", "ad-17", "0.3100", "0.2100", "price=12.5"]
    assert lines[3] == "  not predicted, without positive labels in training: engagement, revenue"


def test_an_answer_of_other_heads_shows_them():
    ad = requests.RankedAd(
        rank=1, ad_id="a", utility=0.5, signup_probability=0.5, retrieval_score=1.0, fields={}
    )
    answer = ANSWER.model_copy(update={"ads": [ad], "absent_heads": []})
    lines = local_service.describe_answer(answer).splitlines()
    assert lines[1].split() == ["rank", "ad", "utility", "signup", "fields"]
    assert lines[2].split() == ["1", "a", "0.5000", "0.5000"]


def test_titles_replace_the_raw_fields():
    ad = AD.model_copy(update={"show": {"title": "Trail Shoe", "stock": None}})
    answer = ANSWER.model_copy(update={"ads": [ad]})
    lines = local_service.describe_answer(answer).splitlines()
    assert lines[1].split() == ["rank", "ad", "title", "stock", "utility", "click"]
    assert lines[2].split() == ["1", "ad-17", "Trail", "Shoe", "–", "0.3100", "0.2100"]


def test_a_long_title_is_cut_only_where_all_columns_do_not_fit():
    long = "Alpino Desert Messenger Bag"
    ad = AD.model_copy(update={"show": {"title": long, "category": "bags", "price": 12.5}})
    answer = ANSWER.model_copy(update={"ads": [ad]})
    lines = local_service.describe_answer(answer).splitlines()
    assert lines[2].split() == ["1", "ad-17", *long.split(), "bags", "12.5", "0.3100", "0.2100"]
    # The price takes 5 of 41 characters; the titles share the rest.
    ad = AD.model_copy(update={"show": {"title": 30 * "a", "subtitle": 30 * "b", "price": 12.5}})
    answer = ANSWER.model_copy(update={"ads": [ad]})
    lines = local_service.describe_answer(answer).splitlines()
    assert lines[2].split()[2:5] == [18 * "a", 18 * "b", "12.5"]


def test_an_id_that_is_cut_ends_with_an_ellipsis():
    for ad_id, shown in ((24 * "a", 24 * "a"), (25 * "a", 23 * "a" + "…")):
        answer = ANSWER.model_copy(update={"ads": [AD.model_copy(update={"ad_id": ad_id})]})
        assert local_service.describe_answer(answer).splitlines()[2].split()[1] == shown


def test_a_degraded_answer_has_no_scores():
    ad = AD.model_copy(update={"utility": None, "click_probability": None})
    answer = ANSWER.model_copy(update={"ads": [ad], "order": "retrieval", "degraded": "No ranker."})
    lines = local_service.describe_answer(answer).splitlines()
    assert lines[0] == "release 3, 1 ad by retrieval order: No ranker."
    assert lines[2].split() == ["1", "ad-17", "–", "–", "price=12.5"]
