"""Retrieval metrics over the whole catalog against values derived by hand."""

import math
import types

import numpy as np
import pytest
import scipy.sparse

from tfrec import retrieval
from tfrec.evaluation import baselines, corpus_ranking
from tfrec.retrieval import refit

# Five ads, scored the same for everybody: the order is 3, 1, 0, 2, 4.
SCORES = np.array([[3.0, 4.0, 2.0, 5.0, 1.0]], np.float32)
ADS = corpus_ranking.RankedCorpus(
    clicks=np.array([0, 6, 2, 2, 0]), seen=np.array([True, True, True, True, False])
)
SECOND = 1 / math.log2(3)


def queries(count, users=None):
    user = None if users is None else np.array(users)
    return corpus_ranking.Queries(np.zeros((count, 1), np.int32), user, np.arange(count))


def fixed(scores):
    """A recommender that gives query i the scores of row i, or all queries the one row."""
    return lambda asked: scores if len(scores) == 1 else scores[asked.number]


def test_recall_and_ndcg_of_clicks_follow_from_the_positions_of_their_ads():
    # Found first, second, eleventh, and not at all.
    measured = corpus_ranking.metrics_of_positions(np.array([0, 1, 10, -1]))
    assert measured["corpus_recall_at_10"] == 0.5
    assert measured["corpus_recall_at_50"] == measured["corpus_recall_at_500"] == 0.75
    assert measured["ndcg_at_10"] == pytest.approx((1 + SECOND) / 4)


@pytest.mark.parametrize("rows", [1, 3])
def test_clicks_on_seen_and_unseen_ads_are_measured_apart(rows, monkeypatch):
    # Chunks of two queries, whether all share their scores or not.
    monkeypatch.setattr(corpus_ranking, "_MAX_SCORES", 10)
    monkeypatch.setattr(corpus_ranking, "RECALL_AT", (2, 4))
    scores = np.repeat(SCORES, rows, axis=0)
    measured = corpus_ranking.per_click(fixed(scores), queries(3), np.array([1, 2, 4]), ADS)
    # Positions 1 and 3 of the seen ads; the unseen ad is last, beyond the four.
    assert measured.metrics["corpus_recall_at_2"] == pytest.approx(1 / 3)
    assert measured.on_seen_ads["corpus_recall_at_2"] == 0.5
    assert measured.on_seen_ads["corpus_recall_at_4"] == 1.0
    assert measured.on_seen_ads["ndcg_at_10"] == pytest.approx((SECOND + 1 / math.log2(5)) / 2)
    assert measured.on_unseen_ads["corpus_recall_at_4"] == 0.0


def test_without_clicks_on_unseen_ads_they_are_not_measured():
    measured = corpus_ranking.per_click(fixed(SCORES), queries(1), np.array([1]), ADS)
    assert measured.on_unseen_ads is None
    measured = corpus_ranking.per_click(fixed(SCORES), queries(1), np.array([4]), ADS)
    assert measured.on_seen_ads is None


def test_auc_compares_clicked_ads_with_uniform_and_with_popular_ads(monkeypatch):
    monkeypatch.setattr(corpus_ranking, "NEGATIVES_PER_CLICK", 20_000)
    measured = corpus_ranking.per_click(fixed(SCORES), queries(1), np.array([1]), ADS)
    # Ad 1 beats ads 0, 2 and 4 of the four others, and loses to ad 3. Drawn by training
    # clicks the others are ads 2 and 3, two clicks each. Four standard deviations are 0.014.
    assert measured.metrics["auc_against_uniform_ads"] == pytest.approx(0.75, abs=0.014)
    assert measured.metrics["auc_against_popular_ads"] == pytest.approx(0.5, abs=0.02)


def test_equal_scores_count_half():
    measured = corpus_ranking.per_click(
        fixed(np.zeros((1, 5), np.float32)), queries(2), np.array([1, 0]), ADS
    )
    assert measured.metrics["auc_against_uniform_ads"] == 0.5


