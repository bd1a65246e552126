"""Calibration curves recover known distortions, always rise, and change little on little data."""

import json

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit

from tfrec.calibration import choice, curves, fitting

ISOTONIC = curves.Isotonic((-1.0, 0.0, 2.0), (-2.0, 1.0, 2.0), 0.5, 4.0)


def fit_platt(labels, logits):
    return fitting.fit_platt(
        fitting.HeldOutLogits.unweighted(np.asarray(labels), np.asarray(logits))
    )


def choose(labels, logits):
    return choice.choose(labels, logits, np.arange(len(labels)) * 5 // max(len(labels), 1))


def calibration_error(curve, logits, true_probability):
    """Mean |probability − true probability| over fifteen bins: no noise of labels in it."""
    order = np.argsort(logits)
    gap = expit(curve.array(logits)) - true_probability
    return np.mean([abs(gap[rows].mean()) for rows in np.array_split(order, 15)])


def test_platt_recovers_a_known_scale_and_offset():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=50_000)
    labels = rng.random(50_000) < expit(2.0 * logits - 1.0)
    fitted = fit_platt(labels, logits)
    assert fitted.scale == pytest.approx(2.0, abs=0.06)
    assert fitted.offset == pytest.approx(-1.0, abs=0.06)


def test_platt_makes_the_mean_prediction_the_observed_rate():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=50_000)
    labels = rng.random(50_000) < 0.1 * expit(logits)
    predicted = expit(fit_platt(labels, logits).array(logits))
    assert predicted.mean() == pytest.approx(labels.mean(), rel=0.03)


def test_platt_without_examples_is_the_identity_and_with_few_stays_near_it():
    assert fit_platt([], []) == curves.IDENTITY
    few = fit_platt([1.0, 1.0, 1.0], [0.1, 0.2, 0.0])
    assert abs(few.scale - 1) < 0.2
    assert 0 < few.offset < 0.3


def test_platt_never_reverses_the_order():
    logits = np.linspace(-3, 3, 2_000)
    assert fit_platt(logits < 0, logits).scale > 0


@pytest.mark.parametrize("first", [3e4, -2e5])
def test_logits_of_any_size_have_the_observed_rate(first):
    # Every tenth row is positive, whatever its logit.
    logits, labels = np.linspace(first, first + 1e5, 1_000), np.arange(1_000) % 10 == 0
    predicted = expit(fit_platt(labels, logits).array(logits))
    assert predicted.mean() == pytest.approx(0.1, abs=0.001)


def test_a_row_of_weight_three_is_three_rows():
    rng = np.random.default_rng(2)
    labels, logits = (rng.random(300) < 0.4).astype(float), rng.normal(size=300)
    thrice = fitting.HeldOutLogits.unweighted(np.tile(labels, 3), np.tile(logits, 3))
    heavy = fitting.HeldOutLogits(labels, logits, np.full(300, 3.0))
    one, other = fitting.fit_platt(thrice), fitting.fit_platt(heavy)
    assert (one.scale, one.offset) == pytest.approx((other.scale, other.offset), rel=1e-9)


DISTORTIONS = {
    "temperature": lambda z: 2 * z + 1,
    "steep then flat": lambda z: np.where(z < -1, 3 * z + 2, 0.5 * z - 0.5),
    "a step": lambda z: z + 1.5 * np.tanh(3 * (z + 1)),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("temperature", curves.Platt),
        ("steep then flat", curves.Isotonic),
        ("a step", curves.Isotonic),
    ],
)
def test_a_known_distortion_is_removed(name, kind):
    rng = np.random.default_rng(3)
    logits = rng.normal(-1.5, 1.2, 60_000)
    true_probability = expit(DISTORTIONS[name](logits))
    labels = rng.random(60_000) < true_probability
    curve = choose(labels[:30_000], logits[:30_000])
    assert isinstance(curve, kind)
    unseen = logits[30_000:], true_probability[30_000:]
    # A bin of 2,000 labels of rate 0.2 is within 0.4 · sqrt(2 / π / 2,000) = 0.007 by chance.
    assert calibration_error(curve, *unseen) < 0.007
    assert calibration_error(curves.IDENTITY, *unseen) > 0.05
    if kind is curves.Isotonic:
        platt = fit_platt(labels[:30_000], logits[:30_000])
        assert calibration_error(platt, *unseen) > 0.03


