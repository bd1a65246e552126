"""The funnel against values derived by hand."""

import numpy as np
import pytest
import scipy.sparse

from tfrec import config
from tfrec.evaluation import candidates, funnel

CONFIG = config.EvaluationConfig(resamples=20)
CLICK = {"click": 1.0}
COLUMNS = np.arange(5)[None]


def true_values(best, tower, index, filtered):
    """Values, which are 0 for other orders."""
    none = np.zeros_like(best)
    return funnel.TrueValues(best, none, none, tower, index, filtered)


def stages(measured):
    return [loss.value for loss in measured.lost.values()]


def measure(lists, scores, weights, over_all_ads=None):
    return funnel.measure_value(lists, scores, weights, CONFIG, over_all_ads)


def test_each_stage_is_charged_with_the_value_that_it_loses():
    # 20 ads of values 20 … 1; the best ten sum to 155.
    tower = np.arange(20.0, 0.0, -1)[None, 1:]  # lost the best: 19 … 10 sum to 145
    index = tower[:, 1:]  # lost the next: 18 … 9 sum to 135
    filtered = index[:, ::2]  # 18, 16, …, 2 are nine: 90
    lists = true_values(np.array([155.0]), {"click": tower}, {"click": index}, {"click": filtered})
    measured = measure(lists, {"click": filtered}, CLICK)
    assert stages(measured) == [10.0, 10.0, 45.0, 0.0, 0.0]
    assert measured.returned.value == 90.0
    assert measured.share_returned.value == pytest.approx(90 / 155)


def test_a_wrong_order_is_charged_to_the_ranker_and_one_head_has_no_calibration_loss():
    values = np.arange(12.0)[None]  # the best ten sum to 65, the worst ten to 45
    lists = true_values(np.array([65.0]), *({"click": values} for _ in range(3)))
    for scores, lost in ((values, 0.0), (-values, 20.0)):
        measured = measure(lists, {"click": scores}, CLICK)
        assert stages(measured) == [0.0, 0.0, 0.0, lost, 0.0]


def test_a_head_on_the_wrong_scale_is_charged_to_calibration():
    rng = np.random.default_rng(0)
    click, revenue = rng.random((30, 40)), rng.random((30, 40))
    values = {"click": click, "revenue": revenue}
    weights = {"click": 1.0, "revenue": 1.0}
    best = funnel.sum_of_ten(click + revenue)
    lists = true_values(best, values, values, values)
    # Each head is a rising function of the truth, so that no order is lost within a head.
    measured = measure(lists, {"click": click, "revenue": 50 * revenue}, weights)
    tower, index, filters, ranker, calibration = stages(measured)
    assert tower == index == filters == 0.0
    assert ranker == pytest.approx(0.0, abs=1e-6)
    assert calibration > 0.5
    ndcg = funnel.measure_ndcg(
        lists, {"click": click, "revenue": 50 * revenue}, "both", weights, CONFIG
    )
    assert ndcg["revenue"].value == pytest.approx(1.0)
    assert ndcg["both"].value < 1.0


def test_the_losses_add_up():
    rng = np.random.default_rng(1)
    values = {head: rng.random((7, 60)) for head in ("click", "revenue")}
    scores = {head: matrix[:, 10:50] + rng.random((7, 40)) for head, matrix in values.items()}

    def part(first, last):
        return {head: matrix[:, first:last] for head, matrix in values.items()}

    for weights in ({"click": 1.0, "revenue": 2.0}, CLICK):
        best = funnel.sum_of_ten(candidates.utility(weights, values))
        lists = true_values(best, part(0, 55), part(5, 55), part(10, 50))
        found = measure(lists, scores, weights)
        assert sum(stages(found)) == pytest.approx(found.best_possible.value - found.returned.value)
        low, high = found.share_returned.interval
        assert low <= found.share_returned.value <= high


def test_recalibration_joins_the_means_of_isotonic_steps():
    scores, values = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.0, 3.0], [1.0, 5.0]])
    # Steps: {1} at 0, {2, 3} at 2, {4} at 5; at scores 1, 2.5 and 4, straight lines between.
    expected = [[0.0, 4 / 3], [3.0, 5.0]]
    expected[1][0] = 2 + 3 * (3 - 2.5) / 1.5
    assert funnel.recalibrate(scores, values) == pytest.approx(np.array(expected))


