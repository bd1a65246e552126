"""Bootstrap weights, and the metrics of resamples against those of copied rows."""

import numpy as np
import pytest

from tfrec import metrics
from tfrec.metrics import bootstrap


def copied(resamples, values, resample):
    """The rows of one resample, each as often as its unit was drawn."""
    times = resamples.weights[1 + resample][resamples.unit].astype(int)
    return np.repeat(values, times)


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    unit = np.sort(rng.integers(0, 40, 200))
    unit = np.unique(unit, return_inverse=True)[1]
    labels = (rng.random(200) < 0.3).astype(float)
    scores = np.round(rng.random(200), 1)  # with many ties
    return bootstrap.Resamples(unit, 20, 3), labels, np.clip(scores, 0.05, 0.95)


def test_each_resample_draws_as_many_units_as_there_are():
    resamples = bootstrap.Resamples(np.array([0, 0, 1, 2, 2, 2]), 50, 1)
    assert resamples.weights.shape == (51, 3)
    assert (resamples.weights.sum(axis=1) == 3).all()
    assert 0.7 < resamples.weights[1:].mean() < 1.3


def test_the_first_sample_is_the_data(rows):
    resamples, labels, scores = rows
    assert (resamples.weights[0] == 1).all()
    value = metrics.point_estimate(metrics.resampled_auc(resamples, labels, scores))
    assert value == pytest.approx(metrics.auc(labels, scores), rel=1e-12)


def test_draws_are_kept_as_bytes_and_their_sums_are_those_of_all_resamples(monkeypatch):
    monkeypatch.setattr(bootstrap, "_MAX_WEIGHTS", 200_000)  # two of the resamples
    values = np.arange(100_000.0)
    resamples = bootstrap.Resamples(np.arange(100_000), 40, 1)
    data, *sums = resamples.sums(values)[0]
    assert data == values.sum()
    assert resamples.weights.dtype == np.uint8
    rng = np.random.default_rng(1)
    for total in sums[:3]:
        assert total == pytest.approx(values[rng.integers(100_000, size=100_000)].sum())


def test_large_draws_are_stored_in_wider_integers(monkeypatch):
    class Stuck:
        def integers(self, high, size):
            return np.zeros(size, int)

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Stuck())
    weights = bootstrap.Resamples(np.arange(300), 2, 1).weights[1:]
    assert weights[:, :2].tolist() == [[300, 0], [300, 0]]
    assert weights.dtype == np.uint16


def test_rows_of_one_unit_are_drawn_together():
    resamples = bootstrap.Resamples(np.array([0, 0, 1]), 50, 1)
    first, second, third = (resamples.sums(np.eye(3)[i])[0] for i in range(3))
    assert (first == second).all()
    assert (first + third == 2).all()


def test_the_same_seed_gives_the_same_resamples_and_part_of_the_rows_the_same_draws():
    unit = np.array([0, 1, 1, 2])
    first, same = (bootstrap.Resamples(unit, 10, 4) for _ in range(2))
    assert (first.weights == same.weights).all()
    part = first.take(np.array([False, True, False, True]))
    assert part.unit.tolist() == [1, 2]
    assert (part.weights == first.weights).all()


@pytest.mark.parametrize("at_once", [1 << 22, 300])
def test_auc_of_a_resample_is_that_of_its_copied_rows(rows, at_once, monkeypatch):
    monkeypatch.setattr(bootstrap, "_MAX_WEIGHTS", at_once)  # 300: one resample at a time
    resamples, labels, scores = rows
    _, *replicates = metrics.resampled_auc(resamples, labels, scores)
    assert len(replicates) == 20
    for i in range(20):
        expected = metrics.auc(copied(resamples, labels, i), copied(resamples, scores, i))
        assert replicates[i] == pytest.approx(expected)


def test_the_other_metrics_of_a_resample_are_those_of_its_copied_rows(rows):
    resamples, labels, scores = rows
    loss, positive, count = resamples.sums(
        metrics.log_losses(labels, scores), labels, np.ones(len(labels))
    )
    entropy = metrics.resampled_normalized_entropy(loss, positive, count)[1:]
    values = labels * np.arange(200)
    gini = metrics.resampled_normalized_gini(resamples, values, scores)[1:]
    for i in range(20):
        copied_labels, copied_scores = (copied(resamples, v, i) for v in (labels, scores))
        assert entropy[i] == pytest.approx(metrics.normalized_entropy(copied_labels, copied_scores))
        data = bootstrap.Resamples(np.arange(len(copied_scores)), 0, 0)
        (expected,) = metrics.resampled_normalized_gini(
            data, copied(resamples, values, i), copied_scores
        )
        assert gini[i] == pytest.approx(expected, abs=1e-9)


def test_constant_scores_have_no_gini_in_any_resample(rows):
    resamples, labels, _ = rows
    # As if the rows were sorted by what they brought.
    revenue = np.sort(labels)[::-1]
    gini = metrics.resampled_normalized_gini(resamples, revenue, np.full(200, 0.5))
    assert gini == pytest.approx(np.zeros(21), abs=1e-9)