def test_coverage_and_popularity_bias_describe_the_lists(monkeypatch):
    monkeypatch.setattr(corpus_ranking, "RECALL_AT", (3,))
    monkeypatch.setattr(corpus_ranking, "COVERAGE_AT", (1, 3))
    scores = np.array([[9, 8, 7, 0, 0], [9, 8, 0, 7, 0]], np.float32)
    measured = corpus_ranking.per_click(fixed(scores), queries(2), np.array([1, 3]), ADS)
    assert measured.metrics["catalog_coverage_at_1"] == 0.2  # ad 0
    assert measured.metrics["catalog_coverage_at_3"] == 0.8  # ads 0, 1, 2, 3
    # Lists 0 1 2 and 0 1 3. Clicks 0 6 2 2 0 have percentiles .2 .9 .6 .6 .2.
    assert measured.metrics["popularity_percentile_at_10"] == pytest.approx(
        (0.2 + 0.9 + 0.6 + 0.2 + 0.9 + 0.6) / 6
    )
    # Exposures 0 1 1 2 2: 2 (1·0 + 2·1 + 3·1 + 4·2 + 5·2) / (5 · 6) − 6/5 = 46/30 − 36/30.
    assert measured.metrics["exposure_gini_at_10"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("rows", [1, 2])
def test_under_uniform_exposure_ads_are_clicked_in_proportion_to_their_probabilities(rows):
    click = np.array([[0.1, 0.2, 0.3, 0.4, 0.5], [0.5, 0.1, 0.1, 0.1, 0.2]])
    # The order is 3, 1, 0, 2, 4, so the first two are ads 3 and 1, and the first three ad 0 too.
    scores = np.repeat(SCORES, rows, axis=0)
    for k, expected in ((2, [0.6, 0.2]), (3, [0.7, 0.7]), (9, [1.5, 1.0])):
        found = corpus_ranking.clicks_under_uniform_exposure(fixed(scores), queries(2), click, k)
        assert found == pytest.approx(expected)


def test_ties_do_not_prefer_ads_that_are_early_in_the_catalog(monkeypatch):
    monkeypatch.setattr(corpus_ranking, "RECALL_AT", (100,))
    clicks = np.zeros(1_000, np.int64)
    ads = corpus_ranking.RankedCorpus(clicks=clicks, seen=np.ones(1_000, bool))
    nothing = baselines.Popularity(clicks)
    # One ad in ten is in the list: 50 of 500 with a standard deviation of 6.4.
    for half in (np.arange(500), np.arange(500, 1_000)):
        measured = corpus_ranking.per_click(nothing, queries(500), half, ads)
        assert measured.metrics["corpus_recall_at_100"] == pytest.approx(0.1, abs=4 * 0.0128)
        users = users_of(half, half, [], [], num_ads=1_000)
        by_user = corpus_ranking.per_user(nothing, users)
        assert by_user["corpus_recall_at_100"] == pytest.approx(0.1, abs=4 * 0.0128)


def test_the_most_clicked_ads_are_the_list_of_the_popularity_baseline(data_set, monkeypatch):
    monkeypatch.setattr(corpus_ranking, "RECALL_AT", (10,))
    catalog = data_set.catalog()
    clicks = retrieval.with_validation_clicks(data_set, catalog).clicks // 4  # many are equal
    monkeypatch.setattr(
        refit, "with_validation_clicks", lambda *_: types.SimpleNamespace(clicks=clicks)
    )
    popular = retrieval.most_clicked(data_set, catalog, 10)
    ads = corpus_ranking.RankedCorpus(clicks=clicks, seen=np.ones(len(clicks), bool))
    measured = corpus_ranking.per_click(baselines.Popularity(clicks), queries(10), popular, ads)
    assert measured.metrics["corpus_recall_at_10"] == 1.0


def users_of(users, ad_rows, seen_users, seen_rows, num_ads=5, order=None):
    number = np.arange(len(users))
    order = number if order is None else np.array(order)
    clicks = retrieval.Clicks(
        number[:, None].astype(np.int32), np.array(ad_rows), number, order, np.array(users)
    )
    history = baselines.history_of(np.array(seen_users), np.array(seen_rows), num_ads)
    return corpus_ranking.held_out_users(clicks, history.clicks_of, num_ads)


def test_a_users_list_leaves_out_ads_clicked_before(monkeypatch):
    monkeypatch.setattr(corpus_ranking, "RECALL_AT", (1, 2, 10))
    monkeypatch.setattr(corpus_ranking, "_MAX_SCORES", 5)  # a user at a time
    users = users_of([70, 8, 70, 70], [0, 3, 2, 2], [70, 70, 9], [3, 4, 1])
    assert users.queries.user.tolist() == [8, 70]
    assert users.queries.query[:, 0].tolist() == [1, 0]  # each user's first request
    measured = corpus_ranking.per_user(fixed(SCORES), users)
    # User 8 has ad 3, which is first. User 70 has ads 0 and 2, second and third of 1, 0, 2.
    assert measured["corpus_recall_at_1"] == 0.5
    assert measured["corpus_recall_at_2"] == pytest.approx((1 + 0.5) / 2)
    assert measured["corpus_recall_at_10"] == 1.0
    assert measured["ndcg_at_10"] == pytest.approx((1 + (SECOND + 0.5) / (1 + SECOND)) / 2)


def test_users_are_asked_for_at_their_earliest_held_out_request():
    users = users_of([1, 2, 1, 2], [0, 1, 2, 3], [], [], order=[7, 5, 3, 6])
    assert users.queries.user.tolist() == [1, 2]
    assert users.queries.query[:, 0].tolist() == [2, 1]


def test_an_ad_clicked_again_is_not_held_out_and_users_without_any_do_not_count():
    users = users_of([1, 1, 2], [0, 2, 3], [1, 2], [0, 3])
    assert users.queries.user.tolist() == [1]
    assert users.wanted.nonzero()[1].tolist() == [2]
    none = users_of([2], [3], [2], [3])
    assert corpus_ranking.per_user(fixed(SCORES), none) is None


def test_the_ideal_of_a_user_with_many_ads_is_a_full_list():
    # Twelve ads, all wanted: the first ten positions are hits, the maximum.
    scores = np.arange(12, dtype=np.float32)[None, :]
    users = users_of([1] * 12, range(12), [], [], num_ads=12)
    measured = corpus_ranking.per_user(fixed(scores), users)
    assert measured["ndcg_at_10"] == pytest.approx(1.0)
    assert measured["corpus_recall_at_10"] == pytest.approx(10 / 12)
    assert measured["corpus_recall_at_50"] == 1.0


def test_too_many_users_are_sampled(monkeypatch):
    monkeypatch.setattr(corpus_ranking, "_MAX_SCORES_PER_RECOMMENDER", 15)
    users = users_of(range(8), [1] * 8, [], [])
    assert len(users.queries) == users.wanted.shape[0] == users.seen.shape[0] == 3
    assert isinstance(users.wanted, scipy.sparse.csr_array)


def test_random_lists_are_expected_to_find_their_share_of_the_ads():
    found = corpus_ranking.by_chance(40).metrics
    assert (found["corpus_recall_at_10"], found["corpus_recall_at_50"]) == (0.25, 1.0)
    # Each of the ten positions has the ad with a probability of 1 / 40.
    assert found["ndcg_at_10"] == pytest.approx(sum(1 / np.log2(2 + np.arange(10))) / 40)
    assert corpus_ranking.by_chance(1).metrics["ndcg_at_10"] == 1.0
