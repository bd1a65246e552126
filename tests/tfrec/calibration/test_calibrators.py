"""The calibrators of each head, of the parts of revenue, and inside the SavedModel."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf

from tfrec import calibration, metrics
from tfrec.calibration import curves

CURVE = curves.Isotonic((-1.0, 0.0, 0.5), (-3.0, -1.0, 2.0), 0.7, 1.5)
CALIBRATORS = calibration.Calibrators(
    {"click": curves.Platt(2.0, -1.0), "engagement": curves.Platt(0.5, 0.25), "revenue": CURVE},
    amounts={"revenue": curves.Platt(0.5, math.log(3.0))},
)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_calibrators_apply_to_each_head_and_engagement_stays_below_click():
    logits = {
        "click": tf.constant([[1.0]]),
        "engagement": tf.constant([[2.0]]),
        "revenue": tf.constant([[[0.25, 2.0, 0.0]]]),
    }
    served = {name: value.numpy().item() for name, value in CALIBRATORS.apply(logits).items()}
    # Click sigmoid(2 · 1 − 1); engagement given a click sigmoid(0.5 · 2 + 0.25); revenue is
    # positive with the logit −1 + 0.25 · 6 = 0.5, and then 3 · exp(0.5 · 2 + 1.05² / 2).
    assert served["click_probability"] == pytest.approx(sigmoid(1.0), rel=1e-6)
    assert served["engagement_probability"] == pytest.approx(sigmoid(1.0) * sigmoid(1.25), rel=1e-6)
    expected = sigmoid(0.5) * 3 * math.exp(1 + 0.55125)
    assert served["expected_revenue"] == pytest.approx(expected, rel=1e-6)
    assert CALIBRATORS.apply({"click": logits["click"]}).keys() == {"click_probability"}


def test_calibrators_round_trip_as_json():
    value = json.loads(json.dumps(CALIBRATORS.to_json()))
    assert calibration.Calibrators.from_json(value) == CALIBRATORS


def test_other_json_is_refused():
    with pytest.raises(ValueError, match=r"Not the calibrators of a ranker: .*'clicks'"):
        calibration.Calibrators.from_json({"clicks": {}})


def test_folds_keep_requests_whole_and_are_about_equal():
    lengths = np.random.default_rng(0).integers(1, 30, 400)
    folds = calibration.fold_of_rows(lengths)
    assert len(folds) == lengths.sum()
    assert (np.diff(folds) >= 0).all()
    owner = np.repeat(np.arange(400), lengths)
    assert all(len(np.unique(folds[owner == request])) == 1 for request in range(400))
    # A fold is off by a list of at most 29 ads at either end.
    assert np.abs(np.bincount(folds) - lengths.sum() / 5).max() <= 29
    assert calibration.fold_of_rows(np.array([3])).tolist() == [2, 2, 2]
    assert len(calibration.fold_of_rows(np.array([], int))) == 0


def sample_of_world(count, seed):
    """Logits of all heads [L], their labels, and the true expected revenue [L].

    The true logit of a logit z: click 0.5 z; engagement z + 1.5 tanh(3 z + 3); revenue is
    positive with the logit 2 z + 1, and then log-normal around 0.5 m + 1, with m predicted.
    """
    rng = np.random.default_rng(seed)
    z = rng.normal(-1, 1, (4, count))
    scale = 1.05  # 0.05 + 2 · sigmoid(0)
    logits = {
        "click": z[0].astype(np.float32),
        "engagement": z[1].astype(np.float32),
        "revenue": np.stack([z[2], z[3], np.zeros(count)], axis=1).astype(np.float32),
    }
    click = rng.random(count) < sigmoid(0.5 * z[0])
    engagement = click & (rng.random(count) < sigmoid(z[1] + 1.5 * np.tanh(3 * z[1] + 3)))
    positive = sigmoid(2 * z[2] + 1)
    mean = 0.5 * z[3] + 1
    amount = np.exp(mean + scale * rng.normal(size=count))
    labels = {
        "click": click.astype(np.float32),
        "engagement": engagement.astype(np.float32),
        "revenue": np.where(rng.random(count) < positive, amount, 0.0).astype(np.float32),
    }
    return logits, labels, positive * np.exp(mean + scale**2 / 2)


@pytest.fixture(scope="module")
def fitted():
    logits, labels, _ = sample_of_world(40_000, 1)
    return (
        calibration.fit_calibrators(logits, labels, np.arange(40_000) * 5 // 40_000),
        logits,
        labels,
    )


def test_known_distortions_of_every_head_are_removed(fitted):
    found, _, _ = fitted
    assert isinstance(found.curves["engagement"], curves.Isotonic)
    logits, labels, expected = sample_of_world(40_000, 2)
    before = calibration.calibrated_values(logits, calibration.Calibrators())
    after = calibration.calibrated_values(logits, found)
    for head, limit in (("click", 0.01), ("engagement", 0.009)):
        # Fifteen bins of 2,667 labels of rate 0.4 and 0.1: off by 0.0075 and 0.0050 by chance.
        name = f"{head}_probability"
        assert metrics.expected_calibration_error(labels[head], after[name]) < limit
        assert metrics.expected_calibration_error(labels[head], before[name]) > 3 * limit
    np.testing.assert_allclose(after["expected_revenue"].sum(), expected.sum(), rtol=0.05)


def test_expected_revenue_is_right_in_total_on_fitted_rows_and_by_decile_on_others(fitted):
    found, logits, labels = fitted
    served = calibration.calibrated_values(logits, found)["expected_revenue"]
    assert served.sum() / labels["revenue"].sum() == pytest.approx(1.0, abs=0.002)
    logits, _, expected = sample_of_world(40_000, 3)
    served = calibration.calibrated_values(logits, found)["expected_revenue"]
    raw = calibration.calibrated_values(logits, calibration.Calibrators())["expected_revenue"]
    ratios, without = [], []
    for rows in np.array_split(np.argsort(served), 10):
        ratios.append(served[rows].sum() / expected[rows].sum())
        without.append(raw[rows].sum() / expected[rows].sum())
    # The true means leave no noise of labels; the rest is that of about 40 parameters.
    assert max(abs(np.array(ratios) - 1)) < 0.1
    assert max(abs(np.array(without) - 1)) > 0.5


def test_rows_without_labels_do_not_change_the_fit(fitted):
    found, logits, labels = fitted
    rng = np.random.default_rng(4)
    more = {head: np.concatenate([v, v[:9_000] + 5]) for head, v in logits.items()}
    missing = {head: np.append(v, np.full(9_000, np.nan, np.float32)) for head, v in labels.items()}
    order = rng.permutation(49_000)
    folds = np.append(np.arange(40_000) * 5 // 40_000, rng.integers(0, 5, 9_000))
    again = calibration.fit_calibrators(
        {head: v[order] for head, v in more.items()},
        {head: v[order] for head, v in missing.items()},
        folds[order],
    )
    grid = np.linspace(-3, 3, 20)
    pairs = [(again.curves[head], found.curves[head]) for head in logits]
    for ours, theirs in [*pairs, (again.amounts["revenue"], found.amounts["revenue"])]:
        np.testing.assert_allclose(ours.array(grid), theirs.array(grid), atol=1e-4)


def test_a_head_without_labels_keeps_its_logits():
    logits, labels, _ = sample_of_world(2_000, 5)
    labels["engagement"][:] = np.nan
    labels["revenue"][:] = 0.0
    found = calibration.fit_calibrators(logits, labels, np.arange(2_000) * 5 // 2_000)
    assert found.curves["engagement"] == curves.IDENTITY
    assert found.amounts["revenue"] == curves.IDENTITY


def test_a_head_that_diverged_is_named():
    logits, labels, _ = sample_of_world(100, 6)
    logits["revenue"][7, 0] = np.nan
    with pytest.raises(ValueError, match=r"revenue: 1 of 100 logits are not finite"):
        calibration.fit_calibrators(logits, labels, np.zeros(100, int))


def test_a_row_is_calibrated_by_curves_fitted_on_other_rows():
    logits, labels, _ = sample_of_world(3_000, 7)
    folds = np.arange(3_000) * 5 // 3_000
    once = calibration.cross_fitted_logits(logits, labels, folds)
    changed = {head: np.where(folds == 2, values.max(), values) for head, values in labels.items()}
    again = calibration.cross_fitted_logits(logits, changed, folds)
    for head, values in once.items():
        assert values.shape == logits[head].shape
        np.testing.assert_array_equal(again[head][folds == 2], values[folds == 2])
        assert np.abs(again[head][folds == 0] - values[folds == 0]).max() > 0.1


class Served(tf.Module):
    """The calibrators alone, as `exported.RankerModule` applies them."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None]), tf.TensorSpec([None, None]), tf.TensorSpec([None, None, 3])
        ]
    )  # fmt: skip
    def serve(self, click, engagement, revenue):
        return CALIBRATORS.apply({"click": click, "engagement": engagement, "revenue": revenue})


