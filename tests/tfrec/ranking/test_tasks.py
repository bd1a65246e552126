"""The losses of the tasks against values derived by hand, with masks and missing labels."""

import dataclasses
import math
import types

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_recommenders as tfrs

from tfrec import layers, ranking
from tfrec.ranking import ranker_training, tasks

LN2 = math.log(2.0)
ALL = tf.constant([[True, True]])
# One cell of revenue logits: p(positive) = 1/2, log-mean 0, scale 0.05 + 2 · 1/2 = 1.05.
REVENUE_LOGITS = [0.0, 0.0, 0.0]


def loss(head, labels, logits, mask=ALL, clicks=None, keep_rate=1.0):
    """The mean loss of a head, of labels [B, C] and logits of heads."""
    batch = {"mask": mask, "click": labels if clicks is None else clicks, head: labels}
    rows = tasks.labeled_rows(head, batch, logits, keep_rate)
    return tasks.mean(tasks.task_of(head)(*rows))


def test_click_loss_is_mean_cross_entropy():
    # p = 1/2 and label 1: ln 2; logit ln 3 is p = 3/4, label 0: ln 4.
    found = loss("click", tf.constant([[1.0, 0.0]]), {"click": tf.constant([[0.0, math.log(3)]])})
    assert float(found) == pytest.approx(1.5 * LN2)


def test_masked_and_unlabeled_ads_count_for_nothing():
    labels, logits = tf.constant([[1.0, 0.0]]), {"click": tf.constant([[0.0, 50.0]])}
    masked = loss("click", labels, logits, tf.constant([[True, False]]))
    unlabeled = loss("click", tf.constant([[1.0, math.nan]]), logits)
    assert float(masked) == float(unlabeled) == pytest.approx(LN2)


def test_a_batch_without_labels_has_loss_zero_and_gradient_zero():
    click, engagement = tf.Variable([[0.5, 1.0]]), tf.Variable([[0.5, 1.0]])
    revenue = tf.Variable([[REVENUE_LOGITS] * 2])
    missing = tf.constant([[math.nan, math.nan]])
    with tf.GradientTape(persistent=True) as tape:
        logits = {"click": click, "engagement": engagement, "revenue": revenue}
        parts = [loss(head, missing, logits) for head in logits]
    assert [float(part) for part in parts] == [0.0, 0.0, 0.0]
    for part, variable in zip(parts, (click, engagement, revenue), strict=True):
        assert not tape.gradient(part, variable).numpy().any()


def test_engagement_loss_is_cross_entropy_of_click_times_engagement():
    # p = 1/2 · 3/4 = 3/8: −ln 3/8 for label 1, −ln 5/8 for label 0.
    click, engagement = tf.constant([[0.0, 0.0]]), tf.constant([[math.log(3)] * 2])
    logits = {"click": click, "engagement": engagement}
    found = loss("engagement", tf.constant([[1.0, 0.0]]), logits)
    assert float(found) == pytest.approx((0.9808293 + 0.4700036) / 2, abs=1e-6)


def test_engagement_loss_agrees_with_the_served_probability():
    rng = np.random.default_rng(0)
    click, engagement = (tf.constant(rng.normal(size=(8, 5)), tf.float32) for _ in range(2))
    labels = tf.constant(rng.random((8, 5)) < 0.4, tf.float32)
    mask = tf.constant(rng.random((8, 5)) < 0.7)
    served = layers.head_outputs({"click": click, "engagement": engagement})
    p = served["engagement_probability"].numpy()
    cross_entropy = -np.where(labels.numpy() > 0, np.log(p), np.log1p(-p))
    found = loss("engagement", labels, {"click": click, "engagement": engagement}, mask)
    assert float(found) == pytest.approx(cross_entropy[mask.numpy()].mean(), rel=1e-5)


@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("logit", [-80.0, 0.0, 80.0])
def test_extreme_logits_give_finite_losses_and_gradients(label, logit):
    click, engagement = tf.Variable([[logit]]), tf.Variable([[logit]])
    revenue = tf.Variable([[[logit, logit / 10, logit]]])
    one, labels = tf.constant([[True]]), tf.constant([[label]])
    with tf.GradientTape() as tape:
        logits = {"click": click, "engagement": engagement, "revenue": revenue}
        total = tf.add_n([loss(head, labels, logits, one) for head in logits])
    gradients = tape.gradient(total, [click, engagement, revenue])
    assert np.isfinite(float(total))
    assert all(np.isfinite(gradient.numpy()).all() for gradient in gradients)


