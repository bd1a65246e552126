"""Metrics against values derived by hand."""

import numpy as np
import pytest

from tfrec import metrics
from tfrec.metrics import definitions


def value_on_data(metric, num_rows, *args, unit=None):
    """The value of a resampled metric on the data itself."""
    unit = np.arange(num_rows) if unit is None else unit
    return metrics.point_estimate(metric(metrics.Resamples(unit, 0, 0), *args))


def normalized_gini(values, scores):
    return value_on_data(metrics.resampled_normalized_gini, len(values), values, scores)


def ndcg_at_k(gains, scores, list_lengths, k):
    return value_on_data(metrics.resampled_ndcg, len(gains), gains, scores, list_lengths, k)


def per_user_auc(labels, scores, user):
    unit = np.unique(user, return_inverse=True)[1]
    args = (labels, scores, unit)
    return value_on_data(metrics.resampled_per_user_auc, len(user), *args, unit=unit)


def test_auc_counts_pairs_in_the_right_order():
    # Positives .9 and .7, negatives .8 and .1: .9 beats both, .7 beats one; 3 of 4 pairs.
    assert definitions.auc(np.array([1, 0, 1, 0]), np.array([0.9, 0.8, 0.7, 0.1])) == 0.75


def test_auc_counts_ties_half():
    # Pairs: .5–.5 half, .5–.2 one, .2–.5 none, .2–.2 half: 2 of 4.
    assert definitions.auc(np.array([1, 0, 0, 1]), np.array([0.5, 0.5, 0.2, 0.2])) == 0.5
    assert definitions.auc(np.array([1, 0, 0]), np.zeros(3)) == 0.5


@pytest.mark.parametrize("labels", [[0, 0], [1, 1], []])
def test_auc_of_one_class_is_none(labels):
    assert definitions.auc(np.array(labels), np.zeros(len(labels))) is None


def test_auc_is_unchanged_by_a_rising_function_of_the_scores():
    rng = np.random.default_rng(0)
    labels, scores = rng.random(500) < 0.3, rng.normal(size=500)
    assert definitions.auc(labels, scores) == definitions.auc(labels, np.exp(scores))
    assert definitions.auc(labels, scores) == pytest.approx(1 - definitions.auc(labels, -scores))


def test_log_loss_and_normalized_entropy():
    labels, probabilities = np.array([1, 0]), np.array([0.5, 0.25])
    # −(ln 0.5 + ln 0.75) / 2 = (0.693147 + 0.287682) / 2; the observed rate 0.5 gives ln 2.
    assert definitions.log_loss(labels, probabilities) == pytest.approx(0.4904146, abs=1e-7)
    assert definitions.normalized_entropy(labels, probabilities) == pytest.approx(
        0.7075187, abs=1e-7
    )
    assert definitions.normalized_entropy(labels, np.full(2, 0.5)) == pytest.approx(1.0)


def test_log_loss_of_certainty_is_finite():
    # −ln 1e−12 = 27.631; a certain and right prediction costs nothing.
    assert definitions.log_loss(np.array([1]), np.array([0.0])) == pytest.approx(27.631, abs=1e-3)
    assert definitions.log_loss(np.array([1, 0]), np.array([1.0, 0.0])) == pytest.approx(
        0.0, abs=1e-9
    )


@pytest.mark.parametrize("labels", [[0, 0], [1, 1]])
def test_normalized_entropy_of_one_class_is_none(labels):
    assert definitions.normalized_entropy(np.array(labels), np.array([0.1, 0.2])) is None


