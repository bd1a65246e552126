"""The probability with which retrieval draws its negatives."""

import numpy as np
import pytest

from tfrec import sampling


def test_mixture_adds_in_batch_and_uniform_draws_and_scales_the_largest_to_one():
    # 4 · 3/4 + 4/4 = 4; 4 · 1/4 + 4/4 = 2; 4/4 = 1 for the ads never clicked.
    probability = sampling.mixture_probability(np.array([3, 1, 0, 0]), 4, 4)
    np.testing.assert_allclose(probability, [1.0, 0.5, 0.25, 0.25])
    assert probability.dtype == np.float32


def test_without_uniform_negatives_it_is_the_share_of_clicks():
    probability = sampling.mixture_probability(np.array([4, 2, 1]), 1024, 0)
    np.testing.assert_allclose(probability, [1.0, 0.5, 0.25])


def test_a_million_ads_keep_their_ratios_above_the_floor_of_tfrs():
    clicks = np.zeros(1_000_000)
    clicks[:1_000] = 10.0
    probability = sampling.mixture_probability(clicks, 1_024, 1_024)
    # 1024/1000 + 1024/1e6 against 1024/1e6: 1001 to 1, far above TFRS's floor of 1e-6.
    assert probability[0] / probability[-1] == pytest.approx(1_001, rel=1e-5)
    assert probability.min() > 1e-4


def test_the_mixture_is_the_expected_number_of_draws():
    rng = np.random.default_rng(0)
    clicks = np.array([50, 30, 15, 5, 0])
    drawn = np.zeros(5)
    for _ in range(4_000):
        in_batch = rng.choice(5, 8, p=clicks / 100)
        drawn += np.bincount(np.append(in_batch, rng.integers(0, 5, 4)), minlength=5)
    # The first ad is drawn 8 · 1/2 + 4/5 = 4.8 times a batch.
    expected = sampling.mixture_probability(clicks, 8, 4)
    np.testing.assert_allclose(drawn / (4_000 * 4.8), expected, atol=0.015)


def test_no_clicks_are_refused():
    with pytest.raises(ValueError, match=r"training split has no clicks"):
        sampling.mixture_probability(np.zeros(5), 4, 4)