def test_revenue_loss_is_a_zero_inflated_log_normal():
    logits = tf.constant([[REVENUE_LOGITS, REVENUE_LOGITS]])
    # Zero: −ln 1/2. Revenue e, so log 1 and deviation 1 / 1.05:
    # −ln 1/2 + 1 + ln 1.05 + (ln 2π + 1 / 1.1025) / 2
    #   = 0.6931472 + 1 + 0.0487902 + 0.9189385 + 0.4535147 = 3.1143906
    logits = {"click": tf.zeros([1, 2]), "revenue": logits}
    both = loss("revenue", tf.constant([[0.0, math.e]]), logits)
    only_zero = loss("revenue", tf.constant([[0.0, math.nan]]), logits)
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


def test_a_kept_unclicked_row_counts_for_the_dropped_ones():
    logits = {
        "click": tf.zeros([1, 2]),
        "revenue": tf.constant([[[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]]),
    }
    clicks = tf.constant([[1.0, 0.0]])
    found = loss("revenue", tf.zeros([1, 2]), logits, clicks=clicks, keep_rate=0.25)
    # The unclicked row stands for four: the mean of revenue is over five rows.
    expected = (LN2 + 4 * math.log(1 + math.e**2)) / 5
    assert float(found) == pytest.approx(expected, rel=1e-6)
    # Click logits are those of kept rows: 0 − ln 1/4, so p = 4/5 for both.
    found = loss("click", clicks, logits, keep_rate=0.25)
    assert float(found) == pytest.approx((math.log(5 / 4) + math.log(5)) / 2, rel=1e-6)


def test_losses_are_weighted_in_the_model(data_set, ranker_config):
    config = dataclasses.replace(ranker_config, engagement_weight=0.5, revenue_weight=0.25)
    model = ranking.build_ranker(data_set, config, [], [])
    batch = next(iter(data_set.batches("train", 64)))
    total = float(model.compute_loss(batch))
    parts = {metric.name: float(metric.result()) for metric in model.metrics}
    expected = parts["click_loss"] + 0.5 * parts["engagement_loss"] + 0.25 * parts["revenue_loss"]
    assert total == pytest.approx(expected, rel=1e-5)


@pytest.mark.trains
def test_stock_tasks_drop_in_and_train(data_set, ranker_config):
    config = dataclasses.replace(ranker_config, num_blocks=0)
    model = ranking.build_ranker(data_set, config, [], [])
    entropy = tf.keras.losses.BinaryCrossentropy(from_logits=True)
    auc = tf.keras.metrics.AUC(from_logits=True, name="click_auc")
    model.tasks = {
        "click": tfrs.tasks.Ranking(entropy, metrics=[auc]),
        "engagement": tfrs.tasks.Ranking(entropy),
    }
    optimizer = tf.keras.optimizers.Adam(0.01)
    optimizer.build(model.trainable_variables)  # Otherwise Keras traces the first step twice.
    model.compile(optimizer)
    history = model.fit(
        data_set.batches_of_like_lists("train", 64, seed=1), epochs=3, verbose=0
    ).history
    assert history["loss"][-1] < history["loss"][0]
    assert history["click_auc"][-1] > 0.55


def test_the_epoch_is_chosen_by_the_losses_of_all_heads():
    """As in training: an epoch that is better for engagement alone is better."""

    model = types.SimpleNamespace(
        tasks={head: tasks.task_of(head) for head in ("click", "engagement")}
    )

    def predictions(engagement):
        logits = {"click": np.zeros(2, np.float32), "engagement": np.float32(engagement)}
        labels = {"click": np.float32([1, 0]), "engagement": np.float32([1, math.nan])}
        return ranking.Predictions(logits, labels, np.array([2]), np.array([0, 1]))

    weights = {"click": 1.0, "engagement": 0.5}
    even, better = (
        ranker_training.validation_loss(model, predictions(logits), weights)
        for logits in ([0.0, 9.0], [math.log(3), -9.0])
    )
    # Clicks ln 2; of the one row with a label 1 the engagement has p = 1/4, and then 3/8.
    assert even == pytest.approx(LN2 + 0.5 * math.log(4), rel=1e-6)
    assert better == pytest.approx(LN2 + 0.5 * math.log(8 / 3), rel=1e-6)
