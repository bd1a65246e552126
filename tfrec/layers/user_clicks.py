"""The ads that a user clicked in training, as an input of the query tower.

If only the id of a user is known, everything learned about the user is a row of a table, from few
clicks. The rows of the clicked ads are learned from the clicks of all users, so their sum describes
the user at once. In training, the ad of the click itself is left out of the sum. For serving, the
sums are computed once per epoch and stored by user id, so requests stay the same; out-of-vocabulary
users have none. A history in the request is a better input, because it is up to date.

Shapes: B queries, W columns of ids, N ads, Fa ad-side fields, E embedding, V ids of the user,
P clicks of the users of a batch.

References:
    Koren, Factorization Meets the Neighborhood, 2008 (SVD++: sum over the root of their number).
    He et al., LightGCN, 2020 (users as sums of items).
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfrec.layers import features, key_ids, sampling
from tfrecords import encoding

# Maximum number of field embeddings looked up per user, by sampling clicks, and minimum number of
# clicks in a sample.
_MAX_EMBEDDINGS, _MIN_CLICKS = 128, 16
_CHUNK = 8_192

EmbedAds = Callable[[tf.Tensor], tf.Tensor]


class UserClicks(tf.keras.layers.Layer):
    """Embeds users as the sum of the ads that they clicked.

    Args:
        users: Column and vocabulary of the user ids.
        fitted: The fitted schema.
        dim: Dimension E of the embedding.

    Attributes:
        users: Column and vocabulary of the user ids.
        max_clicks: Maximum number of a user's clicks in a step.
    """

    def __init__(self, users: key_ids.KeyIds, fitted: encoding.FittedSchema, dim: int) -> None:
        super().__init__()
        self.users = users
        self.map = tf.keras.layers.Dense(dim, use_bias=False)
        self._dim = dim
        self.max_clicks = max(_MAX_EMBEDDINGS // len(fitted.schema.ad_fields), _MIN_CLICKS)
        self.table = self.add_weight(
            "table", (users.cardinality, dim), initializer="zeros", trainable=False
        )

    def stored_sums(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the stored sums [B, E] of queries [B, W] int32."""
        return tf.gather(self.table, self.users.ids_in(ids))

    def call(
        self, ads: tf.Tensor, owner: tf.Tensor, counts: tf.Tensor, embed: EmbedAds
    ) -> tf.Tensor:
        """Sums the ads of each query.

        Args:
            ads: [P] int32 catalog rows.
            owner: [P] int32 indices of their queries, ascending.
            counts: [B] int32 numbers of clicks of the queries' users.
            embed: Maps catalog rows [P] to field embeddings [P, Fa, E].

        Returns:
            [B, E] float32: the mean of a query's ads times the square root of its user's number of
            clicks.
        """
        distinct, index = tf.unique(ads)
        values = self.map(features.flatten(embed(distinct)))
        num_queries = tf.shape(counts)[0]
        total = tf.sparse.segment_sum(values, index, owner, num_segments=num_queries)
        number = tf.math.bincount(owner, minlength=num_queries, maxlength=num_queries)
        scale = tf.sqrt(tf.cast(counts, tf.float32)) / tf.cast(tf.maximum(number, 1), tf.float32)
        return total * scale[:, None]

    def store(self, clicked: sampling.ClickedAds, num_ads: int, embed: EmbedAds) -> None:
        """Computes and stores the sums of all users in the vocabulary.

        Args:
            clicked: The training clicks of all users.
            num_ads: Number N of ads in the catalog.
            embed: Maps catalog rows [P] to field embeddings [P, Fa, E].
        """
        values = np.concatenate(
            [
                self.map(
                    features.flatten(embed(tf.range(first, min(first + _CHUNK, num_ads))))
                ).numpy()
                for first in range(0, num_ads, _CHUNK)
            ]
        )
        users = encoding.fingerprint(tf.constant(self.users.vocabulary, tf.string)).numpy()
        table = np.zeros((self.users.cardinality, self._dim), np.float32)
        for first in range(0, len(users), _CHUNK):
            matrix = clicked.matrix(users[first : first + _CHUNK], num_ads)
            root = np.sqrt(np.maximum(np.diff(matrix.indptr), 1))
            sums = (matrix @ values) / root[:, None]
            table[1 + first : 1 + first + len(sums)] = sums
        self.table.assign(table)
