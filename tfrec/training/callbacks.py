"""Callbacks of both stages, in addition to those in Keras.

Their order matters: `Validation` adds logs that later callbacks read, and the averaged
weights are in the model from `SwapEMAWeights` until it is swapped back.
"""

import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfrec.training import summaries
from tfrecords import files, terminal

Logs = dict[str, Any]
History = Sequence[Mapping[str, float]]
_CALLBACKS_OF_ONE_RATE = (
    tf.keras.callbacks.LearningRateScheduler,
    tf.keras.callbacks.ReduceLROnPlateau,
)


class SwapEMAWeights(tf.keras.callbacks.Callback):
    """Swaps weights and their averages (`use_ema`) after each epoch, like Keras 3's callback."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.swap()

    def swap(self) -> None:
        """Exchanges the averaged variables of the model with their averages."""
        optimizer, *_ = self.model.optimizer.optimizers
        if not optimizer.use_ema:
            return
        averages = optimizer._model_variables_moving_average
        for variable, average in zip(self.model.dense_variables, averages, strict=True):
            value = variable.numpy()
            variable.assign(average)
            average.assign(value)


class Validation(tf.keras.callbacks.Callback):
    """Adds validation metrics and the training speed to the logs of an epoch."""

    def __init__(self, measure: Callable[[], dict[str, float]], examples_per_step: float) -> None:
        super().__init__()
        self._measure, self._examples_per_step = measure, examples_per_step
        self._supports_tf_logs = True

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._steps, self._started = 0, time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._steps += 1

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Measures the model.

        Raises:
            FloatingPointError: The loss or a validation metric is not finite.
        """
        assert logs is not None
        if not math.isfinite(logs["loss"]):
            raise FloatingPointError(
                f"The training loss of epoch {epoch + 1} is {logs['loss']}; expected a finite "
                "number. Lower the learning rates, or check the data for a split without rows."
            )
        seconds = time.perf_counter() - self._started
        logs["examples_per_second"] = self._steps * self._examples_per_step / seconds
        # The step of the scalars that `measure` writes for TensorBoard.
        tf.summary.experimental.set_step(epoch + 1)
        measured = self._measure()
        for name, value in measured.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"The {name} of epoch {epoch + 1} is {value}; expected a finite number. Lower "
                    "the learning rates, or look for a division by 0 or a log of 0 in the model."
                )
        logs.update(measured)


class EarlyStopping(tf.keras.callbacks.EarlyStopping):
    """Keras `EarlyStopping` that also counts the epochs before an interruption.

    Args:
        history: Logs of the epochs before this run.
        **options: See `tf.keras.callbacks.EarlyStopping`.
    """

    def __init__(self, history: History, **options: Any) -> None:
        super().__init__(**options)
        self._history = list(history)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        for epoch, entry in enumerate(self._history):
            self.on_epoch_end(epoch, entry)


class HistoryFile(tf.keras.callbacks.Callback):
    """Writes the logs of all epochs so far as JSON."""

    def __init__(self, path: pathlib.Path, history: list[dict[str, float]]) -> None:
        super().__init__()
        self._path, self._history = path, history

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        values = {}
        for name, value in (logs or {}).items():
            try:
                values[name] = float(value)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"logs[{name!r}]: expected a number at the end of an epoch, got {value!r}. A "
                    "callback must not add anything else."
                ) from error
        self._history.append({"epoch": epoch + 1, **values})
        files.write_json(self._path, self._history)


class BackupAndRestore(tf.keras.callbacks.BackupAndRestore):
    """Keras `BackupAndRestore` that saves at the end of each epoch and every `save_freq` steps.

    It does not save after the last step of an epoch, which is not validated yet.
    """

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if batch + 1 < self.params["steps"]:
            super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._backup(epoch)