def test_a_saved_model_agrees_with_numpy(tmp_path):
    module = Served()
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": module.serve})
    serve = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    for shape in ((1, 1), (3, 500), (0, 5)):
        rng = np.random.default_rng(8)
        click, engagement = rng.normal(0, 3, (2, *shape)).astype(np.float32)
        revenue = rng.normal(0, 3, (*shape, 3)).astype(np.float32)
        served = serve(
            click=tf.constant(click), engagement=tf.constant(engagement),
            revenue=tf.constant(revenue),
        )  # fmt: skip
        p_click = sigmoid(CALIBRATORS.curves["click"].array(click))
        p_engagement = sigmoid(CALIBRATORS.curves["engagement"].array(engagement))
        p_positive = sigmoid(CURVE.array(revenue[..., 0]))
        scale = 0.05 + 2 * sigmoid(revenue[..., 2].astype(np.float64))
        amount = np.exp(CALIBRATORS.amounts["revenue"].array(revenue[..., 1]) + scale**2 / 2)
        for name, expected in (
            ("click_probability", p_click),
            ("engagement_probability", p_click * p_engagement),
            ("expected_revenue", p_positive * amount),
        ):
            assert served[name].dtype == tf.float32
            np.testing.assert_allclose(served[name], expected, rtol=1e-5)