def test_resamples_with_weights_of_one_have_no_distance_from_the_calibration_error(rows):
    resamples, labels, scores = rows
    resamples.weights[:] = 1.0
    bins = metrics.calibration_bins(scores, 15)
    error = metrics.resampled_calibration_error(resamples, labels, scores, bins)
    expected = metrics.expected_calibration_error(labels, scores, 15)
    assert error == pytest.approx([expected, *[0.0] * 20])


def test_per_user_auc_of_a_resample_weighs_users_by_how_often_they_were_drawn():
    # User 0: AUC 1 of 2 rows; user 1: AUC 0 of 4 rows; user 2 has one class.
    user = np.array([0, 0, 1, 1, 1, 1, 2])
    labels = np.array([1, 0, 1, 0, 0, 0, 1])
    scores = np.array([0.9, 0.1, 0.1, 0.5, 0.6, 0.7, 0.3])
    resamples = bootstrap.Resamples(user, 2, 0)
    resamples.weights[:] = [[1, 1, 1], [2, 1, 0], [0, 0, 3]]
    replicates = metrics.resampled_per_user_auc(resamples, labels, scores, user)
    # (1·2 + 0·4) / 6; (2·2 + 0) / (4 + 4); no user with both classes.
    assert replicates[:2] == pytest.approx([1 / 3, 1 / 2])
    assert np.isnan(replicates[2])


def test_the_interval_of_a_mean_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(5)
    covered = 0
    for draw in range(200):
        (samples,) = bootstrap.samples_of_means(200, draw, rng.normal(3.0, 2.0, 50))
        low, high = bootstrap.interval(samples)
        covered += low <= 3.0 <= high
    # Percentiles of 50 values cover a little less than 95 %; 3 standard errors are 0.05.
    assert 0.88 <= covered / 200 <= 0.99


def test_requests_of_equal_rows_give_wider_intervals_than_rows_on_their_own():
    labels = np.repeat(np.random.default_rng(0).random(50), 8)  # eight equal rows a request

    def width(unit):
        (total,) = bootstrap.Resamples(unit, 400, 1).sums(labels)
        low, high = bootstrap.interval(total / len(labels))
        return high - low

    # Eight equal rows are worth one: the interval is √8 = 2.8 times as wide.
    ratio = width(np.repeat(np.arange(50), 8)) / width(np.arange(400))
    assert 2.2 < ratio < 3.5


def test_an_interval_needs_resamples_that_have_the_metric():
    assert bootstrap.interval(np.array([1.0, np.nan, np.nan, 1.0])) is None
    assert bootstrap.interval(np.array([1.0])) is None
    assert bootstrap.interval(np.array([np.nan, np.nan, 2.0, 3.0])) == [2.025, 2.975]
    assert bootstrap.interval(*bootstrap.samples_of_means(10, 0, np.array([1.0]))) is None


def test_rows_of_one_unit_have_no_interval():
    # However often the one user is drawn, the mean of the rows is 2 / 3: no width would be a lie.
    labels = np.array([1.0, 0.0, 1.0])
    (total,) = bootstrap.Resamples(np.zeros(3, np.int64), 50, 1).sums(labels)
    assert bootstrap.interval(total) is None
    # The same where several users were resampled, and a segment has the rows of one.
    several = bootstrap.Resamples(np.array([0, 1, 1]), 50, 1)
    (total,) = several.take(np.array([1, 2])).sums(labels[1:])
    assert bootstrap.interval(total) is None
    (total,) = several.sums(np.ones(3))
    assert bootstrap.interval(total) is not None


def test_the_interval_of_a_calibration_error_contains_the_true_one():
    # A calibrated model, and one whose logits are too high by 0.5, with twenty seeds each.
    for shift in (0.0, 0.5):
        covered = 0
        for seed in range(20):
            rng = np.random.default_rng(seed)
            logits = rng.normal(-1.5, 1.0, 2_000)
            true, predicted = (1 / (1 + np.exp(-logits - by)) for by in (0.0, shift))
            labels = (rng.random(len(true)) < true).astype(np.float64)
            bins = metrics.calibration_bins(predicted, 10)
            gaps = [np.mean((true - predicted) * (bins == b)) for b in range(bins.max() + 1)]
            samples = metrics.resampled_calibration_error(
                metrics.Resamples(np.arange(len(true)), 100, seed), labels, predicted, bins
            )
            low, high = metrics.distance_interval(samples)
            covered += low <= np.abs(gaps).sum() <= high
        assert covered >= 17


def test_resamples_that_are_all_equal_have_no_interval():
    for hits in (0, 5):
        (share,) = metrics.samples_of_means(50, 1, np.arange(5.0) < hits)
        assert metrics.point_estimate(share) == hits / 5
        assert metrics.interval(share) is None
        assert metrics.distance_interval(share) is None
    (share,) = metrics.samples_of_means(50, 1, np.arange(5.0) < 1)
    assert metrics.interval(share) is not None
