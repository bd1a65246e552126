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
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from peers import peer_data

from serving import cli  # noqa: F401  (imported first: it selects Keras 2 and quiets TensorFlow)
from tfrec import layers

KINDS = ("dnn", "dcn_v2", "deepfm")
_ROWS_AT_ONCE = 8_192
_MIN_BATCHES = 80
_METRIC = "log_loss"


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    """Sizes, regularization and training of a network.

    Attributes:
        kind: Kind of network, one of `KINDS`.
        field_dim: Size of a field embedding, E.
        hidden: Widths of the dense layers.
        num_cross_layers: Number of cross layers of DCN-V2.
        dropout: Dropout rate after each dense layer.
        embedding_l2: L2 penalty on the whole table, relative to the summed loss of the training
            rows. A penalty on all rows keeps the embeddings of rare ids small; with a penalty on
            the ids of each batch only, these models overfit within an epoch.
        linear_l2: L2 penalty on DeepFM's linear weights, one per id.
        learning_rate: Learning rate of Adam.
        batch_size: Maximum batch size; reduced for small splits to get at least 80 batches.
        epochs: Maximum number of epochs.
        checks: Number of evaluations per epoch.
        patience: Number of evaluations without improvement before the learning rate is reduced;
            training stops after twice as many.
    """

    kind: str
    field_dim: int = 16
    hidden: tuple[int, ...] = (256, 128)
    num_cross_layers: int = 2
    dropout: float = 0.1
    embedding_l2: float = 600.0
    linear_l2: float = 15.0
    learning_rate: float = 1e-3
    batch_size: int = 4_096
    epochs: int = 15
    checks: int = 4
    patience: int = 4


def fit(
    data: peer_data.PeerData, options: NetworkOptions, seed: int
) -> tuple[peer_data.Predict, dict[str, Any]]:
    """Trains a network with Adam and early stopping on the validation log loss.

    The model is evaluated several times per epoch and the best evaluation is kept, because models
    with id embeddings are best after one or two epochs.

    Returns:
        The network's click logits at its best evaluation; and its `validation_log_loss` and number
        of `passes` at that point.
    """
    tf.keras.utils.set_random_seed(seed)
    model = _compiled(data, options)
    batch_size = _batch_size(data, options)
    steps = max(1, len(data.train) // batch_size // options.checks)
    monitor = {"monitor": f"val_{_METRIC}", "mode": "min"}
    history = model.fit(
        _batches(data.train, batch_size, seed),
        steps_per_epoch=steps,
        epochs=options.epochs * options.checks,
        validation_data=_batches(data.validation, _ROWS_AT_ONCE),
        callbacks=[
            tf.keras.callbacks.EarlyStopping(
                patience=2 * options.patience, restore_best_weights=True, **monitor
            ),
            tf.keras.callbacks.ReduceLROnPlateau(factor=0.2, patience=options.patience, **monitor),
        ],
        verbose=0,
    ).history[f"val_{_METRIC}"]
    best = int(np.argmin(history))
    passes = (best + 1) * steps * batch_size / len(data.train)

    def predict(rows: peer_data.PeerRows) -> np.ndarray:
        logits = model.predict(rows.ids, batch_size=_ROWS_AT_ONCE, verbose=0)
        return logits[:, 0].astype(np.float64)

    return predict, {"validation_log_loss": history[best], "passes": round(passes, 2)}


def training_steps(data: peer_data.PeerData, options: NetworkOptions) -> Callable[[int], int]:
    """Returns a function that takes a number of training steps and returns their rows."""
    model = _compiled(data, options)
    batch_size = _batch_size(data, options)
    batches = iter(_batches(data.train, batch_size, seed=1))
    step = model.make_train_function()

    def take(count: int) -> int:
        for _ in range(count):
            step(batches)["loss"].numpy()
        return count * batch_size

    return take


def _compiled(data: peer_data.PeerData, options: NetworkOptions) -> tf.keras.Model:
    model = build(data, options)
    loss = tf.keras.losses.BinaryCrossentropy(from_logits=True)
    own = tf.keras.metrics.BinaryCrossentropy(from_logits=True, name=_METRIC)  # no penalties
    model.compile(tf.keras.optimizers.Adam(options.learning_rate), loss, metrics=[own])
    return model


def _batch_size(data: peer_data.PeerData, options: NetworkOptions) -> int:
    return min(options.batch_size, max(1, len(data.train) // _MIN_BATCHES))


def _batches(rows: peer_data.PeerRows, batch_size: int, seed: int | None = None) -> tf.data.Dataset:
    """Streams (ids, labels); with a seed, endlessly and reshuffled in each epoch."""
    # Shuffles row numbers instead of rows to save memory.
    ids, labels = tf.constant(rows.ids), tf.constant(rows.labels[:, None])
    numbers = tf.data.Dataset.range(len(rows))
    if seed is not None:
        numbers = numbers.shuffle(len(rows), seed=seed).repeat()
    return (
        numbers.batch(batch_size)
        .map(lambda chosen: (tf.gather(ids, chosen), tf.gather(labels, chosen)))
        .prefetch(tf.data.AUTOTUNE)
    )


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


def build(data: peer_data.PeerData, options: NetworkOptions) -> tf.keras.Model:
    """Builds a network that maps ids [B, W] int32 to click logits [B, 1]."""
    width = data.train.ids.shape[1]
    ids = tf.keras.Input([width], dtype=tf.int32)
    embedded = Fields(data.fields, options.field_dim, options.embedding_l2 / len(data.train))(ids)
    x = tf.keras.layers.Flatten()(embedded)
    if any(field.kind == "numeric" for field in data.fields):
        x = tf.keras.layers.Concatenate()([x, Ranks(data.fields)(ids)])
    rate = np.clip(data.click_rate, 1e-6, 1 - 1e-6)
    base = tf.keras.initializers.Constant(np.log(rate / (1 - rate)))
    if options.kind == "dcn_v2":
        crossed = x
        for _ in range(options.num_cross_layers):
            crossed = layers.CrossLayer()(x, crossed)
        joined = tf.keras.layers.Concatenate()([crossed, _dense(x, options)])
        logits = tf.keras.layers.Dense(1, bias_initializer=base)(joined)
    else:
        logits = tf.keras.layers.Dense(1, bias_initializer=base)(_dense(x, options))
    if options.kind == "deepfm":
        first_order = Fields(data.fields, 1, options.linear_l2 / len(data.train))(ids)
        logits += tf.reduce_sum(first_order, axis=1) + _pairs(embedded)
    return tf.keras.Model(ids, logits)


def _dense(x: tf.Tensor, options: NetworkOptions) -> tf.Tensor:
    for width in options.hidden:
        x = tf.keras.layers.Dense(width, activation="relu")(x)
        x = tf.keras.layers.Dropout(options.dropout)(x)
    return x


def _pairs(embedded: tf.Tensor) -> tf.Tensor:
    """Returns the sum [B, 1] of the inner products of all pairs of fields [B, F, E]."""
    of_sums = tf.reduce_sum(embedded, axis=1) ** 2
    sums_of = tf.reduce_sum(embedded**2, axis=1)
    return 0.5 * tf.reduce_sum(of_sums - sums_of, axis=1, keepdims=True)
