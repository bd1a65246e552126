"""Field ids to embeddings, shared by towers and ranker.

All categorical fields of a side share one table, so a look-up is one gather. A value's
embedding is its own row plus one for how frequent it is (ids are ranks by count): what
rare values have in common is learnt together, and their own rows only add to it.
Numeric fields are quantile buckets. Both buckets and frequencies are under a thermometer
code: bucket t is the sum of the learnt steps 1..t, so neighbours share what they learn
and serving is still a look-up.

Shapes: B batch (any leading dimensions), F fields, E field embedding, T buckets.

References:
    Gorishniy et al., On Embeddings for Numerical Features in Tabular Deep Learning, 2022
    (piecewise-linear, thermometer-like codes).
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfrecords import encoding
from tfrecords import schema as schema_lib

FREQUENCY_BUCKETS = 64


class FieldEmbeddings(tf.keras.layers.Layer):
    """Embeds the encoded fields of one side.

    Args:
        fitted: The fitted schema; gives each field's number of ids.
        fields: The fields, in the column order of the ids.
        dim: E.
    """

    def __init__(
        self, fitted: encoding.FittedSchema, fields: Sequence[schema_lib.Field], dim: int
    ) -> None:
        super().__init__()
        self._dim = dim
        sizes = [fitted.cardinality(field) for field in fields]
        self._categorical = [i for i, f in enumerate(fields) if f.kind == "categorical"]
        self._numeric = [i for i, f in enumerate(fields) if f.kind == "numeric"]
        categorical_sizes = [sizes[i] for i in self._categorical]
        self._frequency_bucket = np.concatenate(
            [
                index * FREQUENCY_BUCKETS + frequency_buckets(sizes[i], fields[i].num_oov_buckets)
                for index, i in enumerate(self._categorical)
            ]
            or [np.empty(0, np.int32)]
        ).astype(np.int32)
        self._offsets = np.cumsum([0, *categorical_sizes[:-1]]).astype(np.int32)
        self._table_rows = sum(categorical_sizes)
        self._num_buckets = max((sizes[i] for i in self._numeric), default=0)
        self._order = np.argsort(self._categorical + self._numeric)
        self._in_order = self._categorical + self._numeric == list(range(len(fields)))
        self.output_dim = len(fields) * dim

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the tables; called by Keras."""
        if self._categorical:
            self.table = self.add_weight(
                "table",
                (self._table_rows, self._dim),
                initializer=tf.keras.initializers.RandomNormal(stddev=0.01),
            )
            self.frequency_steps = self.add_weight(
                "frequency_steps",
                (len(self._categorical), FREQUENCY_BUCKETS, self._dim),
                initializer=tf.keras.initializers.RandomNormal(stddev=0.01),
            )
        if self._numeric:
            self.steps = self.add_weight(
                "steps",
                (len(self._numeric), self._num_buckets, self._dim),
                initializer=tf.keras.initializers.RandomNormal(stddev=0.01),
            )
        super().build(input_shape)

    @property
    def sparse_variables(self) -> list[tf.Variable]:
        """The tables whose gradients are sparse."""
        return [self.table] if self._categorical else []

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        """Looks up ids [B, F] int32 and returns [B, F, E] float32."""
        parts = []
        if self._categorical:
            columns = tf.gather(ids, self._categorical, axis=-1) + self._offsets
            frequency = tf.gather(self._frequency_bucket, columns)
            shared = tf.gather(self._thermometer(self.frequency_steps), frequency)
            parts.append(tf.gather(self.table, columns) + shared)
        if self._numeric:
            table = self._thermometer(self.steps)
            offsets = np.arange(len(self._numeric), dtype=np.int32) * self._num_buckets
            parts.append(tf.gather(table, tf.gather(ids, self._numeric, axis=-1) + offsets))
        embeddings = tf.concat(parts, axis=-2)
        return embeddings if self._in_order else tf.gather(embeddings, self._order, axis=-2)

    def _thermometer(self, steps: tf.Tensor) -> tf.Tensor:
        """Sums steps [F, T, E] up to each bucket; bucket 0, missing, stands alone: [F T, E]."""
        table = tf.concat([steps[:, :1], tf.cumsum(steps[:, 1:], axis=1)], axis=1)
        return tf.reshape(table, [-1, self._dim])


def frequency_buckets(num_ids: int, num_oov_buckets: int) -> np.ndarray:
    """Returns the frequency bucket [num_ids] int32 of each id of a categorical field.

    0 is missing; then two buckets for each doubling of the rank; the last is out of
    vocabulary.
    """
    ranks = np.arange(1, num_ids - num_oov_buckets)
    known = np.minimum(1 + (2 * np.log2(ranks)).astype(np.int32), FREQUENCY_BUCKETS - 2)
    return np.concatenate([[0], known, np.full(num_oov_buckets, FREQUENCY_BUCKETS - 1)])


def flatten(embeddings: tf.Tensor) -> tf.Tensor:
    """Reshapes [..., F, E] to [..., F * E]."""
    leading = tf.shape(embeddings)[:-2]
    width = embeddings.shape[-2] * embeddings.shape[-1]
    return tf.reshape(embeddings, tf.concat([leading, [width]], axis=0))


class CrossLayer(tf.keras.layers.Layer):
    """x_{l+1} = x_0 * (W x_l + b) + x_l.

    References:
        Wang et al., DCN V2: Improved Deep & Cross Network, 2021, eq. 1.
    """

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the projection; called by Keras."""
        self._project = tf.keras.layers.Dense(input_shape[-1])
        super().build(input_shape)

    def call(self, x0: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """Crosses [B, D] with [B, D] and returns [B, D]."""
        return x0 * self._project(x) + x
