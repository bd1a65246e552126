"""Negatives of the retrieval stage: sampling probabilities and accidental hits.

The negatives of a click in a batch of B clicks are the ads of the B − 1 other clicks, sampled by
their share of clicks, and U ads sampled uniformly. Each draw is weighted by 1 / the expected number
of draws of its ad, which makes the sampled sum of a softmax unbiased (the logQ correction). Ads
that the user clicked elsewhere in training are accidental hits and not negatives.

Shapes: N ads, B clicks, U uniform negatives, C columns of a batch, P clicks of a user.

References:
    Yi et al., Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
    Recommendations, 2019 (logQ correction).
    Yang et al., Mixed Negative Sampling for Learning Two-tower Neural Networks, 2020.
"""

import numpy as np
import scipy.sparse
import tensorflow as tf

# Maximum number of a user's clicks that are excluded from the negatives.
MAX_CLICKS_OF_USER = 1_000


def expected_draws(
    click_share: tf.Tensor, num_in_batch: tf.Tensor, num_uniform: int, num_ads: int
) -> tf.Tensor:
    """Returns the expected number of draws of ads as negatives of one click.

    Args:
        click_share: [C] float32, each ad's share of the training clicks.
        num_in_batch: Number of other clicks in the batch, B − 1.
        num_uniform: Number U of uniformly drawn negatives.
        num_ads: Number N of ads in the catalog.

    Returns:
        [C] float32.
    """
    return click_share * tf.cast(num_in_batch, tf.float32) + num_uniform / num_ads


class ClickShares:
    """Each ad's share of the training clicks, from the counts of the catalog.

    Args:
        clicks: [N] training clicks.

    Raises:
        ValueError: There are no clicks.
    """

    def __init__(self, clicks: np.ndarray) -> None:
        total = float(clicks.sum())
        if total <= 0:
            raise ValueError(
                "The training split has no clicks; retrieval has nothing to learn from."
            )
        self._shares = tf.constant(clicks / total, tf.float32)

    def __call__(self, ad_rows: tf.Tensor) -> tf.Tensor:
        """Returns the shares [C] float32 of ads [C] int32."""
        return tf.gather(self._shares, ad_rows)


class ClickedAds:
    """The ads that each user clicked in training.

    Args:
        users: [H] int64 fingerprints of the users of the training clicks.
        ad_rows: [H] int32 the clicked ads.
    """

    def __init__(self, users: np.ndarray, ad_rows: np.ndarray) -> None:
        # At random, because users with more clicks than `MAX_CLICKS_OF_USER` keep the first.
        shuffled = np.random.default_rng(0).permutation(len(users))
        order = shuffled[np.argsort(users[shuffled], kind="stable")]
        distinct, starts, counts = np.unique(users[order], return_index=True, return_counts=True)
        # An additional user without clicks, so that every search ends at a user.
        self._users = np.append(distinct, np.iinfo(np.int64).max)
        starts, counts = np.append(starts, 0), np.append(counts, 0)
        self._starts = starts.astype(np.int32)
        self._counts = np.minimum(counts, MAX_CLICKS_OF_USER).astype(np.int32)
        self._ad_rows = ad_rows[order].astype(np.int32)

    def among(self, users: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
        """Returns [B, C] bool: whether user b clicked the ad of column c in training.

        Args:
            users: [B] int64; unknown users have no clicks.
            columns: [C] int32 ads, in any order, possibly with repetitions.
        """
        starts, counts = self._clicks_of(users)
        clicked = tf.ragged.range(starts, starts + counts)
        ads = tf.gather(self._ad_rows, clicked.flat_values)  # [sum of P]
        return _columns_of(ads, clicked.value_rowids(), columns, tf.shape(users)[0])

    def others(
        self,
        users: tf.Tensor,
        ad_rows: tf.Tensor,
        max_clicks: int,
        draws: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns other ads that users clicked, a sample for users with many clicks.

        Args:
            users: [B] int64; unknown users have no clicks.
            ad_rows: [B] int32 the ad to leave out for each user.
            max_clicks: Maximum number of ads per user.
            draws: [B] float32 in [0, 1), uniform, which choose the samples.

        Returns:
            [P] int32 ads, [P] int32 indices of their users, ascending, and [B] int32 numbers of
            clicks of the users.
        """
        starts, counts = self._clicks_of(users)
        # A user's clicks are in random order, so a window of them is a random sample.
        draw = draws * tf.cast(counts, tf.float32)
        taken = tf.ragged.range(tf.minimum(counts, max_clicks))
        owner = tf.cast(taken.value_rowids(), tf.int32)
        index = taken.flat_values + tf.gather(tf.cast(draw, tf.int32), owner)
        index = tf.gather(starts, owner) + index % tf.gather(counts, owner)
        ads = tf.gather(self._ad_rows, index)
        kept = ads != tf.gather(ad_rows, owner)
        return tf.boolean_mask(ads, kept), tf.boolean_mask(owner, kept), counts

    def matrix(self, users: np.ndarray, num_ads: int) -> scipy.sparse.csr_array:
        """Returns the clicks [B, N] of users as 1.0.

        Args:
            users: [B] int64 fingerprints; unknown users have no clicks.
            num_ads: Number N of ads in the catalog.
        """
        index = np.searchsorted(self._users, users)
        counts = np.where(self._users[index] == users, self._counts[index], 0)
        ends = np.cumsum(counts)
        within = np.arange(counts.sum()) - np.repeat(ends - counts, counts)
        ads = self._ad_rows[np.repeat(self._starts[index], counts) + within]
        return scipy.sparse.csr_array(
            (np.ones(len(ads), np.float32), ads, np.append(0, ends)), shape=(len(users), num_ads)
        )

    def _clicks_of(self, users: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the starts and numbers [B] of the clicks of users [B]; 0 for unknown users."""
        index = tf.searchsorted(self._users, users)
        known = tf.gather(self._users, index) == users
        return tf.gather(self._starts, index), tf.where(known, tf.gather(self._counts, index), 0)


def clicked_in_request(
    request: tf.Tensor, requests: tf.Tensor, ad_rows: tf.Tensor, columns: tf.Tensor
) -> tf.Tensor:
    """Returns [B, C] bool: whether the ad of column c was clicked in the request of click b.

    Args:
        request: [B] int32 the requests of the clicks.
        requests: [P] int32 the requests of the batch's clicks, which include these.
        ad_rows: [P] int32 the ads of the batch's clicks.
        columns: [C] int32 ads, in any order, possibly with repetitions.
    """
    click, batch_click = tf.unstack(tf.where(request[:, None] == requests), axis=1)
    return _columns_of(tf.gather(ad_rows, batch_click), click, columns, tf.size(request))


def _columns_of(
    ads: tf.Tensor, row: tf.Tensor, columns: tf.Tensor, num_rows: tf.Tensor
) -> tf.Tensor:
    """Returns [B, C] bool: the columns of the ads [P] int32 of rows [P]."""
    # In columns sorted by ad, the columns of an ad are a run.
    order = tf.argsort(columns)
    ordered = tf.gather(columns, order)
    begin = tf.searchsorted(ordered, ads, side="left")
    end = tf.searchsorted(ordered, ads, side="right")
    hits = tf.ragged.range(begin, end)
    row = tf.cast(tf.gather(row, hits.value_rowids()), tf.int32)
    pairs = tf.stack([row, tf.gather(order, hits.flat_values)], axis=1)
    shape = tf.stack([num_rows, tf.size(columns)])
    return tf.tensor_scatter_nd_update(tf.zeros(shape, tf.bool), pairs, tf.ones_like(row, tf.bool))
