"""How often negatives are drawn, and which ads are not negatives."""

import numpy as np
import pytest
import tensorflow as tf

from tfrec.layers import sampling


def test_expected_draws_add_in_batch_and_uniform_draws():
    # 4 · 3/4 + 4/4 = 4; 4 · 1/4 + 4/4 = 2; 4/4 = 1 for the ads never clicked.
    share = sampling.ClickShares(np.array([3, 1, 0, 0]))(tf.range(4))
    draws = sampling.expected_draws(share, tf.constant(4), num_uniform=4, num_ads=4)
    np.testing.assert_allclose(draws, [4.0, 2.0, 1.0, 1.0])


def test_expected_draws_agree_with_sampling():
    rng = np.random.default_rng(0)
    clicks = np.array([50, 30, 15, 5, 0])
    drawn = np.zeros(5)
    for _ in range(4_000):
        in_batch = rng.choice(5, 8, p=clicks / 100)
        drawn += np.bincount(np.append(in_batch, rng.integers(0, 5, 4)), minlength=5)
    share = sampling.ClickShares(clicks)(tf.range(5))
    expected = sampling.expected_draws(share, tf.constant(8), num_uniform=4, num_ads=5)
    np.testing.assert_allclose(drawn / 4_000, expected, atol=0.07)


def test_no_clicks_are_refused():
    with pytest.raises(ValueError, match=r"training split has no clicks"):
        sampling.ClickShares(np.zeros(5))


def test_clicked_ads_are_found_among_columns_in_any_order_and_repeated():
    clicked = sampling.ClickedAds(np.array([7, 3, 7, 7]), np.array([4, 4, 2, 9]))
    among = clicked.among(
        tf.constant([3, 7, 5], tf.int64), tf.constant([9, 4, 1, 2, 4, 0], tf.int32)
    )
    np.testing.assert_array_equal(
        among.numpy().astype(int),
        [[0, 1, 0, 0, 1, 0], [1, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]],
    )


def test_clicked_ads_agree_with_a_lookup_in_a_set():
    rng = np.random.default_rng(0)
    users, rows = rng.integers(-50, 50, 2_000), rng.integers(0, 300, 2_000)
    pairs = set(zip(users.tolist(), rows.tolist(), strict=True))
    asked, columns = rng.integers(-60, 60, 40), rng.integers(0, 300, 500)
    found = sampling.ClickedAds(users, rows).among(
        tf.constant(asked, tf.int64), tf.constant(columns, tf.int32)
    )
    expected = [[(u, c) in pairs for c in columns.tolist()] for u in asked.tolist()]
    np.testing.assert_array_equal(found, expected)


def test_without_clicks_nothing_is_clicked():
    clicked = sampling.ClickedAds(np.empty(0, np.int64), np.empty(0, np.int32))
    assert not clicked.among(tf.constant([1, 2], tf.int64), tf.constant([0, 1, 2])).numpy().any()


def test_some_clicks_of_a_user_with_very_many_are_kept():
    most = sampling.MAX_CLICKS_OF_USER
    clicked = sampling.ClickedAds(np.zeros(2 * most, np.int64), np.arange(2 * most))
    among = clicked.among(tf.constant([0], tf.int64), tf.range(2 * most))
    assert among.numpy().sum() == most
