"""Histories as query tokens: a candidate attends to each value of a list, not to their mean alone.

Of each list on the query side the latest values are tokens, with what is learnt of their place
from the end. Values that are ads are embedded as `histories` has them.

Shapes: B requests, W columns of query ids, E field embedding, D model width, M values of a list
that are tokens, L = all lists' M.

References:
    Zhou et al., Deep Interest Network for Click-Through Rate Prediction, 2018 (a candidate weighs
    the values of a history).
    Chen et al., Behavior Sequence Transformer, 2019.
"""

import tensorflow as tf

from tfrec.layers import features

MOST_VALUES = 20


class HistoryTokens(tf.keras.layers.Layer):
    """Makes tokens of the lists on the query side.

    Args:
        embeddings: Of the query side; it has lists.
        width: D.

    Attributes:
        num_tokens: L.
    """

    def __init__(self, embeddings: features.FieldEmbeddings, width: int) -> None:
        super().__init__()
        self._embeddings, self._width = embeddings, width
        self._most = [min(most, MOST_VALUES) for most in embeddings.list_widths]
        self.num_tokens = sum(self._most)
        self._maps = [tf.keras.layers.Dense(width) for _ in self._most]

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the weights; called by Keras."""
        self.places = self.add_weight(
            "places",
            (self.num_tokens, self._width),
            initializer=tf.keras.initializers.RandomNormal(stddev=0.01),
        )
        super().build(input_shape)

    def call(self, ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the tokens [B, L, D] of query ids [B, W] int32, and which are absent [B, L]."""
        tokens, absent = [], []
        for number, most in enumerate(self._most):
            latest = latest_first(self._embeddings.list_ids(ids, number))[:, :most]
            tokens.append(self._maps[number](self._embeddings.embed_values(latest, number)))
            absent.append(tf.equal(latest, 0))
        return tf.concat(tokens, axis=1) + self.places, tf.concat(absent, axis=1)


def latest_first(ids: tf.Tensor) -> tf.Tensor:
    """Turns lists [B, L] int32 round: the last value first, and 0, which fills up, last."""
    length = ids.shape[-1]
    places = tf.where(tf.equal(ids, 0), length, -tf.range(length))
    return tf.gather(ids, tf.argsort(places, axis=-1, stable=True), batch_dims=1)
