"""Histories as query tokens: a candidate attends to each value of a list, not only to the mean.

The latest values of each query-side list are tokens, with a learned embedding of their position
from the end. Values that are ads are embedded as in `histories`.

Shapes: B requests, W columns of query ids, E field embedding, D model width, M token values of a
list, L = sum of M over lists.

References:
    Zhou et al., Deep Interest Network for Click-Through Rate Prediction, 2018 (a candidate weighs
    the values of a history).
    Chen et al., Behavior Sequence Transformer, 2019.
"""

import tensorflow as tf

from tfrec.layers import features

MAX_VALUES = 20


class HistoryTokens(tf.keras.layers.Layer):
    """Makes tokens of the query-side lists.

    Args:
        embeddings: Embeddings of the query side, with lists.
        width: Width D of a token.

    Attributes:
        num_tokens: Number L of tokens of a request.
    """

    def __init__(self, embeddings: features.FieldEmbeddings, width: int) -> None:
        super().__init__()
        self._embeddings, self._width = embeddings, width
        self._lengths = [min(width, MAX_VALUES) for width in embeddings.list_widths]
        self.num_tokens = sum(self._lengths)
        self._maps = [tf.keras.layers.Dense(width) for _ in self._lengths]

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the weights."""
        self.positions = self.add_weight(
            "positions",
            (self.num_tokens, self._width),
            initializer=tf.keras.initializers.RandomNormal(stddev=0.01),
        )
        super().build(input_shape)

    def call(self, ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the tokens [B, L, D] of query ids [B, W] int32, and which are absent [B, L]."""
        tokens, absent = [], []
        for number, length in enumerate(self._lengths):
            latest = latest_first(self._embeddings.list_ids(ids, number))[:, :length]
            tokens.append(self._maps[number](self._embeddings.embed_values(latest, number)))
            absent.append(tf.equal(latest, 0))
        return tf.concat(tokens, axis=1) + self.positions, tf.concat(absent, axis=1)


def latest_first(ids: tf.Tensor) -> tf.Tensor:
    """Reverses lists [B, L] int32: the last value first, and padding (0) last."""
    length = ids.shape[-1]
    order = tf.where(tf.equal(ids, 0), length, -tf.range(length))
    return tf.gather(ids, tf.argsort(order, axis=-1, stable=True), batch_dims=1)