def test_isotonic_curves_are_rarely_chosen_for_a_platt_shaped_distortion():
    chosen = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        logits = rng.normal(-1, 1, 4_000)
        chosen.append(choose(rng.random(4_000) < expit(1.5 * logits), logits))
    # A gain of one standard error comes by chance in a sixth of the cases, at most.
    assert sum(isinstance(curve, curves.Isotonic) for curve in chosen) <= 3


@pytest.mark.parametrize("count", [0, 1, 5, 50, 400])
def test_little_data_gives_a_platt_curve_near_the_identity(count):
    rng = np.random.default_rng(4)
    logits = rng.normal(size=count)
    labels = (rng.random(count) < expit(logits)).astype(float)
    curve = choose(labels, logits)
    assert isinstance(curve, curves.Platt)
    grid = np.linspace(-3, 3, 50)
    assert np.abs(expit(curve.array(grid)) - expit(grid)).max() < 0.12


@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("spread", [0.0, 3.0, 500.0])
def test_one_class_gives_a_finite_rising_curve(label, spread):
    logits = np.linspace(-spread, spread, 3_000)
    for curve in (
        choose(np.full(3_000, label), logits),
        fitting.fit_isotonic(fitting.HeldOutLogits.unweighted(np.full(3_000, label), logits), 16),
    ):
        values = curve.array(np.linspace(-600, 600, 1_000))
        assert np.isfinite(values).all()
        assert (np.diff(values) > 0).all()


@pytest.mark.parametrize("distinct", [1, 2, 3])
def test_tied_logits_stay_together(distinct):
    rng = np.random.default_rng(5)
    logits = rng.integers(0, distinct, 9_000) * 1.0
    rate = np.array([0.2, 0.6, 0.7])[logits.astype(int)]
    labels = (rng.random(9_000) < rate).astype(float)
    curve = fitting.fit_isotonic(fitting.HeldOutLogits.unweighted(labels, logits), 32)
    for value in range(distinct):
        observed = labels[logits == value].mean()
        assert expit(curve.array(np.array(float(value)))) == pytest.approx(observed, abs=0.02)


def test_a_logit_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match=r"2 of 3 logits are not finite; expected none"):
        choose(np.zeros(3), np.array([0.0, np.nan, np.inf]))


@pytest.mark.parametrize("seed", range(40))
def test_every_fitted_curve_rises_everywhere_and_tensors_equal_arrays(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 3_000))
    logits = rng.normal(rng.normal(), rng.uniform(0.01, 4), count)
    if seed % 3 == 0:
        logits = np.round(logits, 1)
    # Labels that rise, fall or swing with the logit.
    labels = rng.random(count) < expit(rng.normal() * 3 * np.sin(logits * rng.uniform(0, 3)))
    rows = fitting.HeldOutLogits.unweighted(labels, logits)
    curve = fitting.fit_isotonic(rows, int(rng.integers(2, 40)))
    grid = np.concatenate([np.linspace(-15, 15, 5_001), logits]).astype(np.float32)
    if isinstance(curve, curves.Isotonic):
        around = np.array(curve.knots, np.float32)
        grid = np.concatenate([grid, around - 1e-3, around, around + 1e-3])
    grid = np.unique(grid)
    # Nearer than 1e-4, float32 has no room for a slope of 0.0025.
    grid = grid[np.append(True, np.diff(grid) > 1e-4)]
    values = curve.tensor(tf.constant(grid)).numpy()
    assert values.dtype == np.float32
    assert (np.diff(values) > 0).all()
    np.testing.assert_allclose(values, curve.array(grid), rtol=2e-6, atol=2e-5)


