"""Negatives of the retrieval stage: how often each is drawn, and which are none.

A batch of B clicks has as negatives of each click the ads of the B − 1 others, drawn by
their share of clicks, and U ads drawn uniformly. Where an ad's expected number of draws is
known, each draw stands for 1 / that number, and the sampled sum of a softmax is right in
expectation (the logQ correction). Ads that the user clicked elsewhere in training are no
negatives.

Shapes: N ads, B clicks, U uniform negatives, C columns of a batch, P clicks of a user.

References:
    Yi et al., Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
    Recommendations, 2019 (logQ correction; algorithm 2 for streams).
    Yang et al., Mixed Negative Sampling for Learning Two-tower Neural Networks, 2020.
"""

from typing import Protocol

import numpy as np
import scipy.sparse
import tensorflow as tf

# Of a user who clicked more, some clicks are left out of the exclusion.
MAX_CLICKS_OF_USER = 1_000


def expected_draws(
    click_share: tf.Tensor, num_in_batch: tf.Tensor, num_uniform: int, num_ads: int
) -> tf.Tensor:
    """Returns how often ads are drawn as negatives of one click, on average.

    Args:
        click_share: [C] float32, each ad's share of the training clicks.
        num_in_batch: The other clicks of the batch, B − 1.
        num_uniform: U.
        num_ads: N.
    """
    return click_share * tf.cast(num_in_batch, tf.float32) + num_uniform / num_ads


class ClickShare(Protocol):
    """Knows each ad's share of the training clicks."""

    def observe(self, ad_rows: tf.Tensor) -> None:
        """Takes note of the clicks of a batch: ad_rows [B] int32."""

    def __call__(self, ad_rows: tf.Tensor, batch_size: tf.Tensor) -> tf.Tensor:
        """Returns the shares [C] float32 of ads [C] int32, for batches of a size."""


