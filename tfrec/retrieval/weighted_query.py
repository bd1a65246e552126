"""The query tower for any weights of the utility, over one set of ad embeddings.

The utility of an ad is linear in the weights of the heads. So is the query before it is scaled to
length one: a sum over heads of weight times a linear map of the tower's embedding. Each head's map
is the identity at first, so that the query is the tower's for all weights.

Heads have different scales: a click probability of 0.2 and a revenue of 0.01. Each weight is
multiplied by its head's standard deviation over ads, so that it counts as in the order of ads.

Shapes: B queries, W columns of ids, D embedding, H heads.
"""

from collections.abc import Sequence

import tensorflow as tf

from tfrec import training


class WeightedQueryTower(training.SavedAsWeights, tf.keras.Model):
    """A query tower with a query for any weights of the heads.

    Args:
        tower: The query tower.
        heads: The heads, in the order of their weights.
        embedding_dim: Length D of its embeddings.

    Attributes:
        tower: The query tower.
        heads: The heads.
        maps: [H, D, D] map of each head.
        default_weights: [H] weights of requests that give none.
        deviations: [H] standard deviation of each head's values over the ads of a request.
    """

    def __init__(
        self, tower: tf.keras.layers.Layer, heads: Sequence[str], embedding_dim: int
    ) -> None:
        super().__init__()
        self.tower, self.heads = tower, tuple(heads)
        count = len(self.heads)
        self.maps = tf.Variable(tf.eye(embedding_dim, batch_shape=[count]), name="maps")
        self.default_weights, self.deviations = (
            tf.Variable(tf.ones([count]), trainable=False, name=name)
            for name in ("default_weights", "deviations")
        )

    def call(
        self, ids: tf.Tensor, weights: tf.Tensor | None = None, training: bool = False
    ) -> tf.Tensor:
        """Embeds queries.

        Args:
            ids: [B, W] int32.
            weights: [B, H], or [H] for all queries; None, or zeros: the default ones.
            training: Whether dropout is on.

        Returns:
            [B, D] float32, of length one.
        """
        return self.weighted(self.tower(ids, training=training), weights)

    def weighted(self, embeddings: tf.Tensor, weights: tf.Tensor | None = None) -> tf.Tensor:
        """Returns the queries [B, D] of the tower's embeddings [B, D]; see `call`.

        For several weights [B, V, H] of each embedding, it returns the queries [B, V, D].
        """
        given = self.default_weights if weights is None else weights
        is_zero = tf.reduce_all(tf.equal(given, 0.0), axis=-1, keepdims=True)
        standardized = tf.where(is_zero, self.default_weights, given) * self.deviations
        # No head distinguishes ads: weigh all heads equally, rather than return no query.
        is_zero = tf.reduce_all(tf.equal(standardized, 0.0), axis=-1, keepdims=True)
        standardized = tf.where(is_zero, tf.ones_like(standardized), standardized)
        # Small enough for any length but zero.
        shares = tf.math.l2_normalize(standardized, axis=-1, epsilon=1e-30)
        has_several = shares.shape.rank == 3
        if not has_several:
            shares = tf.broadcast_to(shares, [tf.shape(embeddings)[0], len(self.heads)])[:, None]
        # An einsum would transpose the maps in every call.
        by_head = tf.transpose(tf.matmul(embeddings, self.maps), [1, 0, 2])  # [B, H, D]
        queries = tf.math.l2_normalize(tf.matmul(shares, by_head), axis=-1)
        return queries if has_several else tf.squeeze(queries, axis=1)
