"""The softmax temperature fitted on held-out clicks."""

import numpy as np
import pytest
import tensorflow as tf

from tfrec.retrieval import temperature


def clicks_of(scores, true_temperature, rng):
    """Draws a click for each row of scores from the softmax at a temperature."""
    gumbel = rng.gumbel(size=scores.shape)
    return np.argmax(scores / true_temperature + gumbel, axis=1)


def fit(scores, ad_rows, rows, log_draws):
    clicked = scores[np.arange(len(scores)), ad_rows]
    excluded = ad_rows[:, None] == rows
    return float(
        temperature.fit(
            tf.constant(clicked),
            tf.constant(scores[:, rows]),
            tf.constant(excluded),
            tf.constant(log_draws, tf.float32),
        )
    )


@pytest.mark.parametrize("true_temperature", [0.05, 0.1, 0.2])
def test_a_known_temperature_is_recovered(true_temperature):
    rng = np.random.default_rng(0)
    scores = np.clip(rng.normal(scale=0.3, size=(3_000, 200)), -1, 1).astype(np.float32)
    ad_rows = clicks_of(scores, true_temperature, rng)
    found = fit(scores, ad_rows, np.arange(200), np.zeros(200))
    assert found == pytest.approx(true_temperature, rel=0.06)


def test_a_sample_of_the_ads_gives_about_the_same():
    rng = np.random.default_rng(0)
    popularity = rng.normal(scale=0.2, size=2_000)
    scores = np.clip(rng.normal(scale=0.2, size=(2_000, 2_000)) + popularity, -1, 1)
    scores = scores.astype(np.float32)
    ad_rows = clicks_of(scores, 0.15, rng)
    rows, log_draws = temperature.columns(np.bincount(ad_rows, minlength=2_000), 500, rng)
    assert len(rows) == 500
    assert fit(scores, ad_rows, rows, log_draws) == pytest.approx(0.15, rel=0.1)


def test_uninformative_scores_get_about_the_maximum_temperature():
    rng = np.random.default_rng(0)
    scores = rng.uniform(-1, 1, size=(500, 50)).astype(np.float32)
    found = fit(scores, rng.integers(0, 50, 500), np.arange(50), np.zeros(50))
    assert found > 0.9 * temperature.MAX_TEMPERATURE


def test_few_ads_are_all_columns_and_each_counts_once():
    rows, log_draws = temperature.columns(np.array([3, 0, 1]), 10, np.random.default_rng(0))
    np.testing.assert_array_equal(rows, [0, 1, 2])
    np.testing.assert_array_equal(log_draws, [0.0, 0.0, 0.0])
