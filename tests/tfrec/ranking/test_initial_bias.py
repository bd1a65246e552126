"""Heads start at the rates of the log."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tfrec import layers
from tfrec.ranking import initial_bias, ranker_training
from tfrecords import reader


def test_biases_are_log_odds_of_known_labels_and_the_log_normals_mean_and_scale():
    nan = math.nan
    found = initial_bias.from_labels(
        {
            "click": np.array([1, 1, 0, 0, 0, nan], np.float32),
            "engagement": np.array([1, nan, 0, 0, 0, nan], np.float32),
            "revenue": np.array([math.e, math.e**3, 0, 0, nan, 0], np.float32),
        },
        {},
    )
    # Two clicks of five: (2 + 1/2) / (3 + 1/2). One known engagement of one clicked row.
    assert found["click"] == pytest.approx([math.log(2.5 / 3.5)])
    assert found["engagement"] == pytest.approx([math.log(1.5 / 0.5)])
    # Two of five earn, e¹ and e³: mean 2, deviation 1 = 0.05 + 2 · 0.475.
    expected = [math.log(2.5 / 3.5), 2.0, math.log(0.475 / 0.525)]
    assert found["revenue"] == pytest.approx(expected, rel=1e-5)


def test_no_labels_give_even_odds_and_equal_revenues_a_finite_scale():
    nothing = initial_bias.from_labels(
        {"click": np.full(3, math.nan), "revenue": np.full(3, math.nan)}, {}
    )
    assert nothing == {
        "click": [0.0],
        "revenue": [0.0, 0.0, pytest.approx(layers.raw_amount_scale(1.0))],
    }
    equal = initial_bias.from_labels({"click": np.ones(3), "revenue": np.full(3, 2.0)}, {})
    assert np.isfinite(equal["revenue"]).all()


def test_offsets_are_subtracted_from_amounts():
    labels = {"click": np.ones(4), "revenue": np.exp([1.0, 3.0, 2.0, 4.0])}
    found = initial_bias.from_labels(labels, {"revenue": np.array([0.0, 0.0, 1.0, 1.0])})
    assert found["revenue"][1] == pytest.approx(2.0)
    assert found["revenue"][2] == pytest.approx(layers.raw_amount_scale(1.0))


@pytest.mark.parametrize("scale", [0.3, 1.0, 1.9])
def test_a_scale_survives_a_round_trip(scale):
    found = layers.amount_scale(tf.constant(layers.raw_amount_scale(scale)))
    assert float(found) == pytest.approx(scale, rel=1e-5)


def test_heads_without_weights_predict_the_rates_of_the_log(data_set, ranker_config):
    model = ranker_training.build_ranker(data_set, ranker_config, [], [])
    ranker_training.start(model, data_set)
    for head in model.head_layers.values():
        head.kernel.assign(tf.zeros_like(head.kernel))
    batch = next(iter(data_set.batches("train", 64)))
    served = layers.head_outputs(model.logits(batch))
    rows, clicks, engagements = (
        data_set.num_rows("train"),
        data_set.label_sum("train", "click"),
        data_set.label_sum("train", "engagement"),
    )
    np.testing.assert_allclose(served["click_probability"], clicks / rows, rtol=1e-2)
    np.testing.assert_allclose(served["engagement_probability"], engagements / rows, rtol=2e-2)
    # The log-normal's mean is that of the revenues if these are log-normal.
    revenue = data_set.label_sum("train", "revenue") / rows
    shown = served["expected_revenue"].numpy()[batch["mask"].numpy()]
    np.testing.assert_allclose(shown.mean(), revenue, rtol=0.3)


def test_heads_start_from_many_rows_if_windows_have_few(data_set, ranker_config, monkeypatch):
    window = next(iter(data_set.windows("train")))
    monkeypatch.setattr(reader.DataSet, "windows", lambda *_: [window, window])
    from_labels, clicks = initial_bias.from_labels, []

    def recorded(labels, offsets):
        clicks.append(labels["click"])
        return from_labels(labels, offsets)

    monkeypatch.setattr(initial_bias, "from_labels", recorded)
    model = ranker_training.build_ranker(data_set, ranker_config, [], [])
    ranker_training.start(model, data_set)
    assert [len(labels) for labels in clicks] == [2 * len(window["click"])]