def test_expected_calibration_error_weighs_bins_of_equal_size():
    labels, probabilities = np.array([1, 0, 1, 0]), np.array([0.8, 0.1, 0.6, 0.3])
    # Bins {.1, .3} and {.6, .8}: |0 − 0.2| and |1 − 0.7|; their mean is 0.25.
    assert definitions.expected_calibration_error(labels, probabilities, 2) == pytest.approx(0.25)
    # More bins than examples: one each, |0−.1| + |0−.3| + |1−.6| + |1−.8| over 4.
    assert definitions.expected_calibration_error(labels, probabilities, 9) == pytest.approx(0.25)
    # One bin: |0.5 − 0.45|.
    assert definitions.expected_calibration_error(labels, probabilities, 1) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("probabilities", "num_bins", "expected"),
    [
        # Cut in halves, the run of three has its middle row in the first.
        ([0.1, 0.1, 0.2, 0.1], 2, [0, 0, 1, 0]),
        # Thirds of two rows: the middle of the run of four is the third row, in the second bin.
        ([0.2, 0.1, 0.2, 0.3, 0.2, 0.2], 3, [1, 0, 1, 2, 1, 1]),
        # No row is left for the second third: two bins.
        ([0.1, 0.1, 0.1, 0.1, 0.3, 0.2], 3, [0, 0, 0, 0, 1, 1]),
        ([0.4, 0.4], 15, [0, 0]),
        # Nothing is equal: the first of five rows in two bins are three.
        ([0.5, 0.4, 0.3, 0.2, 0.1], 2, [1, 1, 0, 0, 0]),
        ([], 15, []),
    ],
)
def test_equal_probabilities_share_a_bin(probabilities, num_bins, expected):
    bins = definitions.calibration_bins(np.array(probabilities), num_bins)
    assert bins.tolist() == expected


def test_the_observed_rate_as_a_constant_has_no_calibration_error():
    labels = np.random.default_rng(0).random(1_000) < 0.3
    constant = np.full(1_000, labels.mean())
    assert definitions.expected_calibration_error(labels, constant) == pytest.approx(0, abs=1e-12)


def test_normalized_gini():
    values = np.array([3.0, 1.0, 0.0])
    # Captured shares .75, 1, 1 in the best order: mean 11/12 − 2/3 = 1/4.
    assert normalized_gini(values, np.array([3, 2, 1])) == pytest.approx(1.0)
    # Order 1, 3, 0: captured 1/4, 1, 1: 3/4 − 2/3 = 1/12, a third of 1/4.
    assert normalized_gini(values, np.array([2, 3, 1])) == pytest.approx(1 / 3)
    # The worst order: captured 0, 1/4, 1: 5/12 − 2/3 = −1/4.
    assert normalized_gini(values, np.array([1, 2, 3])) == pytest.approx(-1.0)
    assert normalized_gini(np.zeros(3), np.arange(3)) is None
    assert normalized_gini(np.ones(3), np.arange(3)) is None


def test_equal_scores_capture_their_mean_value():
    values = np.array([3.0, 1.0, 0.0])
    # Each of the first two captures 2: shares 1/2, 1, 1, that is 5/6 − 2/3 = 1/6 of 1/4.
    for order in ([0, 1, 2], [1, 0, 2], [2, 1, 0]):
        scores = np.array([1, 1, 0])[order]
        assert normalized_gini(values[order], scores) == pytest.approx(2 / 3)
        assert normalized_gini(values[order], np.zeros(3)) == pytest.approx(0, abs=1e-12)


def test_gini_of_counts():
    assert definitions.gini(np.array([2, 2, 2])) == pytest.approx(0.0)
    # One of four holds everything: 1 − 1/4.
    assert definitions.gini(np.array([0, 5, 0, 0])) == pytest.approx(0.75)
    # Mean difference of all pairs over twice the mean: (0 + 2 + 2 + 0) / 4 / (2 · 2) = 1/4.
    assert definitions.gini(np.array([1, 3])) == pytest.approx(0.25)


def test_percentile_ranks_count_equal_values_half():
    # 0 has none of the four values below it, and half of itself; the 2s have one and 2/2; 9 three.
    ranks = definitions.percentile_ranks(np.array([2, 0, 9, 2]))
    assert ranks.tolist() == [0.5, 0.125, 0.875, 0.5]


def test_ndcg_discounts_by_rank_and_divides_by_the_ideal():
    gains, scores = np.array([0, 1, 1]), np.array([3, 2, 1])
    # DCG 1/log2 3 + 1/log2 4 = 0.63093 + 0.5; ideal 1 + 0.63093.
    expected = 1.1309298 / 1.6309298
    assert ndcg_at_k(gains, scores, np.array([3]), 10) == pytest.approx(expected)
    # Cut at 1, the one ad shown has no gain; at 2, 0.63093 of 1.63093.
    assert ndcg_at_k(gains, scores, np.array([3]), 1) == 0.0
    assert ndcg_at_k(gains, scores, np.array([3]), 2) == pytest.approx(0.3868528)


