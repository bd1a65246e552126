"""Plain Keras models of the click probability: a DNN, DCN-V2 and DeepFM.

Each field has an embedding; that of a list is the mean over its values. Numbers are embedded by
their quantile bucket, and the rank of the bucket is an additional input. There is one row per shown
ad.

Shapes: B rows, W columns of ids, F fields, E field embedding, D = F E + numeric inputs.

References:
    Wang et al., DCN V2: Improved Deep & Cross Network, 2021 (parallel structure).
    Guo et al., DeepFM: A Factorization-Machine based Neural Network for CTR Prediction, 2017.
"""

import dataclasses

import numpy as np
import tensorflow as tf
from peers import peer_data

from serving import cli  # noqa: F401  (imported first: it selects Keras 2 and quiets TensorFlow)
from tfrec import layers

KINDS = ("dnn", "dcn_v2", "deepfm")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes and regularization of a network.

    Attributes:
        field_dim: Size of a field embedding, E.
        hidden: Widths of the dense layers.
        num_cross_layers: Number of cross layers of DCN-V2.
        dropout: Dropout rate after each dense layer.
        embedding_l2: L2 penalty on the whole table, relative to the summed loss of the training
            rows. A penalty on all rows keeps the embeddings of rare ids small; with a penalty on
            the ids of each batch only, these models overfit within an epoch.
        linear_l2: L2 penalty on DeepFM's linear weights, one per id.
    """

    field_dim: int = 16
    hidden: tuple[int, ...] = (256, 128)
    num_cross_layers: int = 2
    dropout: float = 0.1
    embedding_l2: float = 600.0
    linear_l2: float = 15.0


class Fields(tf.keras.layers.Layer):
    """Embeds the fields of rows of ids with one shared table.

    Args:
        fields: Fields to embed.
        dim: Size of a field embedding, E.
        l2: L2 penalty on the table.
    """

    def __init__(self, fields: tuple[peer_data.PeerField, ...], dim: int, l2: float) -> None:
        super().__init__()
        sizes = [field.cardinality for field in fields]
        widths = [field.columns.stop - field.columns.start for field in fields]
        self._offsets = np.repeat(np.cumsum([0, *sizes[:-1]]), widths).astype(np.int32)
        self._widths = widths
        self._table = tf.keras.layers.Embedding(
            sum(sizes),
            dim,
            embeddings_initializer=tf.keras.initializers.RandomNormal(stddev=0.01),
            embeddings_regularizer=tf.keras.regularizers.L2(l2),
        )

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        """Looks up ids [B, W] int32 and returns [B, F, E] float32."""
        values = self._table(ids + self._offsets)  # [B, W, E]
        if max(self._widths) == 1:
            return values
        parts = zip(
            self._widths,
            tf.split(ids, self._widths, axis=1),
            tf.split(values, self._widths, axis=1),
            strict=True,
        )
        pooled = [v if w == 1 else layers.mean_of_values(v, i)[:, None] for w, i, v in parts]
        return tf.concat(pooled, axis=1)


class Ranks(tf.keras.layers.Layer):
    """Numeric fields as the rank of the quantile bucket in [-1, 1], and 0 if missing.

    Args:
        fields: All fields; only numeric ones are used.
    """

    def __init__(self, fields: tuple[peer_data.PeerField, ...]) -> None:
        super().__init__()
        numeric = [field for field in fields if field.kind == "numeric"]
        self._columns = np.array([field.columns.start for field in numeric], np.int32)
        self._largest = np.array([max(field.cardinality - 1, 2) for field in numeric], np.float32)

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        """Maps ids [B, W] to [B, numeric fields] float32."""
        rank = tf.cast(tf.gather(ids, self._columns, axis=1), tf.float32)
        return tf.where(rank > 0, 2 * (rank - 1) / (self._largest - 1) - 1, 0.0)


def build(kind: str, data: peer_data.PeerData, sizes: Sizes) -> tf.keras.Model:
    """Builds a network that maps ids [B, W] int32 to click logits [B, 1].

    Args:
        kind: Kind of network, one of `KINDS`.
        data: Rows of all splits.
        sizes: Sizes and regularization.

    Raises:
        ValueError: The kind is not known.
    """
    if kind not in KINDS:
        raise ValueError(f"Expected one of {', '.join(KINDS)}, got {kind!r}.")
    width = data.train.ids.shape[1]
    ids = tf.keras.Input([width], dtype=tf.int32)
    embedded = Fields(data.fields, sizes.field_dim, sizes.embedding_l2 / len(data.train))(ids)
    x = tf.keras.layers.Flatten()(embedded)
    if any(field.kind == "numeric" for field in data.fields):
        x = tf.keras.layers.Concatenate()([x, Ranks(data.fields)(ids)])
    rate = np.clip(data.click_rate, 1e-6, 1 - 1e-6)
    base = tf.keras.initializers.Constant(np.log(rate / (1 - rate)))
    if kind == "dcn_v2":
        crossed = x
        for _ in range(sizes.num_cross_layers):
            crossed = layers.CrossLayer()(x, crossed)
        joined = tf.keras.layers.Concatenate()([crossed, _dense(x, sizes)])
        logits = tf.keras.layers.Dense(1, bias_initializer=base)(joined)
    else:
        logits = tf.keras.layers.Dense(1, bias_initializer=base)(_dense(x, sizes))
    if kind == "deepfm":
        first_order = Fields(data.fields, 1, sizes.linear_l2 / len(data.train))(ids)
        logits += tf.reduce_sum(first_order, axis=1) + _pairs(embedded)
    return tf.keras.Model(ids, logits)


def _dense(x: tf.Tensor, sizes: Sizes) -> tf.Tensor:
    for width in sizes.hidden:
        x = tf.keras.layers.Dense(width, activation="relu")(x)
        x = tf.keras.layers.Dropout(sizes.dropout)(x)
    return x


def _pairs(embedded: tf.Tensor) -> tf.Tensor:
    """Returns the sum [B, 1] of the inner products of all pairs of fields [B, F, E]."""
    of_sums = tf.reduce_sum(embedded, axis=1) ** 2
    sums_of = tf.reduce_sum(embedded**2, axis=1)
    return 0.5 * tf.reduce_sum(of_sums - sums_of, axis=1, keepdims=True)
