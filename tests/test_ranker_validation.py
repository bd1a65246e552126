"""The figures by which a ranker is judged, and their standard errors."""

import math

import numpy as np
import pytest

from tfrec import ranker_validation


def logit(p):
    return np.log(p) - np.log1p(-np.asarray(p))


def click_only(probability, labels, lengths=None):
    lengths = np.ones(len(labels), int) if lengths is None else lengths
    logits = {"click": logit(np.asarray(probability)).astype(np.float32)}
    return logits, {"click": np.asarray(labels, np.float32)}, np.asarray(lengths)


def test_figures_of_four_rows():
    found = ranker_validation.measure(*click_only([0.5, 0.5, 0.75, 0.25], [0, 1, 1, np.nan]))
    click = found["click"]
    assert (click["labelled"], click["positives"]) == (3, 2)
    assert click["base_rate"] == click["mean_label"] == pytest.approx(2 / 3)
    # Log loss (2 log 2 − log 0.75) / 3; entropy of 2/3: log 3 − (2/3) log 2.
    losses = (2 * math.log(2) - math.log(0.75)) / 3
    entropy = math.log(3) - 2 / 3 * math.log(2)
    assert click["normalized_entropy"] == pytest.approx(losses / entropy)
    # Predicted 0.5 + 0.5 + 0.75, observed 2.
    assert click["calibration_ratio"] == pytest.approx(1.75 / 2)
    # Of the pairs (0, 1) and (0, 1): a tie and a win.
    assert click["auc"] == pytest.approx(0.75)


@pytest.mark.parametrize("labels", [[0, 0, np.nan], [1, 1, 1], [np.nan] * 3])
def test_rows_of_one_kind_are_counted_and_not_judged(labels):
    found = ranker_validation.measure(*click_only([0.2, 0.3, 0.4], labels))["click"]
    assert set(found) == {"labelled", "positives"}
    assert found["labelled"] == 3 - sum(map(math.isnan, labels))


def test_engagement_is_measured_in_impression_space_and_revenue_by_its_amount():
    ones = np.ones(4, np.float32)
    logits = {
        "click": logit(0.5 * ones).astype(np.float32),
        "engagement": logit(0.4 * ones).astype(np.float32),
        # Positive with probability 1/4, then exp(log 2 − 1.05² / 2 + 1.05² / 2) = 2.
        "revenue": np.stack([logit(0.25 * ones), math.log(2) * ones - 1.05**2 / 2, 0 * ones], 1),
    }
    labels = {
        "click": np.array([1, 0, 1, 0], np.float32),
        "engagement": np.array([1, 0, 0, 0], np.float32),
        "revenue": np.array([4, 0, 0, 0], np.float32),
    }
    found = ranker_validation.measure(logits, labels, np.array([4]))
    # 4 · 0.5 · 0.4 engagements predicted, one observed.
    assert found["engagement"]["calibration_ratio"] == pytest.approx(0.8, rel=1e-6)
    # 4 · 0.25 · 2 predicted, 4 observed; the probability of being positive is the rate itself.
    assert found["revenue"]["calibration_ratio"] == pytest.approx(0.5, rel=1e-6)
    assert found["revenue"]["normalized_entropy"] == pytest.approx(1.0, rel=1e-6)
    assert found["revenue"]["mean_label"] == 1.0


def world(seed, requests=400, in_list=4):
    """Clicks of requests that share a mood, which no row can know of the others."""
    rng = np.random.default_rng(seed)
    shared = np.repeat(rng.normal(0, 1, requests), in_list)
    z = rng.normal(-1, 1, requests * in_list)
    labels = rng.random(len(z)) < 1 / (1 + np.exp(-z - shared))
    return {"click": z.astype(np.float32)}, {"click": labels.astype(np.float32)}, z


@pytest.mark.parametrize("figure", ["normalized_entropy", "calibration_ratio"])
def test_standard_errors_are_the_spread_over_logs_with_dependent_rows(figure):
    found = []
    for seed in range(200):
        logits, labels, _ = world(seed)
        found.append(ranker_validation.measure(logits, labels, np.full(400, 4))["click"])
    spread = np.std([one[figure] for one in found])
    # 200 draws know a standard deviation to within 5 %.
    assert np.mean([one[f"{figure}_error"] for one in found]) == pytest.approx(spread, rel=0.15)


def test_the_error_of_chance_is_that_of_a_calibrated_model():
    found = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        p = rng.beta(1, 9, 3_000)
        logits, labels, lengths = click_only(np.clip(p, 1e-4, None), rng.random(3_000) < p)
        found.append(ranker_validation.measure(logits, labels, lengths)["click"])
    mean = {name: np.mean([one[name] for one in found]) for name in found[0]}
    assert mean["expected_calibration_error_of_chance"] == pytest.approx(
        mean["expected_calibration_error"], rel=0.1
    )


def test_the_difference_of_two_rankers_is_known_better_than_either():
    logits, labels, z = world(1)
    rng = np.random.default_rng(2)
    other = {"click": (z + rng.normal(0, 0.2, len(z))).astype(np.float32)}
    lengths = np.full(400, 4)
    both = [ranker_validation.measure(one, labels, lengths)["click"] for one in (logits, other)]
    ((head, (value, error)),) = ranker_validation.differences(
        logits, other, labels, lengths
    ).items()
    assert head == "click"
    expected = both[0]["normalized_entropy"] - both[1]["normalized_entropy"]
    assert value == pytest.approx(expected, abs=1e-6)
    assert error < 0.5 * both[0]["normalized_entropy_error"]
    same = ranker_validation.differences(logits, logits, labels, lengths)
    assert same == {"click": (0.0, 0.0)}


def test_a_head_of_one_ranker_alone_has_no_difference():
    logits, labels, z = world(3)
    labels["engagement"] = labels["click"]
    more = {**logits, "engagement": z.astype(np.float32)}
    lengths = np.full(400, 4)
    assert set(ranker_validation.differences(more, logits, labels, lengths)) == {"click"}
