"""Losses against values derived by hand, with masks and missing labels."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tfrec import layers
from tfrec.ranking import losses

LN2 = math.log(2.0)
ALL = tf.constant([[True, True]])
# One cell of revenue logits: p(positive) = 1/2, log-mean 0, scale 0.05 + 2 · 1/2 = 1.05.
REVENUE_LOGITS = [0.0, 0.0, 0.0]
WEIGHTS = {"click": 1.0, "engagement": 0.5, "revenue": 0.25}


def test_click_loss_is_mean_cross_entropy():
    # p = 1/2 and label 1: ln 2; logit ln 3 is p = 3/4, label 0: ln 4.
    loss = losses.probability_loss(
        tf.constant([[1.0, 0.0]]), tf.constant([[0.0, math.log(3)]]), ALL
    )
    assert float(loss) == pytest.approx(1.5 * LN2)


def test_masked_and_unlabelled_ads_count_for_nothing():
    labels, logits = tf.constant([[1.0, 0.0]]), tf.constant([[0.0, 50.0]])
    masked = losses.probability_loss(labels, logits, tf.constant([[True, False]]))
    unlabelled = losses.probability_loss(tf.constant([[1.0, math.nan]]), logits, ALL)
    assert float(masked) == float(unlabelled) == pytest.approx(LN2)


def test_a_batch_without_labels_has_loss_zero_and_gradient_zero():
    click, engagement = tf.Variable([[0.5, 1.0]]), tf.Variable([[0.5, 1.0]])
    revenue = tf.Variable([[REVENUE_LOGITS] * 2])
    missing = tf.constant([[math.nan, math.nan]])
    with tf.GradientTape(persistent=True) as tape:
        parts = [
            losses.probability_loss(missing, click, ALL),
            losses.after_click_loss(missing, click, engagement, ALL),
            losses.amount_loss(missing, revenue, ALL),
        ]
    assert [float(part) for part in parts] == [0.0, 0.0, 0.0]
    for part, variable in zip(parts, (click, engagement, revenue), strict=True):
        assert not tape.gradient(part, variable).numpy().any()


def test_engagement_loss_is_cross_entropy_of_click_times_engagement():
    # p = 1/2 · 3/4 = 3/8: −ln 3/8 for label 1, −ln 5/8 for label 0.
    click, engagement = tf.constant([[0.0, 0.0]]), tf.constant([[math.log(3)] * 2])
    loss = losses.after_click_loss(tf.constant([[1.0, 0.0]]), click, engagement, ALL)
    assert float(loss) == pytest.approx((0.9808293 + 0.4700036) / 2, abs=1e-6)


def test_engagement_loss_agrees_with_the_served_probability():
    rng = np.random.default_rng(0)
    click, engagement = (tf.constant(rng.normal(size=(8, 5)), tf.float32) for _ in range(2))
    labels = tf.constant(rng.random((8, 5)) < 0.4, tf.float32)
    mask = tf.constant(rng.random((8, 5)) < 0.7)
    served = layers.head_outputs({"click": click, "engagement": engagement})
    p = served["engagement_probability"].numpy()
    cross_entropy = -np.where(labels.numpy() > 0, np.log(p), np.log1p(-p))
    loss = losses.after_click_loss(labels, click, engagement, mask)
    assert float(loss) == pytest.approx(cross_entropy[mask.numpy()].mean(), rel=1e-5)


@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("logit", [-80.0, 0.0, 80.0])
def test_extreme_logits_give_finite_losses_and_gradients(label, logit):
    click, engagement = tf.Variable([[logit]]), tf.Variable([[logit]])
    revenue = tf.Variable([[[logit, logit / 10, logit]]])
    one, labels = tf.constant([[True]]), tf.constant([[label]])
    with tf.GradientTape() as tape:
        loss = losses.after_click_loss(labels, click, engagement, one)
        loss += losses.probability_loss(labels, click, one) + losses.amount_loss(
            labels, revenue, one
        )
    gradients = tape.gradient(loss, [click, engagement, revenue])
    assert np.isfinite(float(loss))
    assert all(np.isfinite(gradient.numpy()).all() for gradient in gradients)


def test_revenue_loss_is_a_zero_inflated_log_normal():
    logits = tf.constant([[REVENUE_LOGITS, REVENUE_LOGITS]])
    # Zero: −ln 1/2. Revenue e, so log 1 and deviation 1 / 1.05:
    # −ln 1/2 + 1 + ln 1.05 + (ln 2π + 1 / 1.1025) / 2
    #   = 0.6931472 + 1 + 0.0487902 + 0.9189385 + 0.4535147 = 3.1143906
    both = losses.amount_loss(tf.constant([[0.0, math.e]]), logits, ALL)
    only_zero = losses.amount_loss(tf.constant([[0.0, math.nan]]), logits, ALL)
    assert float(only_zero) == pytest.approx(LN2)
    assert float(both) == pytest.approx((0.6931472 + 3.1143906) / 2, abs=1e-6)


def test_expected_revenue_is_the_mean_of_that_distribution():
    # 1/2 · exp(0 + 1.05² / 2) = 1/2 · exp(0.55125)
    served = layers.head_outputs(
        {"click": tf.constant([[0.0]]), "revenue": tf.constant([[REVENUE_LOGITS]])}
    )
    expected_revenue = served["expected_revenue"].numpy().item()
    assert expected_revenue == pytest.approx(0.8677107, abs=1e-6)
    rng = np.random.default_rng(0)
    draws = (rng.random(2_000_000) < 0.5) * np.exp(rng.normal(0.0, 1.05, 2_000_000))
    assert expected_revenue == pytest.approx(draws.mean(), rel=0.01)


def test_served_values_are_those_of_the_heads_built():
    served = layers.head_outputs({"click": tf.constant([[0.0]])})
    assert list(served) == ["click_probability"]


def test_total_weighs_the_heads_that_exist():
    batch = {
        "mask": ALL,
        "click": tf.constant([[1.0, 0.0]]),
        "engagement": tf.constant([[1.0, 0.0]]),
        "revenue": tf.constant([[0.0, 0.0]]),
    }
    zeros = tf.zeros([1, 2])
    logits = {"click": zeros, "engagement": zeros, "revenue": tf.zeros([1, 2, 3])}
    # Click and revenue ln 2 each; engagement p = 1/4: (ln 4 + ln 4/3) / 2.
    engagement = (math.log(4) + math.log(4 / 3)) / 2
    parts = losses.total_loss(batch, logits, WEIGHTS)
    assert float(parts["loss"]) == pytest.approx(LN2 + 0.5 * engagement + 0.25 * LN2)
    click_only = losses.total_loss(batch, {"click": zeros}, WEIGHTS)
    assert click_only.keys() == {"loss", "click_loss"}
    assert float(click_only["loss"]) == pytest.approx(LN2)


def test_total_counts_a_kept_unclicked_row_for_those_that_were_left_out():
    batch = {
        "mask": ALL,
        "click": tf.constant([[1.0, 0.0]]),
        "revenue": tf.constant([[0.0, 0.0]]),
    }
    logits = {
        "click": tf.zeros([1, 2]),
        "revenue": tf.constant([[[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]]),
    }
    parts = losses.total_loss(batch, logits, WEIGHTS, negative_keep_rate=0.25)
    # The unclicked row stands for four: the mean of revenue is over five rows.
    revenue = (LN2 + 4 * math.log(1 + math.e**2)) / 5
    assert float(parts["revenue_loss"]) == pytest.approx(revenue, rel=1e-6)