def test_a_curve_is_linear_between_its_knots_and_extrapolates_beyond_them():
    logits = [-3.0, -1.0, -0.5, 0.0, 1.0, 2.0, 4.0]
    # Slopes 0.5, 3, 0.5, 4 through (−1, −2), (0, 1), (2, 2).
    expected = [-3.0, -2.0, -0.5, 1.0, 1.5, 2.0, 10.0]
    np.testing.assert_allclose(ISOTONIC.array(np.array(logits)), expected)
    np.testing.assert_allclose(ISOTONIC.tensor(tf.constant([logits]))[0], expected)


def test_a_curve_keeps_nan_and_infinity():
    values = ISOTONIC.tensor(tf.constant([np.nan, -np.inf, np.inf])).numpy()
    assert np.isnan(values[0])
    assert values[1:].tolist() == [-np.inf, np.inf]


@pytest.mark.parametrize("curve", [ISOTONIC, curves.Platt(0.1 + 0.2, -1 / 3)])
def test_curves_round_trip_as_json(curve):
    assert curves.curve_from_json(json.loads(json.dumps(curve.to_json()))) == curve


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"kind": "spline"}, "kind 'spline'; expected platt or isotonic"),
        ({"kind": "isotonic", "knots": [0, 1]}, r"Not a calibration curve \('values'\)"),
        ({"kind": "platt", "scale": 0.0}, "a finite scale above 0"),
        ({"kind": "platt", "offset": float("nan")}, "a finite offset"),
        ({**ISOTONIC.to_json(), "values": [0.0, 1.0, 1.0]}, "increasing knots and values"),
        (
            {**ISOTONIC.to_json(), "knots": [0.0, 1e-9 + 1, 1]},
            "increasing knots and values",
        ),
        ({**ISOTONIC.to_json(), "knots": [0.0], "values": [0.0]}, "two or more knots"),
        ({**ISOTONIC.to_json(), "upper_slope": -1.0}, "slopes above 0"),
    ],
)
def test_json_that_is_not_a_rising_curve_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        curves.curve_from_json(value)


def test_a_factor_is_observed_over_predicted_shrunk_by_ten_positives():
    # Ten positives give a weight of 10 / (10 + 10): the square root of the factor 2.
    assert fitting.fit_factor(np.full(10, 2.0), np.full(10, 1.0)) == pytest.approx(2**0.5)
    # 10,000 positives: 2 ** (10000 / 10010).
    many = fitting.fit_factor(np.full(10_000, 2.0), np.full(10_000, 1.0))
    assert many == pytest.approx(1.998615, abs=1e-5)


def test_one_huge_value_counts_as_one_positive():
    observed = np.append(np.ones(1_000), 1e6)
    # About one effective value: 1,001 predicted, 1,001,000 observed, 1000 ** (1 / 11) = 1.87.
    assert fitting.fit_factor(observed, np.ones(1_001)) == pytest.approx(1.87, abs=0.01)


def test_a_factor_without_revenue_or_prediction_is_one():
    assert fitting.fit_factor(np.zeros(5), np.ones(5)) == 1.0
    assert fitting.fit_factor(np.ones(5), np.zeros(5)) == 1.0


def test_a_line_is_recovered_and_shrunk_and_never_falls():
    rng = np.random.default_rng(6)
    values = rng.normal(3, 1, 5_000)
    line = fitting.fit_line(0.5 * values + 2 + rng.normal(size=5_000), values)
    # Standard errors: 1 / sqrt(5,000) = 0.014, and with values around 3 three times that.
    assert line.scale == pytest.approx(0.5, abs=0.04)
    assert line.offset == pytest.approx(2.0, abs=0.13)
    assert fitting.fit_line(np.empty(0), np.empty(0)) == curves.IDENTITY
    assert fitting.fit_line(-values, values).scale > 0
