"""Baselines against values derived by hand, and against dense algebra."""

import math

import numpy as np
import pytest
import scipy.sparse

from tfrec.evaluation import baselines, corpus_ranking

# Users 5, 6, 7; ads 0..3. Ad 3 has no clicks.
USERS = np.array([7, 5, 5, 6, 6, 7, 5])
ADS = np.array([1, 0, 1, 0, 1, 2, 0])


@pytest.fixture
def history():
    return baselines.history_of(USERS, ADS, 4)


def asked(*users):
    count = len(users)
    return corpus_ranking.Queries(np.zeros((count, 1), np.int32), np.array(users), np.arange(count))


def test_a_history_has_each_pair_once_and_is_empty_for_unknown_users(history):
    expected = [[0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0]]
    assert history.clicks_of(np.array([7, 99, 5])).toarray().tolist() == expected
    empty = baselines.history_of(np.empty(0, np.int64), np.empty(0, np.int32), 4)
    assert empty.clicks_of(np.array([7])).toarray().tolist() == [[0, 0, 0, 0]]
    assert history.counts_of(np.array([99, 5])).toarray().tolist() == [[0, 0, 0, 0], [2, 1, 0, 0]]


def test_popularity_is_one_row_of_counts_for_everybody():
    scores = baselines.Popularity(np.array([3, 0, 5]))(asked(1, 2))
    assert scores.tolist() == [[3.0, 0.0, 5.0]]


def test_a_users_own_clicks_are_counted_and_followed_by_popular_ads(history):
    scores = baselines.OwnClicks(history)(asked(5, 7, 99))
    assert scores[:2].round().tolist() == [[2, 1, 0, 0], [0, 1, 1, 0]]
    assert np.argsort(-scores[2], kind="stable").tolist() == [1, 0, 2, 3]
    # One of seven clicks repeats another one.
    assert history.repeated == pytest.approx(1 / 7)
    assert baselines.history_of(np.empty(0, np.int64), np.empty(0, np.int32), 4).repeated == 0


def test_item_neighbors_add_cosines(history):
    scores = baselines.ItemNeighbors(history, shrinkage=0.0)(asked(6, 7))
    # Clicked by {5, 6}, {5, 6, 7}, {7}: cosines 2/√6 between 0 and 1, 1/√3 between 1 and 2.
    near, far = 2 / math.sqrt(6), 1 / math.sqrt(3)
    assert scores[0] == pytest.approx([near, near, far, 0], abs=1e-5)
    assert scores[1] == pytest.approx([near, far, far, 0], abs=1e-5)


def test_without_neighbors_ads_are_in_the_order_of_popularity(history):
    unknown = baselines.ItemNeighbors(history)(asked(99))[0]
    assert np.argsort(-unknown, kind="stable").tolist() == [1, 0, 2, 3]


def test_an_ad_keeps_its_nearest_neighbors_alone(history, monkeypatch):
    monkeypatch.setattr(baselines, "_CHUNK_OF_ADS", 2)
    similarity = baselines.item_similarity(history.matrix, 1).toarray()
    # Ad 1 is nearer to ad 0 (0.816) than to ad 2 (0.577); columns are the ads that are scored.
    expected = np.zeros((4, 4))
    expected[1, 0] = expected[0, 1] = 2 / math.sqrt(6)
    expected[1, 2] = 1 / math.sqrt(3)
    np.testing.assert_allclose(similarity, expected, atol=1e-6)


def test_equally_near_neighbors_do_not_prefer_early_ads():
    # One user clicked all of 400 ads, so that each has 399 neighbors with the same cosine.
    clicks = scipy.sparse.csr_array(np.ones((1, 400), np.float32))
    kept = baselines.item_similarity(clicks, 40).nonzero()[0]
    # Half of 16,000 with a standard deviation of 63, or less.
    assert np.count_nonzero(kept < 200) == pytest.approx(8_000, abs=4 * 63)


def test_similarities_are_those_of_dense_algebra(monkeypatch):
    monkeypatch.setattr(baselines, "_CHUNK_OF_ADS", 7)
    clicks = (np.random.default_rng(0).random((30, 20)) < 0.3).astype(np.float32)
    user, ad = clicks.nonzero()
    history = baselines.history_of(user, ad, 20)
    length = np.linalg.norm(clicks, axis=0)
    expected = clicks.T @ clicks / np.outer(length, length)
    np.fill_diagonal(expected, 0.0)
    similarity = baselines.item_similarity(history.matrix, 20).toarray()
    np.testing.assert_allclose(similarity, expected, atol=1e-6)


def test_ads_that_share_one_user_by_chance_are_not_the_nearest():
    # Ads 0 and 1 have one user, the same; ads 2 and 3 share 60 of 75 users each.
    users = np.concatenate([[0, 0], np.arange(75), np.arange(15, 90)])
    ads = np.concatenate([[0, 1], np.full(75, 2), np.full(75, 3)])
    clicks = baselines.history_of(users, ads, 4).matrix
    cosine = baselines.item_similarity(clicks, 3).toarray()
    assert cosine[1, 0] == pytest.approx(1.0)
    assert cosine[3, 2] == pytest.approx(0.8)
    shrunk = baselines.item_similarity(clicks, 3, shrinkage=20.0).toarray()
    assert shrunk[1, 0] == pytest.approx(1 / 21)
    assert shrunk[3, 2] == pytest.approx(60 / 95)


def test_a_user_with_very_many_clicks_counts_with_some_of_them(monkeypatch):
    monkeypatch.setattr(baselines, "MAX_CLICKS_PER_USER", 3)
    history = baselines.history_of(np.zeros(10, np.int64), np.arange(10), 10)
    similarity = baselines.item_similarity(history.matrix, 100)
    assert similarity.nnz == 6  # three ads with two neighbors each


def test_ease_solves_its_least_squares(history):
    model = baselines.Ease(history, l2=2.0)
    x, weights = history.matrix.toarray().astype(np.float64), model._weights
    assert (np.diag(weights) == 0).all()
    # At the optimum the gradient XᵀX B − XᵀX + λB is zero but on the diagonal.
    gradient = x.T @ x @ weights - x.T @ x + 2.0 * weights
    np.fill_diagonal(gradient, 0.0)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)
    np.testing.assert_allclose(model(asked(6)), x[1:2] @ weights, atol=1e-6)
    # A user without clicks gets the order of popularity.
    unknown = model(asked(99))[0]
    assert (np.diff(unknown[np.argsort(history.clicks)]) >= 0).all()
    assert unknown.max() > 0
