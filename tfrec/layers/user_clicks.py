"""What the log says of a user: the ads that the user clicked, as an input of the query tower.

Where a user is known by an id alone, all that is learnt of the user is a row of a table, from
few clicks. The ads clicked have rows too, from the clicks of everybody: their sum says at once
what kind of user this is. While training, a click's own ad is left out of the sum. For serving,
the sums are computed once a pass and kept by the user's id, so that a request has to carry no
more than before; users out of vocabulary have none. Where requests carry a history it is the better
input: it is what was known at the time.

Shapes: B queries, W columns of ids, N ads, Fa ad-side fields, E embedding, V ids of the user,
P clicks of the users of a batch.

References:
    Koren, Factorization Meets the Neighborhood, 2008 (SVD++: sum over the root of their number).
    He et al., LightGCN, 2020 (users as sums of items).
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfrec.layers import features, sampling, user_ids
from tfrecords import encoding

# So many field embeddings are looked up for a user, at most; of many clicks, some are drawn.
_MOST_EMBEDDINGS, _LEAST_CLICKS = 128, 16
_ROWS_AT_ONCE = 8_192

EmbedAds = Callable[[tf.Tensor], tf.Tensor]


class UserClicks(tf.keras.layers.Layer):
    """Embeds users as the sum of the ads that they clicked.

    Args:
        users: Where queries carry the user's id.
        fitted: The fitted schema.
        dim: E.

    Attributes:
        most_clicks: Of a user's clicks, so many are drawn for a step.
    """

    def __init__(self, users: user_ids.UserIds, fitted: encoding.FittedSchema, dim: int) -> None:
        super().__init__()
        self._users = users
        self.map = tf.keras.layers.Dense(dim, use_bias=False)
        self._dim = dim
        self.most_clicks = max(_MOST_EMBEDDINGS // len(fitted.schema.ad_fields), _LEAST_CLICKS)
        self.table = self.add_weight(
            "table", (users.cardinality, dim), initializer="zeros", trainable=False
        )

    def of_ids(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the kept sums [B, E] of queries [B, W] int32."""
        return tf.gather(self.table, self._users.of(ids))

    def is_known(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns [B] bool: whether the user of queries [B, W] int32 is in the vocabulary."""
        return self._users.is_known(ids)

    def call(
        self, ads: tf.Tensor, owner: tf.Tensor, counts: tf.Tensor, embed: EmbedAds
    ) -> tf.Tensor:
        """Sums ads by query.

        Args:
            ads: [P] int32 catalogue rows.
            owner: [P] int32 the queries that they are summed for, rising.
            counts: [B] int32 clicks of the queries' users.
            embed: Maps catalogue rows [P] to field embeddings [P, Fa, E].

        Returns:
            [B, E] float32: the mean of a query's ads times the root of its user's clicks.
        """
        distinct, index = tf.unique(ads)
        values = self.map(features.flatten(embed(distinct)))
        num_queries = tf.shape(counts)[0]
        total = tf.sparse.segment_sum(values, index, owner, num_segments=num_queries)
        number = tf.math.bincount(owner, minlength=num_queries, maxlength=num_queries)
        scale = tf.sqrt(tf.cast(counts, tf.float32)) / tf.cast(tf.maximum(number, 1), tf.float32)
        return total * scale[:, None]

    def keep(self, clicked: sampling.ClickedAds, num_ads: int, embed: EmbedAds) -> None:
        """Computes the sums of all users in the vocabulary.

        Args:
            clicked: The clicks.
            num_ads: N.
            embed: As of `call`.
        """
        values = np.concatenate(
            [
                self.map(
                    features.flatten(embed(tf.range(first, min(first + _ROWS_AT_ONCE, num_ads))))
                ).numpy()
                for first in range(0, num_ads, _ROWS_AT_ONCE)
            ]
        )
        users = encoding.fingerprint(tf.constant(self._users.vocabulary, tf.string)).numpy()
        table = np.zeros((self._users.cardinality, self._dim), np.float32)
        for first in range(0, len(users), _ROWS_AT_ONCE):
            matrix = clicked.matrix(users[first : first + _ROWS_AT_ONCE], num_ads)
            root = np.sqrt(np.maximum(np.diff(matrix.indptr), 1))
            sums = (matrix @ values) / root[:, None]
            table[1 + first : 1 + first + len(sums)] = sums
        self.table.assign(table)
