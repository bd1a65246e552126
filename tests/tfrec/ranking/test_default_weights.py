"""The default weights of a utility: from the schema, from values in money, or standardized."""

import numpy as np
import pytest
from head_figures import FEW, figures

from tfrec.ranking import default_weights
from tfrecords import schema as schema_lib

FIELDS = (
    schema_lib.Field("q", "categorical", "query"),
    schema_lib.Field("ad", "categorical", "ad"),
)
HEADS = ("click", "engagement", "revenue")


def judge(weak=(), deviations=(0.1, 0.02, 4.0), heads=HEADS, **of_schema):
    schema = schema_lib.Schema(
        "shop", FIELDS, ("ad",), "clicked", engagement="bought", revenue="paid", **of_schema
    )
    description = {
        "heads": list(heads),
        "validation": {head: FEW if head in weak else figures() for head in heads},
        "score_deviations": dict(zip(heads, deviations, strict=False)),
    }
    return default_weights.judge_heads(schema, description)


def test_without_values_each_head_counts_equally():
    judged = judge()
    # 0.1 / 0.1, 0.1 / 0.02 and 0.1 / 4.
    assert judged.weights == {"click": 1.0, "engagement": 5.0, "revenue": 0.025}
    assert (judged.source, judged.weak) == ("standardized", {})


def test_a_log_with_clicks_alone_keeps_its_utility():
    assert judge(heads=("click",)).weights == {"click": 1.0}


def test_a_weak_head_has_weight_zero():
    judged = judge(weak=("revenue",))
    assert judged.weights == {"click": 1.0, "engagement": 5.0, "revenue": 0.0}
    assert list(judged.weak) == ["revenue"]


def test_the_first_strong_head_has_weight_one():
    # 0.02 / 4.
    judged = judge(weak=("click",))
    assert judged.weights == {"click": 0.0, "engagement": 1.0, "revenue": 0.005}


@pytest.mark.parametrize("deviations", [(0.1, 0.02, 4.0), (0.0, 0.0, 0.0)])
def test_if_all_heads_are_weak_click_alone_decides(deviations):
    judged = judge(weak=HEADS, deviations=deviations)
    assert judged.weights == {"click": 1.0, "engagement": 0.0, "revenue": 0.0}
    assert list(judged.weak) == list(HEADS)


def test_a_head_whose_scores_are_all_the_same_has_weight_zero():
    assert judge(deviations=(0.1, 0.0, 4.0)).weights["engagement"] == 0.0


def test_values_are_money_and_a_weak_head_has_none():
    values = {"click": 0.05, "engagement": 2}
    judged = judge(values=values)
    assert judged.weights == {"click": 0.05, "engagement": 2.0, "revenue": 1.0}
    assert judged.source == "values"
    assert judge(values=values, weak=("revenue",)).weights["revenue"] == 0.0
    # What is not valued is worth its revenue alone.
    assert judge(values={"click": 0.05}).weights["engagement"] == 0.0


def test_values_of_weak_heads_alone_are_ignored():
    judged = judge(values={"engagement": 2}, weak=("engagement", "revenue"))
    assert (judged.weights["click"], judged.source) == (1.0, "standardized")


def test_weights_of_the_schema_take_precedence():
    judged = judge(weights={"click": 1, "revenue": 3}, values={"click": 0.05}, weak=("revenue",))
    assert judged.weights == {"click": 1.0, "engagement": 0.0, "revenue": 3.0}
    assert (judged.source, list(judged.weak)) == ("schema", ["revenue"])


def test_weights_of_untrained_heads_alone_are_ignored():
    judged = judge(weights={"engagement": 1, "revenue": 2}, heads=("click",))
    assert (judged.weights, judged.source) == ({"click": 1.0}, "standardized")


def test_deviations_are_those_of_the_served_scores():
    served = {"click_probability": np.array([0.1, 0.3]), "expected_revenue": np.array([2.0, 6.0])}
    found = default_weights.score_deviations(served, ["click", "revenue"])
    assert found == pytest.approx({"click": 0.1, "revenue": 2.0})
