"""A new head of a known kind is a new label."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf

from tfrec import calibration, config, layers, ranking
from tfrec.calibration import curves
from tfrec.heads import CLICK, HEADS, Head, HeadKind
from tfrec.ranking import initial_bias, tasks
from tfrecords.schema import LABELS, Label

SUBSCRIPTION = dataclasses.replace(Head.of(Label("subscription", after="click")), loss_weight=0.5)
LN2 = math.log(2)


@pytest.fixture(autouse=True)
def table(monkeypatch):
    monkeypatch.setitem(HEADS, SUBSCRIPTION.label, SUBSCRIPTION)


def test_labels_and_outputs_are_unique():
    assert all(label == head.label for label, head in HEADS.items())
    assert len({head.output for head in HEADS.values()}) == len(HEADS)


def test_the_table_has_a_head_for_each_label_and_its_kind_follows_from_it():
    assert list(HEADS)[: len(LABELS)] == list(LABELS)
    assert SUBSCRIPTION.output == "subscription_probability"
    hide, dwell = Head.of(Label("hide")), Head.of(Label("dwell", is_amount=True, after="click"))
    assert (hide.output, hide.kind) == ("hide_probability", HeadKind.PROBABILITY)
    assert (dwell.output, dwell.kind) == ("expected_dwell", HeadKind.AMOUNT)
    assert [head.loss_weight for head in (HEADS["revenue"], dwell)] == [0.3, 1.0]


def test_a_label_needs_a_click_if_its_head_is_a_probability_after_a_click():
    for name, label in LABELS.items():
        assert label.needs_click == (HEADS[name].kind == HeadKind.PROBABILITY_AFTER_CLICK)


def test_its_output_is_the_product_with_the_click_probability():
    outputs = layers.head_outputs(
        {CLICK.label: tf.constant([[0.0]]), "subscription": tf.constant([[math.log(3)]])}
    )
    # 1/2 · 3/4
    assert outputs["subscription_probability"].numpy().item() == pytest.approx(3 / 8)


def test_its_loss_has_the_weight_of_the_entry():
    weights = config.RankerConfig().loss_weights
    assert weights["subscription"] == 0.5
    batch = {
        "mask": tf.constant([[True]]),
        "click": tf.constant([[1.0]]),
        "subscription": tf.constant([[1.0]]),
    }
    zeros = tf.zeros([1, 1])
    labels, predictions, sample_weight = tasks.labeled_rows(
        "subscription", batch, {"click": zeros, "subscription": zeros}, 1.0
    )
    losses = tasks.task_of("subscription")(labels, predictions, sample_weight=sample_weight)
    # Click and subscription with p = 1/4: 2 ln 2.
    assert float(tasks.mean(losses)) == pytest.approx(2 * LN2)


def test_its_bias_calibrator_and_metrics_are_those_of_its_kind():
    rng = np.random.default_rng(0)
    click = (rng.random(4_000) < 0.5).astype(np.float32)
    labels = {"click": click, "subscription": click * (rng.random(4_000) < 0.25)}
    biases = initial_bias.from_labels(labels, {})
    # About a quarter of the clicked rows: log odds −ln 3.
    assert biases["subscription"] == pytest.approx([-math.log(3)], abs=0.15)
    logits = {head: np.zeros(4_000, np.float32) for head in labels}
    folds = np.arange(4_000) * 5 // 4_000
    fitted = calibration.fit_calibrators(logits, labels, folds)
    assert isinstance(fitted.curves["subscription"], curves.Platt)
    served = calibration.calibrated_values(logits, fitted)
    mean = labels["subscription"].mean()
    assert served["subscription_probability"][0] == pytest.approx(mean, abs=0.01)
    figures = ranking.measure_heads(logits, labels, np.arange(4_000))
    assert figures["subscription"]["mean_label"] == pytest.approx(mean)
