"""Trains the peers that are networks, with Adam and early stopping on the validation log loss.

The model is evaluated several times per epoch and the best evaluation is kept, because models with
id embeddings are best after one or two epochs.

Shapes: L rows of a split.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np
import tensorflow as tf
from peers import networks, peer_data

from serving import cli  # noqa: F401  (imported first: it selects Keras 2 and quiets TensorFlow)

_ROWS_AT_ONCE = 8_192
_MIN_BATCHES = 80
_METRIC = "log_loss"


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    """Training options of a network.

    Attributes:
        sizes: Sizes and regularization of the network.
        learning_rate: Learning rate of Adam.
        batch_size: Maximum batch size; reduced for small splits to get at least 80 batches.
        epochs: Maximum number of epochs.
        checks: Number of evaluations per epoch.
        patience: Number of evaluations without improvement before the learning rate is reduced;
            training stops after twice as many.
    """

    sizes: networks.Sizes
    learning_rate: float = 1e-3
    batch_size: int = 4_096
    epochs: int = 15
    checks: int = 4
    patience: int = 4


def train(
    kind: str, data: peer_data.PeerData, options: NetworkOptions, seed: int
) -> tuple[tf.keras.Model, dict[str, Any]]:
    """Trains a network.

    Returns:
        The network at its best evaluation; and its `validation_log_loss` and number of `passes` at
        that point.
    """
    tf.keras.utils.set_random_seed(seed)
    model = networks.build(kind, data, options.sizes)
    loss = tf.keras.losses.BinaryCrossentropy(from_logits=True)
    own = tf.keras.metrics.BinaryCrossentropy(from_logits=True, name=_METRIC)  # no penalties
    model.compile(tf.keras.optimizers.Adam(options.learning_rate), loss, metrics=[own])
    batch_size = min(options.batch_size, max(1, len(data.train) // _MIN_BATCHES))
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
    return model, {"validation_log_loss": history[best], "passes": round(passes, 2)}


def predict(model: tf.keras.Model, rows: peer_data.PeerRows) -> np.ndarray:
    """Returns the click logits [L] float64."""
    return model.predict(rows.ids, batch_size=_ROWS_AT_ONCE, verbose=0)[:, 0].astype(np.float64)


def grid(options: NetworkOptions, values: dict[str, tuple[Any, ...]]) -> list[NetworkOptions]:
    """Returns options with every combination of values, by name of an option or a size."""
    result = []
    for chosen in itertools.product(*values.values()):
        named = dict(zip(values, chosen, strict=True))
        of_sizes = {k: v for k, v in named.items() if hasattr(options.sizes, k)}
        own = {k: v for k, v in named.items() if k not in of_sizes}
        sizes = dataclasses.replace(options.sizes, **of_sizes)
        result.append(dataclasses.replace(options, sizes=sizes, **own))
    return result


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