class CountedShare:
    """The exact share, from the counts of the catalogue.

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
        self._share = tf.constant(clicks / total, tf.float32)

    def observe(self, ad_rows: tf.Tensor) -> None:
        """Does nothing: the clicks are counted already."""
        del ad_rows

    def __call__(self, ad_rows: tf.Tensor, batch_size: tf.Tensor) -> tf.Tensor:
        """Returns the shares [C] float32 of ads [C] int32; any batch size gives the same."""
        del batch_size
        return tf.gather(self._share, ad_rows)


class StreamedShare(tf.Module):
    """Estimates each ad's share of the clicks from the steps between its clicks.

    For a catalogue whose clicks were not counted, such as one that grows while training goes on.

    Args:
        num_buckets: Size of the hashed counters; as many as ads = no collisions.
        rate: Weight of the newest gap in the moving average.
    """

    def __init__(self, num_buckets: int, rate: float = 0.05) -> None:
        super().__init__()
        self._rate = rate
        self._last_step = tf.Variable(tf.zeros([num_buckets], tf.int64), trainable=False)
        self._gap = tf.Variable(tf.zeros([num_buckets]), trainable=False)
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)

    def observe(self, ad_rows: tf.Tensor) -> None:
        """Counts the clicks of a batch: ad_rows [B] int32."""
        step = self._step.assign_add(1)
        rows = tf.unique(self._bucket(ad_rows))[0]
        gap = tf.cast(step - tf.gather(self._last_step, rows), tf.float32)
        known = tf.gather(self._gap, rows)
        average = tf.where(known > 0, (1 - self._rate) * known + self._rate * gap, gap)
        self._gap.scatter_update(tf.IndexedSlices(average, rows))
        self._last_step.scatter_update(tf.IndexedSlices(tf.fill(tf.shape(rows), step), rows))

    def __call__(self, ad_rows: tf.Tensor, batch_size: tf.Tensor) -> tf.Tensor:
        """Returns the estimated shares [C] of ads [C]; 0 where none was seen.

        A click every g steps of B clicks is in a batch with probability 1 / g, so its share s
        has 1 − (1 − s)^B = 1 / g.
        """
        gap = tf.gather(self._gap, self._bucket(ad_rows))
        # A gap of one step says no more than that the ad is in about every batch.
        present = tf.minimum(1.0 / tf.maximum(gap, 1.0), 0.99)
        share = 1.0 - tf.pow(1.0 - present, 1.0 / tf.cast(batch_size, tf.float32))
        return tf.where(gap > 0, share, 0.0)

    def _bucket(self, ad_rows: tf.Tensor) -> tf.Tensor:
        return ad_rows % tf.shape(self._gap)[0]


class ClickedAds:
    """Which ads each user clicked in training.

    Args:
        users: [H] int64 fingerprints of the users of the training clicks.
        ad_rows: [H] int32 the ads clicked.
        seed: Picks the clicks kept of users with more than `MAX_CLICKS_OF_USER`.
    """

    def __init__(self, users: np.ndarray, ad_rows: np.ndarray, seed: int = 0) -> None:
        shuffled = np.random.default_rng(seed).permutation(len(users))
        order = shuffled[np.argsort(users[shuffled], kind="stable")]
        distinct, starts, counts = np.unique(users[order], return_index=True, return_counts=True)
        # A user more, without clicks, so that every search ends at one.
        self._users = np.append(distinct, np.iinfo(np.int64).max)
        starts, counts = np.append(starts, 0), np.append(counts, 0)
        self._starts = starts.astype(np.int32)
        self._counts = np.minimum(counts, MAX_CLICKS_OF_USER).astype(np.int32)
        self._ad_rows = ad_rows[order].astype(np.int32)

    def among(self, users: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
        """Returns [B, C] bool: whether user b clicked the ad of column c in training.

        Args:
            users: [B] int64; unknown ones clicked nothing.
            columns: [C] int32 ads, in any order, possibly repeated.
        """
        starts, counts = self._clicks_of(users)
        clicked = tf.ragged.range(starts, starts + counts)
        ads = tf.gather(self._ad_rows, clicked.flat_values)  # [sum of P]
        row = tf.cast(clicked.value_rowids(), tf.int32)
        # Columns sorted by ad: an ad's columns are a run, which begins and ends somewhere.
        order = tf.argsort(columns)
        ordered = tf.gather(columns, order)
        begin = tf.searchsorted(ordered, ads, side="left")
        end = tf.searchsorted(ordered, ads, side="right")
        places = tf.ragged.range(begin, end)
        row = tf.gather(row, places.value_rowids())
        pairs = tf.stack([row, tf.gather(order, places.flat_values)], axis=1)
        shape = tf.stack([tf.shape(users)[0], tf.shape(columns)[0]])
        return tf.scatter_nd(pairs, tf.ones_like(row), shape) > 0

    def others(
        self, users: tf.Tensor, ad_rows: tf.Tensor, most: int
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns other ads that users clicked, of users with many clicks some of them.

        Args:
            users: [B] int64; unknown ones clicked nothing.
            ad_rows: [B] int32, the ads that are left out, one a user.
            most: Ads returned of a user.

        Returns:
            [P] int32 ads and [P] int32 whose each is, rising; and how many clicks each user has
            [B] int32.
        """
        starts, counts = self._clicks_of(users)
        # The clicks of a user are in random order: a window of them is a random choice.
        draw = tf.random.uniform(tf.shape(counts)) * tf.cast(counts, tf.float32)
        taken = tf.ragged.range(tf.minimum(counts, most))
        owner = tf.cast(taken.value_rowids(), tf.int32)
        place = taken.flat_values + tf.gather(tf.cast(draw, tf.int32), owner)
        place = tf.gather(starts, owner) + place % tf.gather(counts, owner)
        ads = tf.gather(self._ad_rows, place)
        kept = ads != tf.gather(ad_rows, owner)
        return tf.boolean_mask(ads, kept), tf.boolean_mask(owner, kept), counts

    def matrix(self, users: np.ndarray, num_ads: int) -> scipy.sparse.csr_array:
        """Returns the clicks [B, N] of users [B], 1.0 each; unknown users have none."""
        place = np.searchsorted(self._users, users)
        counts = np.where(self._users[place] == users, self._counts[place], 0)
        ends = np.cumsum(counts)
        within = np.arange(counts.sum()) - np.repeat(ends - counts, counts)
        ads = self._ad_rows[np.repeat(self._starts[place], counts) + within]
        return scipy.sparse.csr_array(
            (np.ones(len(ads), np.float32), ads, np.append(0, ends)), shape=(len(users), num_ads)
        )

    def _clicks_of(self, users: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns where the clicks of users [B] begin, and how many there are; 0 of unknown."""
        place = tf.searchsorted(self._users, users)
        known = tf.gather(self._users, place) == users
        return tf.gather(self._starts, place), tf.where(known, tf.gather(self._counts, place), 0)
