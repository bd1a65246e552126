"""Calibrators: what they recover, and how they behave on little data."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tfrec import calibration, calibrators


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_platt_recovers_a_planted_scale_and_offset():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=50_000)
    labels = rng.random(50_000) < sigmoid(2.0 * logits - 1.0)
    fitted = calibration.fit_platt(labels, logits)
    assert fitted.scale == pytest.approx(2.0, abs=0.06)
    assert fitted.offset == pytest.approx(-1.0, abs=0.06)


def test_platt_makes_the_mean_prediction_the_observed_rate():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=50_000)
    labels = rng.random(50_000) < 0.1 * sigmoid(logits)
    fitted = calibration.fit_platt(labels, logits)
    predicted = sigmoid(fitted.scale * logits + fitted.offset)
    assert predicted.mean() == pytest.approx(labels.mean(), rel=0.03)


def test_platt_without_examples_is_the_identity_and_with_few_stays_near_it():
    assert calibration.fit_platt(np.empty(0), np.empty(0)) == calibration.IDENTITY
    few = calibration.fit_platt(np.array([1.0, 1.0, 1.0]), np.array([0.1, 0.2, 0.0]))
    assert abs(few.scale - 1) < 0.2
    assert 0 < few.offset < 0.3


def test_platt_never_turns_the_ranking_round():
    logits = np.linspace(-3, 3, 2_000)
    backwards = (logits < 0).astype(float)
    assert calibration.fit_platt(backwards, logits).scale > 0


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_platt_on_one_class_and_huge_logits_is_finite(label):
    fitted = calibration.fit_platt(np.full(100, label), np.linspace(-500, 500, 100))
    assert np.isfinite([fitted.scale, fitted.offset]).all()


def test_scale_is_observed_over_predicted_shrunk_by_ten_positives():
    # Ten positives give a weight of 10 / (10 + 10): the square root of the factor 2.
    assert calibration.fit_scale(np.full(10, 2.0), np.full(10, 1.0)) == pytest.approx(2**0.5)
    # 10,000 positives: 2 ** (10000 / 10010).
    many = calibration.fit_scale(np.full(10_000, 2.0), np.full(10_000, 1.0))
    assert many == pytest.approx(1.998615, abs=1e-5)


def test_scale_without_revenue_or_prediction_is_one():
    assert calibration.fit_scale(np.zeros(5), np.ones(5)) == 1.0
    assert calibration.fit_scale(np.ones(5), np.zeros(5)) == 1.0


CALIBRATORS = calibrators.Calibrators(
    calibration.Platt(2.0, -1.0), calibration.Platt(0.5, 0.25), 3.0
)


def test_calibrators_apply_to_each_head_and_engagement_stays_below_click():
    logits = {
        "click": tf.constant([[1.0]]),
        "engagement": tf.constant([[2.0]]),
        "revenue": tf.constant([[[0.0, 0.0, 0.0]]]),
    }
    served = {name: value.numpy().item() for name, value in CALIBRATORS.apply(logits).items()}
    # Click sigmoid(2 · 1 − 1); engagement given a click sigmoid(0.5 · 2 + 0.25);
    # revenue three times 1/2 · exp(1.05² / 2).
    assert served["click_probability"] == pytest.approx(sigmoid(1.0), rel=1e-6)
    assert served["engagement_probability"] == pytest.approx(sigmoid(1.0) * sigmoid(1.25), rel=1e-6)
    assert served["expected_revenue"] == pytest.approx(3 * 0.8677107, rel=1e-6)
    assert CALIBRATORS.apply({"click": logits["click"]}).keys() == {"click_probability"}


def test_calibrators_round_trip_as_json():
    value = json.loads(json.dumps(CALIBRATORS.to_json()))
    assert calibrators.Calibrators.from_json(value) == CALIBRATORS