def test_ndcg_leaves_out_lists_that_cannot_be_ordered_better_or_worse():
    gains = np.array([1, 0, 0, 1, 0])
    scores = np.array([5.0, 1.0, 2.0, 1.0, 2.0])
    # Lists: one ad; two without gain; two with the gain second: 1/log2 3.
    lengths = np.array([1, 2, 2])
    assert ndcg_at_k(gains, scores, lengths, 10) == pytest.approx(0.6309298)
    assert ndcg_at_k(gains[:3], scores[:3], lengths[:2], 10) is None


def test_share_of_achievable():
    # (0.65 − 0.5) / (0.8 − 0.5)
    assert definitions.share_of_achievable(0.65, 0.5, 0.8) == pytest.approx(0.5)
    assert definitions.share_of_achievable(None, 0.5, 0.8) is None
    assert definitions.share_of_achievable(0.6, 0.5, None) is None
    assert definitions.share_of_achievable(0.6, 0.5, 0.5) is None


def test_auc_of_groups_is_the_auc_within_each():
    group = np.array([0, 1, 0, 1, 1, 2, 2])
    labels = np.array([1, 1, 0, 0, 0, 1, 1])
    scores = np.array([0.2, 0.5, 0.9, 0.5, 0.1, 0.3, 0.4])
    values, size = definitions.auc_of_groups(labels, scores, group)
    # Group 0: .2 below .9, 0. Group 1: .5 ties with .5 and beats .1, 1.5 of 2. Group 2: one class.
    assert values[:2] == pytest.approx([0.0, 0.75])
    assert np.isnan(values[2])
    assert size.tolist() == [2, 3, 0]
    # Weighted by impressions: (0·2 + 0.75·3) / 5.
    assert per_user_auc(labels, scores, group) == pytest.approx(0.45)
    assert per_user_auc(labels[5:], scores[5:], group[5:]) is None


def test_auc_of_groups_agrees_with_auc_on_each_group():
    rng = np.random.default_rng(1)
    group = rng.integers(0, 20, 400)
    labels, scores = rng.random(400) < 0.4, np.round(rng.random(400), 1)
    values, _ = definitions.auc_of_groups(labels, scores, group)
    for number in range(20):
        rows = group == number
        assert values[number] == pytest.approx(definitions.auc(labels[rows], scores[rows]))


def test_ndcg_of_lists_gives_equal_scores_the_mean_discount_of_their_ranks():
    # Discounts 1, 0.63093, 0.5: their mean is 0.7103099; the list of one row has no NDCG.
    for gains in ([1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]):
        found = definitions.ndcg_of_lists(np.array(gains), np.zeros(4), np.array([3, 1]), 10)
        assert found[0] == pytest.approx(0.7103099)
        assert np.isnan(found[1])
    # Cut at 1, one of three orders has the gain on top.
    found = definitions.ndcg_of_lists(np.array([1.0, 0, 0]), np.zeros(3), np.array([3]), 1)
    assert found[0] == pytest.approx(1 / 3)
    # 2 and 1 share ranks 2 and 3, (0.63093 + 0.5) / 2 each: 1.6963946 of 2·1 + 1·0.63093. Scores
    # that are equal in two lists are no tie.
    found = definitions.ndcg_of_lists(
        np.array([0.0, 2.0, 1.0, 1.0, 0.0]), np.array([9, 5, 5, 5, 4]), np.array([3, 2]), 10
    )
    assert found == pytest.approx([1.6963946 / 2.6309298, 1.0])


def test_no_metric_depends_on_the_order_of_the_rows():
    rng = np.random.default_rng(2)
    labels = (rng.random(300) < 0.3).astype(float)
    scores = rng.choice([0.1, 0.25, 0.6], 300)
    clicked_first = np.argsort(-labels, kind="stable")
    for order in (clicked_first, clicked_first[::-1], rng.permutation(300)):
        for metric in (
            definitions.auc,
            definitions.log_loss,
            definitions.expected_calibration_error,
            normalized_gini,
            lambda gains, s: ndcg_at_k(gains, s, np.array([300]), 10),
        ):
            assert metric(labels[order], scores[order]) == pytest.approx(metric(labels, scores))