class Progress(tf.keras.callbacks.Callback):
    """Shows a bar for each epoch, and a line with its training loss and one validation metric."""

    def __init__(self, metric: str | None) -> None:
        super().__init__()
        self._metric = metric
        self._supports_tf_logs = True

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        title = f"epoch {epoch + 1}/{self.params['epochs']}"
        self._bar = terminal.progress_bar(title, "steps", self.params["steps"])

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._bar.update(1)
        if logs and (batch + 1) % summaries.STEPS_PER_SAMPLE == 0:
            self._bar.set_postfix(loss=f"{float(logs['loss']):.4f}")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._bar.close()
        names = ["loss", *([self._metric] if self._metric else [])]
        shown = ", ".join(f"{name} {float((logs or {})[name]):.4f}" for name in names)
        terminal.print_above_bars(f"  epoch {epoch + 1}/{self.params['epochs']}: {shown}")


class Summaries(tf.keras.callbacks.Callback):
    """Writes curves of a run to the default summary writer, some in every 20th step."""

    def __init__(self) -> None:
        super().__init__()
        self._supports_tf_logs = True

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._first_step = epoch * self.params["steps"]
        self._steps, self._sampled = 0, 0
        self._totals: dict[str, float] = {}

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._steps += 1
        step = self._first_step + batch + 1
        if step % summaries.STEPS_PER_SAMPLE:
            return
        # The logs are means over the epoch so far.
        totals = {name: float(value) * self._steps for name, value in (logs or {}).items()}
        count = self._steps - self._sampled
        recent = {
            f"batch/{name}": (total - self._totals.get(name, 0.0)) / count
            for name, total in totals.items()
        }
        self._totals, self._sampled = totals, self._steps
        dense, sparse = self.model.optimizer.optimizers
        scalars = {
            **recent,
            "learning_rate/dense": dense.learning_rate.read_value(),
            "learning_rate/sparse": sparse.learning_rate.read_value(),
            **self.model.gradient_norms.read(),
        }
        summaries.write_scalars(scalars, step)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        scalars = {f"epoch/{name}": value for name, value in (logs or {}).items()}
        speed = scalars.pop("epoch/examples_per_second", None)
        if speed is not None:
            scalars["speed/examples_per_second_of_epoch"] = speed
        summaries.write_scalars(scalars, epoch + 1)
        summaries.write_histograms(self.model, epoch + 1)
        function = self.model.train_tf_function  # None if functions run eagerly.
        if not epoch and function is not None:
            tf.summary.graph(function._concrete_variable_creation_fn.graph)
        tf.summary.flush()


def check_callbacks(given: Sequence[tf.keras.callbacks.Callback]) -> None:
    """Checks the callbacks that a user passes.

    Raises:
        ValueError: `given` is not a list of Keras callbacks; or a callback sets the learning rate,
            saves whole models or weights in a format that cannot hold them, or takes backups.
    """
    kind = tf.keras.callbacks.Callback
    if not isinstance(given, list | tuple) or not all(isinstance(item, kind) for item in given):
        raise ValueError(
            f"callbacks: expected a list of tf.keras.callbacks.Callback objects, got {given!r}."
        )
    for callback in given:
        if isinstance(callback, _CALLBACKS_OF_ONE_RATE):
            raise ValueError(
                f"callbacks: {type(callback).__name__} sets one learning rate; expected none that "
                "does, because two optimizers have their own schedules. Leave it out, and set "
                "learning_rate and embedding_learning_rate in RankerConfig and RetrievalConfig."
            )
        if (
            isinstance(callback, tf.keras.callbacks.ModelCheckpoint)
            and not callback.save_weights_only
        ):
            raise ValueError(
                "callbacks: ModelCheckpoint saves the whole model, which Keras cannot save; "
                "expected weights alone. Set save_weights_only=True."
            )
        if isinstance(callback, tf.keras.callbacks.ModelCheckpoint):
            path = pathlib.Path(callback.filepath)
            if path.suffix in (".h5", ".hdf5", ".keras") and not path.match("*.weights.h5"):
                raise ValueError(
                    f"callbacks: ModelCheckpoint writes {path}; expected a path that ends in "
                    ".weights.h5, or has no suffix, because Keras cannot write these weights in "
                    "the older format. Rename it."
                )
        if isinstance(callback, tf.keras.callbacks.BackupAndRestore):
            raise ValueError(
                "callbacks: BackupAndRestore takes backups; expected none that does, because the "
                "training takes its own, and resumes from them. Leave it out."
            )