def test_promised_values_are_compared_with_true_values():
    # Values 0 … 11, and the ad worth 0 is taken for 30: the ten are it and 11 … 3, truly 63.
    values = np.arange(12.0)[None]
    scores = values.copy()
    scores[0, 0] = 30.0
    lists = true_values(np.array([65.0]), *({"click": values} for _ in range(3)))
    promised = measure(lists, {"click": scores}, CLICK).promised["click"]
    assert promised.expected.value == 93.0
    assert promised.expected.ground_truth == 63.0
    assert promised.ratio.value == pytest.approx(93 / 63)
    # All twelve: 66 truly, 96 by the scores.
    assert promised.ratio_of_candidates.value == pytest.approx(96 / 66)


def test_the_winners_curse_shows_although_scores_are_right_on_average():
    rng = np.random.default_rng(0)
    # Two lists of 20,000 ads of value 1 with independent errors of a standard deviation of 0.1.
    values = np.ones((2, 20_000))
    scores = values + 0.1 * rng.standard_normal(values.shape)
    lists = true_values(np.full(2, 10.0), *({"click": values} for _ in range(3)))
    promised = measure(lists, {"click": scores}, CLICK).promised["click"]
    assert promised.ratio_of_candidates.value == pytest.approx(1.0, abs=0.003)
    # The ten greatest of 20,000 normal errors are about 3.5 deviations above their mean.
    assert promised.ratio.value == pytest.approx(1.35, abs=0.03)


def test_a_known_head_has_its_true_values_and_the_others_the_rankers():
    # Ads 0 … 11: clicks are worth 0 … 11 and revenue 11 … 0 twice over, so ads are worth 22 … 11.
    click, revenue = np.arange(12.0)[None], 2 * np.arange(12.0)[::-1][None]
    values = {"click": click, "revenue": revenue}
    weights = {"click": 1.0, "revenue": 1.0}
    best = funnel.sum_of_ten(click + revenue)  # 22 … 13: 175
    lists = true_values(best, values, values, values)
    # The ranker knows clicks, and nothing of revenue: it returns ads 2 … 11, worth 20 … 11.
    scores = {"click": click, "revenue": np.zeros((1, 12))}
    measured = measure(lists, scores, weights)
    assert measured.returned.value == 155.0
    known = {head: estimate.value for head, estimate in measured.head_known.items()}
    assert known == {"click": 155.0, "revenue": 175.0}


def test_the_ranker_over_all_ads_is_compared_on_the_same_requests():
    # Three requests; the ten that are returned are worth 10, 20 and 30.
    values = np.repeat([[1.0], [2.0], [3.0]], 10, axis=1)
    best = np.array([50.0, 60.0, 70.0])
    lists = true_values(best, *({"click": values} for _ in range(3)))
    over = funnel.ValueOverAllAds(np.array([0, 2]), np.array([40.0, 60.0]))
    measured = measure(lists, {"click": values}, CLICK, over)
    compared = measured.over_all_ads
    assert compared.requests == 2
    assert (compared.best_possible.value, compared.ranker.value) == (60.0, 50.0)
    assert compared.returned.value == 20.0
    assert compared.share_of_ranker.value == pytest.approx(0.4)
    assert measured.returned.value == 20.0
    assert measure(lists, {"click": values}, CLICK).over_all_ads is None


