"""Answers as frames."""

import math

import pandas as pd
import pytest

from serving.requests import Answer

AD = {
    "rank": 1,
    "ad_id": "a7",
    "utility": 0.5,
    "retrieval_score": 0.9,
    "click_probability": 0.25,
    "expected_revenue": None,
    "fields": {"brand": "tea", "price": 2.5, "rank": 40, "tags": ["new"]},
}
ANSWER = {
    "request_id": "r",
    "bundle_version": 3,
    "degraded": None,
    "order": "utility",
    "ads": [AD, {**AD, "rank": 2, "ad_id": "a8", "fields": {"brand": None}, "propensity": 0.5}],
    "absent_heads": ["revenue"],
    "stage_ms": {"total": 1.0},
}


def test_a_frame_has_a_row_for_each_ad_with_its_scores_and_fields():
    frame = Answer.model_validate(ANSWER).to_pandas()
    assert list(frame.columns) == [
        "rank", "ad_id", "utility", "click_probability", "expected_revenue", "retrieval_score",
        "propensity", "brand", "price", "fields.rank", "tags",
    ]  # fmt: skip
    first, second = frame.to_dict("records")
    assert math.isnan(first.pop("expected_revenue"))
    assert first == {
        "rank": 1,
        "ad_id": "a7",
        "utility": 0.5,
        "click_probability": 0.25,
        "retrieval_score": 0.9,
        "propensity": 1.0,
        "brand": "tea",
        "price": 2.5,
        "fields.rank": 40,
        "tags": ["new"],
    }
    assert (second["rank"], second["ad_id"], second["propensity"]) == (2, "a8", 0.5)
    assert frame["expected_revenue"].dtype == float


@pytest.mark.parametrize("ads", [[], [{**AD, "utility": None, "click_probability": None}]])
def test_an_answer_without_ads_or_scores_has_the_same_first_columns(ads):
    frame = Answer.model_validate({**ANSWER, "ads": ads}).to_pandas()
    assert len(frame) == len(ads)
    assert {"rank", "ad_id", "utility", "retrieval_score", "propensity"} <= set(frame.columns)
    assert frame["utility"].isna().all()
    # An answer without ads has no names of heads and fields, and the types of any other.
    own = frame[["rank", "ad_id", "utility", "retrieval_score", "propensity"]].dtypes
    pd.testing.assert_series_equal(own, Answer.model_validate(ANSWER).to_pandas().dtypes[own.index])
    assert own.drop("ad_id").tolist() == ["int64", "float64", "float64", "float64"]


def test_a_frame_has_the_columns_to_show():
    ad = {**AD, "show": {"title": "Earl Grey", "price": 2.75}}
    answer = Answer.model_validate({**ANSWER, "ads": [ad]})
    (row,) = answer.to_pandas().to_dict("records")
    assert (row["title"], row["price"], row["show.price"]) == ("Earl Grey", 2.5, 2.75)
    assert answer.to_json()["ads"][0]["show"] == {"title": "Earl Grey", "price": 2.75}
    assert "show" not in Answer.model_validate(ANSWER).to_json()["ads"][0]
