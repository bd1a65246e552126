"""Histories as query tokens: a candidate attends to each value of a list, not only to the mean.

The latest values of each query-side list are tokens. To a value's embedding (from `histories` for
values that are ads), a token adds learned embeddings of its position from the end and, for a
history, of its age and of the kind of event. An age's embedding changes with its logarithm: it is
interpolated between learned points, because most buckets of ages are rare.

Shapes: B requests, W columns of query ids, E field embedding, D model width, M token values of a
list, L = sum of M over lists.

References:
    Zhou et al., Deep Interest Network for Click-Through Rate Prediction, 2018 (a candidate weighs
    the values of a history).
    Chen et al., Behavior Sequence Transformer, 2019 (position as time before the request).
"""

from collections.abc import Sequence

import tensorflow as tf

from tfrec.layers import features, histories
from tfrecords import encoding
from tfrecords.histories import NUM_EVENT_CODES
from tfrecords.schema import Field

MAX_VALUES = 200


class HistoryTokens(tf.keras.layers.Layer):
    """Makes tokens of the query-side lists.

    Args:
        embeddings: Embeddings of the query side, with lists.
        fields: Query-side fields.
        width: Width D of a token.

    Attributes:
        num_tokens: Number L of tokens of a request.
    """

    def __init__(
        self, embeddings: features.FieldEmbeddings, fields: Sequence[Field], width: int
    ) -> None:
        super().__init__()
        self._embeddings, self._width = embeddings, width
        self._lengths = [min(length, MAX_VALUES) for length in embeddings.list_widths]
        self.num_tokens = sum(self._lengths)
        self._maps = [tf.keras.layers.Dense(width) for _ in self._lengths]
        self._parts = [
            encoding.history_columns(field, columns) if field.kind == "history" else None
            for field, columns in encoding.columns(fields)
            if field.is_list
        ]

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the weights."""

        def weight(name: str, rows: int) -> tf.Variable:
            initializer = tf.keras.initializers.RandomNormal(stddev=0.01)
            return self.add_weight(name, (rows, self._width), initializer=initializer)

        self.positions = weight("positions", self.num_tokens)
        with_ages = [columns for columns in self._parts if columns is not None]
        self.ages = [weight("ages", histories.NUM_AGE_ROWS) for _ in with_ages]
        self.events = [
            weight("events", NUM_EVENT_CODES) for columns in with_ages if columns.events is not None
        ]
        super().build(input_shape)

    def call(self, ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the tokens [B, L, D] of query ids [B, W] int32, and which are absent [B, L]."""
        tokens, absent = [], []
        ages, events = iter(self.ages), iter(self.events)
        for number, (length, parts) in enumerate(zip(self._lengths, self._parts, strict=True)):
            values = self._embeddings.list_ids(ids, number)
            order = latest_first(values)[:, :length]
            latest = tf.gather(values, order, batch_dims=1)
            embedded = self._maps[number](self._embeddings.embed_values(latest, number))
            if parts is not None:
                codes = tf.gather(ids[:, parts.ages], order, batch_dims=1)
                embedded += tf.gather(histories.interpolate_ages(next(ages)), codes)
                if parts.events is not None:
                    codes = tf.gather(ids[:, parts.events], order, batch_dims=1)
                    embedded += tf.gather(next(events), codes)
            tokens.append(embedded)
            absent.append(tf.equal(latest, 0))
        return tf.concat(tokens, axis=1) + self.positions, tf.concat(absent, axis=1)


def latest_first(ids: tf.Tensor) -> tf.Tensor:
    """Returns the order [B, L] that reverses lists [B, L] int32; padding (0) is last."""
    length = ids.shape[-1]
    order = tf.where(tf.equal(ids, 0), length, -tf.range(length))
    return tf.argsort(order, axis=-1, stable=True)
