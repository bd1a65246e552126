"""How often the user of a request clicked the candidate in the training rows.

Users open the same apps and play the same songs again. Embeddings would have to memorize each such
pair of user and ad; its number of clicks says it directly. In training, the click of the row itself
is left out. A log with times can have a history instead, which also knows when, and is up to date.

Shapes: P clicked pairs, Wq and Wa columns of the query and the ad side.

References:
    Micci-Barreca, A Preprocessing Scheme for High-Cardinality Categorical Attributes, 2001
    (statistics of labels as features; here leaving one out).
"""

from collections.abc import Sequence
from typing import Optional

import numpy as np
import tensorflow as tf

from tfrec.layers import key_ids
from tfrec.layers.comparisons.values import FieldPair
from tfrecords import reader
from tfrecords.schema import AD

# The model holds 12 bytes for each clicked pair.
_MAX_CLICKS = 5_000_000
# Rows of a split that are read, and how many must be of a pair that was clicked in another row.
_MAX_ROWS, _MIN_ROWS = 100_000, 100
# The effect of such a click in log odds; where it is 0.5 to 0.7, embeddings suffice. On held-out
# rows, this part of it must be left.
_MIN_EFFECT, _MIN_PART_HELD_OUT = 1.0, 0.5
_REQUESTS_PER_BATCH, _ROWS_PER_BATCH, _SEED = 512, 65_536, 1
# Of users and ads that are not in the vocabulary.
_UNKNOWN = -1


class RepeatedClicks:
    """Counts the clicks of users on ads in the training rows; 0 for unknown users and ads.

    Args:
        users: Ids of users.
        ads: Ids of ads.
        pairs: [N] int64 numbers of the pairs of the clicked rows.

    Attributes:
        fields: The fields with the ids.
    """

    def __init__(self, users: key_ids.KeyIds, ads: key_ids.KeyIds, pairs: np.ndarray) -> None:
        self._users, self._ads = users, ads
        self.fields: FieldPair = (users.field, ads.field)
        distinct, clicks = np.unique(pairs, return_counts=True)
        # Larger than all others, so that a number is always found.
        distinct = np.append(distinct, np.iinfo(np.int64).max)
        with tf.init_scope():
            self._pairs = tf.constant(distinct, tf.int64)
            self._clicks = tf.constant(np.append(clicks, 0), tf.float32)

    @classmethod
    def of(
        cls, data_set: reader.DataSet, compared: Sequence[FieldPair] | None = None
    ) -> Optional["RepeatedClicks"]:
        """Counts the training clicks.

        Args:
            data_set: The data set.
            compared: The fields that a model compares; None: not known.

        Returns:
            None without ids of users and ads, if they are not compared, or with too many clicks.
        """
        users = key_ids.KeyIds.of_users(data_set.fitted)
        ads = key_ids.KeyIds.of_ads(data_set.fitted)
        if users is None or ads is None:
            return None
        if compared is not None and (users.field, ads.field) not in compared:
            return None
        if data_set.label_sum("train", "click") > _MAX_CLICKS:
            return None
        pairs = [np.empty(0, np.int64)]
        for batch in data_set.clicked("train", _ROWS_PER_BATCH):
            own = _numbers(users, ads, batch["query"], batch["ad"]).numpy()
            pairs.append(own[own != _UNKNOWN])
        return cls(users, ads, np.concatenate(pairs))

    def __call__(
        self, query: tf.Tensor, ad: tf.Tensor, clicks: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Returns log(1 + n) and min(n, 1) of n clicks, [..., 2] float32.

        Args:
            query: [..., Wq] int32; its leading dimensions broadcast against the ad's.
            ad: [..., Wa] int32.
            clicks: [...] labels of training rows, which are left out; None: these are other rows.
        """
        wanted = _numbers(self._users, self._ads, query, ad)
        place = tf.searchsorted(self._pairs, tf.reshape(wanted, [-1]))
        place = tf.reshape(place, tf.shape(wanted))
        is_found = tf.equal(tf.gather(self._pairs, place), wanted)
        number = tf.where(is_found, tf.gather(self._clicks, place), 0.0)
        if clicks is not None:
            number = tf.nn.relu(number - tf.where(tf.math.is_nan(clicks), 0.0, clicks))
        return tf.stack([tf.math.log1p(number), tf.minimum(number, 1.0)], axis=-1)


def informative_fields(data_set: reader.DataSet) -> list[FieldPair]:
    """Returns the user and the ad if a click makes another click on the ad more, or less, likely.

    Enough rows must be of a pair that was clicked in another row. In a log with times, the other
    clicks may follow a training row, or be of the same minute. Then they say more of training rows
    than of held-out ones, and nothing is returned; nor is it with a history of ads, which counts
    them better, or with sampled negatives, of which users have clicked none.

    Args:
        data_set: The data set; up to 100,000 training and validation rows are read.
    """
    if any(field.of == AD for field in data_set.schema.histories):
        return []
    repeated = RepeatedClicks.of(data_set)
    if repeated is None or data_set.has_sampled_negatives:
        return []
    training, held_out = (_effect(data_set, split, repeated) for split in ("train", "validation"))
    is_large = abs(training) >= _MIN_EFFECT
    is_held_out = held_out * np.sign(training) >= _MIN_PART_HELD_OUT * abs(training)
    return [repeated.fields] if is_large and is_held_out else []


def _effect(data_set: reader.DataSet, split: str, repeated: RepeatedClicks) -> float:
    """Returns the effect of a click in another row in log odds; NaN if few rows have one."""
    rows, clicks = np.zeros(2), np.zeros(2)
    for batch in data_set.batches(split, _REQUESTS_PER_BATCH, _SEED):
        labels = batch["click"]
        own = labels if split == "train" else None
        has_other = repeated(batch["query"][:, None], batch["ad"], own)[..., 1].numpy() > 0
        known = batch["mask"].numpy() & ~np.isnan(labels)
        rows += np.bincount(has_other[known], minlength=2)
        clicks += np.bincount(has_other[known], labels.numpy()[known], minlength=2)
        if rows.sum() >= _MAX_ROWS:
            break
    if rows.min() < _MIN_ROWS:
        return np.nan
    odds = (clicks + 0.5) / (rows - clicks + 0.5)
    return float(np.log(odds[1] / odds[0]))


def _numbers(
    users: key_ids.KeyIds, ads: key_ids.KeyIds, query: tf.Tensor, ad: tf.Tensor
) -> tf.Tensor:
    """Returns the number of the pair of user and ad, [...] int64, of encoded rows."""
    user, own = (tf.cast(ids, tf.int64) for ids in (users.of(query), ads.of(ad)))
    is_known = users.is_known(query) & ads.is_known(ad)
    return tf.where(is_known, user * ads.cardinality + own, np.int64(_UNKNOWN))
