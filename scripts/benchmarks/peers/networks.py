"""Plain Keras models of all targets: DNN, DCN-V2, DeepFM, FwFM, DLRM, FinalMLP and DIN.

Each field has an embedding; a list's is the mean over its values. Numbers are embedded by their
quantile bucket, and the rank of the bucket is an additional input. There is one row per shown ad. A
network has one output per target and is trained on the sum of their log likelihoods.

Shapes: B rows, W columns of ids, Wa columns of the ad side, F fields, E field embedding, D = F E +
numeric inputs, L values of a list, P pairs of fields, T targets.

References:
    Wang et al., DCN V2: Improved Deep & Cross Network, 2021 (parallel structure).
    Guo et al., DeepFM: A Factorization-Machine based Neural Network for CTR Prediction, 2017.
    Pan et al., Field-weighted Factorization Machines for Click-Through Rate Prediction, 2018.
    Naumov et al., Deep Learning Recommendation Model for Personalization and Recommendation
    Systems, 2019 (DLRM).
    Mao et al., FinalMLP: An Enhanced Two-Stream MLP Model for CTR Prediction, 2023.
    Zhou et al., Deep Interest Network for Click-Through Rate Prediction, 2018 (DIN).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from peers import peer_data

from tfrec import layers
from tfrecords import reader

_ROWS_AT_ONCE = 2_048
_MIN_BATCHES = 80
_METRIC = "validation_loss"
# A smaller improvement of a validation loss, relative to a constant's, is noise.
_MIN_IMPROVEMENT = 1e-4
_FUSION_HEADS = 2
# Width of DIN's activation unit, as in the paper.
_ACTIVATION_UNITS = 36


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    """Sizes, regularization and training of a network.

    Attributes:
        kind: Kind of network, one of `KINDS`.
        field_dim: Size of a field embedding, E.
        hidden: Width of the first dense layer; the second has half of it.
        num_cross_layers: Number of cross layers of DCN-V2.
        dropout: Dropout rate after each dense layer.
        embedding_l2: L2 penalty on the whole table, relative to the summed loss of the training
            rows. A penalty on all rows keeps the embeddings of rare ids small; with a penalty on
            the ids of each batch only, these models overfit within an epoch.
        linear_l2: L2 penalty on the linear weights of DeepFM and FwFM, one per id and target.
        learning_rate: Learning rate of Adam.
        batch_size: Maximum batch size; reduced for small splits to get at least 80 batches.
        epochs: Maximum number of epochs.
        checks: Number of evaluations per epoch.
        patience: Number of evaluations without improvement before the learning rate is reduced;
            training stops after twice as many in which no target improved.
    """

    kind: str
    field_dim: int = 16
    hidden: int = 256
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
    """Trains a network with Adam and early stopping on the validation losses.

    The model is evaluated several times per epoch, because models with id embeddings are best after
    one or two epochs. Each target is predicted with the weights that were best for it.

    Returns:
        The network's outputs; and for each target the number of `passes` until then.
    """
    tf.keras.backend.clear_session()  # a search builds many models
    tf.keras.utils.set_random_seed(seed)
    model = _compiled(data, options)
    batch_size = _batch_size(data, options)
    steps = max(1, len(data.train) // batch_size // options.checks)
    best = _BestWeights(data, 2 * options.patience)
    model.fit(
        _batches(data, data.train, batch_size, seed),
        steps_per_epoch=steps,
        epochs=options.epochs * options.checks,
        callbacks=[
            best,
            tf.keras.callbacks.ReduceLROnPlateau(
                factor=0.2, patience=options.patience, monitor=_METRIC, mode="min"
            ),
        ],
        verbose=0,
    )

    def predict(rows: peer_data.PeerRows) -> np.ndarray:
        outputs = np.empty((len(rows), len(data.targets)))
        for check in np.unique(best.check):
            model.set_weights(best.weights[check])
            is_best = best.check == check
            outputs[:, is_best] = _outputs(model, rows)[:, is_best]
        return outputs

    passes = (best.check + 1) * steps * batch_size / len(data.train)
    return predict, {
        f"{target.name}_passes": round(float(count), 2)
        for target, count in zip(data.targets, passes, strict=True)
    }


class _BestWeights(tf.keras.callbacks.Callback):
    """Keeps the weights with the best validation loss of each target, and stops the training.

    Adds the summed loss of the validation rows to the logs.

    Args:
        data: Rows of all splits.
        patience: Number of evaluations without improvement after which training stops.
    """

    def __init__(self, data: peer_data.PeerData, patience: int) -> None:
        super().__init__()
        self._data, self._patience, self._waited = data, patience, 0
        self._best_losses = np.full(len(data.targets), np.inf)
        self._loss = _joint_loss(data)
        self._values = data.values(data.validation)
        self.check = np.zeros(len(data.targets), int)
        self.weights: dict[int, list[np.ndarray]] = {}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        outputs = _outputs(self.model, self._data.validation)
        losses = self._data.losses(self._data.validation, outputs)
        better = losses < self._best_losses - _MIN_IMPROVEMENT
        self._waited = 0 if better.any() else self._waited + 1
        if better.any() or not epoch:
            self._best_losses[better], self.check[better] = losses[better], epoch
            self.weights[epoch] = self.model.get_weights()
            self.weights = {check: self.weights[check] for check in {*self.check.tolist()}}
        if self._waited >= self._patience or np.isnan(losses).any():
            self.model.stop_training = True
        assert logs is not None
        logs[_METRIC] = float(tf.reduce_mean(self._loss(self._values, outputs.astype(np.float32))))


def _outputs(model: tf.keras.Model, rows: peer_data.PeerRows) -> np.ndarray:
    """Returns the outputs [B, T] float64 of rows."""
    return model.predict(rows.ids, batch_size=_ROWS_AT_ONCE, verbose=0).astype(np.float64)


def training_steps(data: peer_data.PeerData, options: NetworkOptions) -> Callable[[int], int]:
    """Returns a function that takes a number of training steps and returns their rows."""
    model = _compiled(data, options)
    batch_size = _batch_size(data, options)
    batches = iter(_batches(data, data.train, batch_size, seed=1))
    step = model.make_train_function()

    def take(count: int) -> int:
        for _ in range(count):
            step(batches)["loss"].numpy()
        return count * batch_size

    return take


def _compiled(data: peer_data.PeerData, options: NetworkOptions) -> tf.keras.Model:
    model = build(data, options)
    optimizer = tf.keras.optimizers.Adam(options.learning_rate)
    # A step that creates variables is traced twice.
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, _joint_loss(data))
    return model


def _joint_loss(data: peer_data.PeerData) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Returns the loss [B] of targets [B, T], NaN where a row lacks a target, and of outputs."""
    is_log_amount = np.array([target.is_log_amount for target in data.targets])

    def loss(values: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        known = ~tf.math.is_nan(values)
        values = tf.where(known, values, 0.0)
        losses = tf.where(
            is_log_amount,
            0.5 * tf.square(values - outputs),
            tf.nn.sigmoid_cross_entropy_with_logits(values, outputs),
        )
        return tf.reduce_sum(tf.where(known, losses, 0.0), axis=1)

    return loss


def _batch_size(data: peer_data.PeerData, options: NetworkOptions) -> int:
    return min(options.batch_size, max(1, len(data.train) // _MIN_BATCHES))


def _batches(
    data: peer_data.PeerData, rows: peer_data.PeerRows, batch_size: int, seed: int
) -> tf.data.Dataset:
    """Streams (ids, targets) endlessly, reshuffled in each epoch."""
    # Shuffles row numbers instead of rows to save memory.
    ids, values = tf.constant(rows.ids), tf.constant(data.values(rows))
    numbers = reader.without_tuning(tf.data.Dataset.range(len(rows)))
    return (
        numbers.shuffle(len(rows), seed=seed)
        .repeat()
        .batch(batch_size)
        .map(lambda chosen: (tf.gather(ids, chosen), tf.gather(values, chosen)))
        .prefetch(tf.data.AUTOTUNE)
    )


class Fields(tf.keras.layers.Layer):
    """Embeds the fields of rows of ids with one shared table, which has an L2 penalty."""

    def __init__(self, fields: tuple[peer_data.PeerField, ...], dim: int, l2: float) -> None:
        super().__init__()
        sizes = [field.cardinality for field in fields]
        widths = [field.columns.stop - field.columns.start for field in fields]
        self._offsets = np.repeat(np.cumsum([0, *sizes[:-1]]), widths).astype(np.int32)
        self._widths = widths
        # A history has columns other than its values.
        self._columns = np.concatenate([np.r_[field.columns] for field in fields])
        self._is_ad = np.repeat([field.is_ad for field in fields], widths)
        self._table = tf.keras.layers.Embedding(
            sum(sizes),
            dim,
            embeddings_initializer=tf.keras.initializers.RandomNormal(stddev=0.01),
            embeddings_regularizer=tf.keras.regularizers.L2(l2),
        )

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        """Looks up ids [B, W] int32 and returns [B, F, E] float32."""
        ids = tf.gather(ids, self._columns, axis=1)
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

    def embed_ads(self, ids: tf.Tensor) -> tf.Tensor:
        """Looks up only the ad side's columns [..., Wa], and returns [..., Wa E]."""
        values = self._table(ids + self._offsets[self._is_ad])
        return tf.reshape(
            values, [*tf.unstack(tf.shape(ids))[:-1], ids.shape[-1] * values.shape[-1]]
        )


class Ranks(tf.keras.layers.Layer):
    """Numeric fields as the rank of the quantile bucket in [-1, 1], and 0 if missing."""

    def __init__(self, fields: tuple[peer_data.PeerField, ...]) -> None:
        super().__init__()
        numeric = [field for field in fields if field.kind == "numeric"]
        self._columns = np.array([field.columns.start for field in numeric], np.int32)
        self._largest = np.array([max(field.cardinality - 1, 2) for field in numeric], np.float32)

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        """Maps ids [B, W] to [B, numeric fields] float32."""
        rank = tf.cast(tf.gather(ids, self._columns, axis=1), tf.float32)
        return tf.where(rank > 0, 2 * (rank - 1) / (self._largest - 1) - 1, 0.0)


class BilinearFusion(tf.keras.layers.Layer):
    """Adds two streams and their products, in parts ("heads") of both streams.

    Args:
        num_outputs: T.
        num_heads: Number of parts; divides the widths of both streams.
    """

    def __init__(self, num_outputs: int, num_heads: int) -> None:
        super().__init__()
        self._num_outputs, self._num_heads = num_outputs, num_heads

    def build(self, shapes: list[tf.TensorShape]) -> None:
        widths = [shape[-1] // self._num_heads for shape in shapes]
        self._kernel = self.add_weight(
            "kernel",
            [self._num_heads, widths[0], widths[1], self._num_outputs],
            initializer=tf.keras.initializers.RandomNormal(stddev=1 / max(widths)),
        )

    def call(self, streams: list[tf.Tensor]) -> tf.Tensor:
        """Maps two streams [B, H1] and [B, H2] to [B, T]."""
        first, second = (
            tf.reshape(stream, [-1, self._num_heads, stream.shape[-1] // self._num_heads])
            for stream in streams
        )
        return tf.einsum("bhi,hijt,bhj->bt", first, self._kernel, second)


@dataclasses.dataclass(frozen=True)
class _Inputs:
    """The inputs of a network.

    Attributes:
        data: Fields and training rows.
        options: Sizes.
        ids: [B, W].
        table: Embeds ids.
        embedded: [B, F, E].
        numbers: [B, numeric fields], the ranks of numbers; None without any.
    """

    data: peer_data.PeerData
    options: NetworkOptions
    ids: tf.Tensor
    table: Fields
    embedded: tf.Tensor
    numbers: tf.Tensor | None

    @property
    def flat(self) -> tf.Tensor:
        """[B, D]: embeddings and numbers."""
        return _joined(tf.keras.layers.Flatten()(self.embedded), self.numbers)

    def outputs(self, x: tf.Tensor) -> tf.Tensor:
        """Returns a dense layer's [B, T]; its bias is initially the best constant."""
        base = tf.keras.initializers.Constant(self.data.bases)
        return tf.keras.layers.Dense(len(self.data.targets), bias_initializer=base)(x)

    def dense(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the second of two dense layers, [B, hidden / 2]."""
        for width in (self.options.hidden, max(self.options.hidden // 2, 1)):
            x = tf.keras.layers.Dense(width, activation="relu")(x)
            x = tf.keras.layers.Dropout(self.options.dropout)(x)
        return x

    def linear(self) -> tf.Tensor:
        """Returns the sum [B, T] of a weight per id and target."""
        l2 = self.options.linear_l2 / len(self.data.train)
        weights = Fields(self.data.fields, len(self.data.targets), l2)(self.ids)  # [B, F, T]
        return tf.reduce_sum(weights, axis=1)

    def side_embeddings(self, is_ad: bool) -> tf.Tensor:
        """Returns the embeddings [B, F' E] of the fields of the ad, or of the request."""
        chosen = [i for i, field in enumerate(self.data.fields) if field.is_ad == is_ad]
        return tf.keras.layers.Flatten()(tf.gather(self.embedded, chosen, axis=1))


def _dcn_v2(inputs: _Inputs) -> tf.Tensor:
    x = crossed = inputs.flat
    for _ in range(inputs.options.num_cross_layers):
        crossed = layers.CrossLayer()(x, crossed)
    return inputs.outputs(_joined(crossed, inputs.dense(x)))


def _deepfm(inputs: _Inputs) -> tf.Tensor:
    pairs = tf.reduce_sum(_products_of_pairs(inputs.embedded), axis=1, keepdims=True)
    # All targets share the embeddings, so each scales the sum of the products.
    scaled = tf.keras.layers.Dense(
        len(inputs.data.targets), use_bias=False, kernel_initializer="ones"
    )(pairs)
    return inputs.outputs(inputs.dense(inputs.flat)) + inputs.linear() + scaled


def _dlrm(inputs: _Inputs) -> tf.Tensor:
    embedded, bottom = inputs.embedded, None
    if inputs.numbers is not None:
        bottom = tf.keras.layers.Dense(inputs.options.hidden, activation="relu")(inputs.numbers)
        bottom = tf.keras.layers.Dense(inputs.options.field_dim, activation="relu")(bottom)
        embedded = tf.concat([embedded, bottom[:, None]], axis=1)
    return inputs.outputs(inputs.dense(_joined(_products_of_pairs(embedded), bottom)))


def _final_mlp(inputs: _Inputs) -> tf.Tensor:
    x, streams = inputs.flat, []
    for is_ad in (False, True):
        gate = tf.keras.layers.Dense(inputs.options.hidden // 2, activation="relu")(
            inputs.side_embeddings(is_ad)
        )
        gate = tf.keras.layers.Dense(x.shape[-1], activation="sigmoid")(gate)
        streams.append(inputs.dense(2.0 * gate * x))
    fused = BilinearFusion(len(inputs.data.targets), _FUSION_HEADS)(streams)
    return inputs.outputs(_joined(*streams)) + fused


class ActivationUnit(tf.keras.layers.Layer):
    """Sums the ads of a history with weights that depend on the candidate and may not sum to 1.

    Args:
        table: Embeds ads.
        ad_features: [V, Wa] ad-side ids of the history's values.
    """

    def __init__(self, table: Fields, ad_features: np.ndarray) -> None:
        super().__init__()
        self._table, self._ad_features = table, ad_features
        self._hidden = tf.keras.layers.Dense(_ACTIVATION_UNITS, activation="relu")
        self._weight = tf.keras.layers.Dense(1)

    def call(self, ids: tf.Tensor, ads: tf.Tensor) -> tf.Tensor:
        """Maps values [B, L] and candidates [B, Wa] to [B, Wa E]."""
        values = self._table.embed_ads(tf.gather(self._ad_features, ids))  # [B, L, Wa E]
        candidate = tf.broadcast_to(self._table.embed_ads(ads)[:, None], tf.shape(values))
        features = tf.concat([values, candidate, values - candidate, values * candidate], axis=-1)
        weights = tf.where(ids[..., None] > 0, self._weight(self._hidden(features)), 0.0)
        return tf.reduce_sum(weights * values, axis=1)


def _din(inputs: _Inputs) -> tf.Tensor:
    x, fields = inputs.flat, inputs.data.fields
    for field in fields:
        if field.name in inputs.data.histories:
            ads = tf.concat([inputs.ids[:, f.columns] for f in fields if f.is_ad], axis=1)
            unit = ActivationUnit(inputs.table, inputs.data.histories[field.name])
            x = _joined(x, unit(inputs.ids[:, field.columns], ads))
    return inputs.outputs(inputs.dense(x))


_NETWORKS: dict[str, Callable[[_Inputs], tf.Tensor]] = {
    "dnn": lambda inputs: inputs.outputs(inputs.dense(inputs.flat)),
    "dcn_v2": _dcn_v2,
    "deepfm": _deepfm,
    "fwfm": lambda inputs: inputs.outputs(_products_of_pairs(inputs.embedded)) + inputs.linear(),
    "dlrm": _dlrm,
    "final_mlp": _final_mlp,
    "din": _din,
}
KINDS = tuple(_NETWORKS)


def build(data: peer_data.PeerData, options: NetworkOptions) -> tf.keras.Model:
    """Builds a network that maps ids [B, W] int32 to outputs [B, T]."""
    ids = tf.keras.Input([data.train.ids.shape[1]], dtype=tf.int32)
    table = Fields(data.fields, options.field_dim, options.embedding_l2 / len(data.train))
    numbers = None
    if any(field.kind == "numeric" for field in data.fields):
        numbers = Ranks(data.fields)(ids)
    inputs = _Inputs(data, options, ids, table, table(ids), numbers)
    return tf.keras.Model(ids, _NETWORKS[options.kind](inputs))


def _joined(x: tf.Tensor, extra: tf.Tensor | None) -> tf.Tensor:
    return x if extra is None else tf.keras.layers.Concatenate()([x, extra])


def _products_of_pairs(embedded: tf.Tensor) -> tf.Tensor:
    """Returns the inner products [B, P] of all pairs of fields [B, F, E]."""
    rows, columns = np.triu_indices(embedded.shape[1], k=1)
    products = tf.matmul(embedded, embedded, transpose_b=True)  # [B, F, F]
    flat = tf.reshape(products, [-1, embedded.shape[1] ** 2])
    return tf.gather(flat, rows * embedded.shape[1] + columns, axis=1)