def test_all_ads_are_ranked_for_fewer_requests_the_more_there_are():
    budget, fewest = funnel.MAX_SCORES_OVER_ALL_ADS, funnel.MIN_REQUESTS_OVER_ALL_ADS
    assert funnel.requests_over_all_ads(4, 100).tolist() == [0, 1, 2, 3]
    some = funnel.requests_over_all_ads(200, budget // 20)
    assert some.tolist() == list(range(0, 200, 10))
    assert len(funnel.requests_over_all_ads(200, budget // fewest)) == fewest
    assert len(funnel.requests_over_all_ads(200, budget // fewest + 1)) == 0


def test_the_ten_ads_are_compared_with_baselines():
    # Retrieval puts 0 … 9 first, worth 45; the ranker returns 11 … 2, worth 65.
    values = np.arange(12.0)[None]
    best, popular, random = (np.array([value]) for value in (65.0, 30.0, 20.0))
    lists = funnel.TrueValues(best, popular, random, *({"click": values} for _ in range(3)))
    measured = measure(lists, {"click": values}, CLICK)
    assert {name: estimate.value for name, estimate in measured.baselines.items()} == {
        "retrieval_top_10": 45.0,
        "popularity_top_10": 30.0,
        "random_10": 20.0,
    }


def test_no_candidates_are_worth_nothing():
    none = {"click": np.empty((2, 0))}
    lists = true_values(np.array([3.0, 5.0]), none, none, none)
    measured = measure(lists, none, CLICK)
    assert measured.lost["tower"].value == 4.0
    assert measured.returned.value == 0.0
    ndcg = funnel.measure_ndcg(lists, none, "click", CLICK, CONFIG)
    assert ndcg["click"].value is None


def test_best_ten_orders_by_score_then_second_score_then_position():
    scores = np.array([[1.0, 3.0, 3.0, 2.0, 2.0]])
    assert candidates.best_ten(COLUMNS, scores).tolist() == [[1, 2, 3, 4, 0]]
    then = np.array([[0.0, 1.0, 2.0, 5.0, 5.0]])
    assert candidates.best_ten(COLUMNS, scores, then).tolist() == [[2, 1, 3, 4, 0]]


def test_lists_leave_out_seen_ads_and_end_early_if_too_few_are_left():
    rows = np.array([[4, 2, 0, 1, 3], [4, 2, 0, 1, 3], [4, 2, 0, 1, 3]])
    seen = scipy.sparse.csr_array([[0, 0, 0, 0, 0], [0, 0, 1, 0, 1], [1, 1, 1, 0, 1]])
    left = candidates.leave_out(rows, seen, 3)
    assert left.tolist() == [[4, 2, 0], [0, 1, 3], [3, -1, -1]]
    one_list = candidates.leave_out(rows[:1], seen[1:2], 9)
    assert one_list.tolist() == [[0, 1, 3, -1, -1]]


def test_the_search_is_deep_enough_to_leave_out_seen_ads(monkeypatch):
    monkeypatch.setattr(candidates, "NUM_CANDIDATES", 2)
    ads = np.array([[0.1], [0.9], [0.5], [0.7], [0.3]], np.float32)  # best first: 1, 3, 2, 4, 0
    queries = np.ones((2, 1), np.float32)
    seen = scipy.sparse.csr_array([[0, 0, 0, 0, 0], [0, 1, 0, 1, 0]])
    found = candidates.find(queries, ads, None, seen)
    assert found.tower.tolist() == [[1, 3], [2, 4]]
    asked = []
    index = candidates.CandidateIndex(
        "reversed", lambda q, k: asked.append(k) or np.tile(np.arange(4, 4 - k, -1), (len(q), 1))
    )
    found = candidates.find(queries, ads, index, seen)
    assert found.index.tolist() == [[4, 3], [4, 2]]
    assert asked == [4]


def test_padding_is_never_among_the_ten():
    rows = np.array([[7, candidates.NO_AD, 8]])
    found = candidates.Candidates(rows, rows, rows)
    scored = candidates.ScoredCandidates(
        found, {"click": np.array([[0.1, 0.9, 0.2]])}, {"click": 1.0}
    )
    assert candidates.best_ten(rows, scored.utility).tolist() == [[8, 7, candidates.NO_AD]]
    assert scored.utility_of({"click": -1.0})[0].tolist() == [-0.1, -np.inf, -0.2]


def test_stages_without_filters_or_index_equal_the_stage_before():
    queries, ads = np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)
    exact = candidates.find(queries, ads, None)
    assert exact.tower[:, 0].tolist() == [0, 1, 2]
    assert exact.index is exact.tower
    worse = candidates.CandidateIndex("one", lambda q, k: np.zeros((len(q), 1), int))
    found = candidates.find(queries, ads, worse)
    assert found.filtered.tolist() == [[0], [0], [0]]
