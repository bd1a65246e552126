"""The training loop of both stages: passes, checkpoints, TensorBoard.

Each pass over the data is checkpointed: a killed run resumes after its last complete pass.
The pass with the best validation result is kept (click models with id embeddings overfit
early: the one-epoch effect).

References:
    Zhang et al., Towards Understanding the Overfitting Phenomenon of Deep Click-Through
    Rate Prediction Models, 2022.
"""

import dataclasses
import json
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfrec.training import optimization, summaries, validation_summaries
from tfrecords import files, reader, terminal

# Minimum number of batches in a pass, and minimum batch size, which takes precedence.
_MIN_BATCHES, _MIN_BATCH_SIZE = 20, 64
# Minimum number of steps without improvement before stopping: on a small log a better pass may
# follow several worse ones, and they cost seconds.
_MIN_STEPS_OF_PATIENCE = 100


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a model is trained.

    Attributes:
        epochs: Maximum number of passes over the data.
        patience: Passes without improvement before stopping.
        learning_rate: Peak rate of the dense layers.
        embedding_learning_rate: Peak rate of the sparse variables.
        steps_per_epoch: Approximate number of batches in a pass.
        metric: Name of the validation metric that picks the best pass.
        maximize: Whether a larger metric is better.
        average_decay: Decay per step of the running average of the dense weights, which is
            validated and kept; 0: the weights themselves are.
        initial_accumulator: Initial accumulator of the sparse variables' Adagrad.
        stop_after: Number of passes after which training ends; None: `epochs`.
    """

    epochs: int
    patience: int
    learning_rate: float
    embedding_learning_rate: float
    steps_per_epoch: int
    metric: str
    maximize: bool
    average_decay: float = 0.0
    initial_accumulator: float = 0.1
    stop_after: int | None = None


def batch_size(max_size: int, examples: float) -> int:
    """Returns the batch size: below the maximum on a small log, so that passes have enough steps.

    Args:
        max_size: Maximum batch size.
        examples: Number of examples in a pass.
    """
    return min(max_size, max(round(examples / _MIN_BATCHES), _MIN_BATCH_SIZE))


def patience(min_passes: int, steps_per_epoch: int) -> int:
    """Returns the passes without improvement before stopping: above the minimum on a small log.

    Args:
        min_passes: Minimum number of passes.
        steps_per_epoch: Number of batches in a pass.
    """
    return max(min_passes, math.ceil(_MIN_STEPS_OF_PATIENCE / steps_per_epoch))


def check_clicks(data_set: reader.DataSet, split: str) -> None:
    """Checks that a split has clicks.

    Raises:
        ValueError: The split has no clicks.
    """
    if not data_set.label_sum(split, "click"):
        raise ValueError(
            f"The {split} split of {data_set.directory} has no clicks (column "
            f"{data_set.schema.click!r}); expected at least one. Check the column, use a larger "
            "log, or convert with other fractions."
        )


class Trainer:
    """Trains one model.

    Args:
        model: A model with `sparse_variables` and built weights.
        losses: Maps a batch to losses; `loss` is minimized, the others are reported.
        plan: The schedule.
        directory: Directory of checkpoints and TensorBoard logs.
        observe: Maps a batch to additional scalars for TensorBoard; called after every
            `summaries.STEPS_PER_SAMPLE`th step.
    """

    def __init__(
        self,
        model: tf.keras.Model,
        losses: Callable[[reader.Batch], optimization.Losses],
        plan: Plan,
        directory: pathlib.Path,
        observe: Callable[[reader.Batch], dict[str, tf.Tensor]] | None = None,
    ) -> None:
        self._model, self._plan = model, plan
        self._directory, self._observe = directory, observe
        self._step = optimization.TrainingStep(
            model,
            losses,
            plan.learning_rate,
            plan.embedding_learning_rate,
            plan.epochs * plan.steps_per_epoch,
            plan.average_decay,
            plan.initial_accumulator,
        )
        self._epoch = tf.Variable(0, dtype=tf.int64)
        self._checkpoints = tf.train.CheckpointManager(
            tf.train.Checkpoint(
                model=model,
                dense_optimizer=self._step.dense_optimizer,
                sparse_optimizer=self._step.sparse_optimizer,
                averages=self._step.averages,
                epoch=self._epoch,
            ),
            str(directory / "checkpoints"),
            max_to_keep=1,
        )
        self._best = tf.train.CheckpointManager(
            tf.train.Checkpoint(model=model), str(directory / "best"), max_to_keep=1
        )
        self._history_path = directory / "history.json"

    def fit(
        self,
        batches: Callable[[int], tf.data.Dataset],
        evaluate: Callable[[], dict[str, float]],
        progress: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> list[dict[str, float]]:
        """Trains until the plan ends or validation stops improving, then restores the best pass.

        Args:
            batches: Maps the number of a pass to its batches.
            evaluate: Returns validation metrics of the current model, including `plan.metric`.
            progress: Whether to show progress bars.
            options: The run's hyperparameters for TensorBoard.

        Returns:
            The metrics of each pass.

        Raises:
            FloatingPointError: The loss is not finite.
        """
        history = self._resume()
        writer = tf.summary.create_file_writer(str(self._directory / "tensorboard"))
        if options is not None and not history:
            with writer.as_default(step=0):
                validation_summaries.write_options(options)
        while not self._finished(history):
            epoch = int(self._epoch.numpy())
            with writer.as_default():
                metrics = self._run_epoch(batches(epoch), epoch, progress)
                # The step of what `evaluate` writes for TensorBoard.
                tf.summary.experimental.set_step(epoch + 1)
                with self._step.averaged():
                    metrics.update(evaluate())
                    history.append({"epoch": epoch + 1, **metrics})
                    if best_epoch(history, self._plan) == epoch:
                        self._best.save()
                summaries.write_scalars({f"epoch/{k}": v for k, v in metrics.items()}, epoch + 1)
                summaries.write_histograms(self._model, epoch + 1)
            writer.flush()
            self._write_history(history)
            self._epoch.assign_add(1)
            # Written last: it marks the pass as done; a longer history is cut to it.
            self._checkpoints.save()
            if progress:
                shown = ", ".join(f"{k} {v:.4f}" for k, v in metrics.items() if k != "loss")
                terminal.print_above_bars(f"  pass {epoch + 1}: {shown}")
        restore_best(self._model, self._directory)
        return history

    def _resume(self) -> list[dict[str, float]]:
        if not self._checkpoints.latest_checkpoint or not self._history_path.is_file():
            return []
        self._checkpoints.restore_or_initialize()
        return json.loads(self._history_path.read_text())[: int(self._epoch.numpy())]

    def _write_history(self, history: list[dict[str, float]]) -> None:
        files.write_json(self._history_path, history)

    def _finished(self, history: list[dict[str, float]]) -> bool:
        if not history:
            return False
        stale = len(history) - 1 - best_epoch(history, self._plan)
        passes = self._plan.stop_after or self._plan.epochs
        return len(history) >= passes or stale >= self._plan.patience

    def _run_epoch(self, dataset: tf.data.Dataset, epoch: int, progress: bool) -> dict[str, float]:
        step, first = self._step.compiled(dataset.element_spec), self._step.done
        totals: dict[str, tf.Tensor] = {}
        examples, count = tf.zeros([], tf.int64), 0
        meter = summaries.Meter()
        title = f"pass {epoch + 1}/{self._plan.epochs}"
        bar = terminal.with_progress(dataset, title, "steps", self._plan.steps_per_epoch, progress)
        started = time.perf_counter()
        for count, batch in enumerate(bar, start=1):
            sampled = (first + count) % summaries.STEPS_PER_SAMPLE == 0
            losses, norms = step(batch, sampled)
            if first + count == 1:
                validation_summaries.write_graph(step)
            totals = {name: totals.get(name, 0.0) + value for name, value in losses.items()}
            examples += num_examples(batch)
            if sampled:
                bar.set_postfix(loss=f"{float(totals['loss']) / count:.4f}")
                self._write_sample(batch, losses, {**norms, **meter.read(int(examples))})
        means = {name: float(value) / max(count, 1) for name, value in totals.items()}
        if not math.isfinite(means.get("loss", math.nan)):
            raise FloatingPointError(
                f"The training loss of pass {epoch + 1} is {means.get('loss')}; expected a finite "
                "number. Lower the learning rates, or check the data for a split without rows."
            )
        return {**means, "examples_per_second": int(examples) / (time.perf_counter() - started)}

    def _write_sample(
        self, batch: reader.Batch, losses: optimization.Losses, measured: dict[str, tf.Tensor]
    ) -> None:
        """Writes the scalars of one step."""
        scalars = {f"train/{name}": value for name, value in losses.items()}
        observed = {} if self._observe is None else self._observe(batch)
        scalars = {**scalars, **self._step.learning_rates, **measured, **observed}
        summaries.write_scalars(scalars, self._step.done)


def best_epoch(history: Sequence[dict[str, float]], plan: Plan) -> int:
    """Returns the index of the best pass."""
    values = [entry[plan.metric] for entry in history]
    return values.index(max(values) if plan.maximize else min(values))


def num_examples(batch: reader.Batch) -> tf.Tensor:
    """Counts the examples of a batch: its ads without padding."""
    rows = batch.get("mask", tf.ones_like(batch["ad_row"], tf.bool))
    return tf.math.count_nonzero(rows)


def restore_best(
    model: tf.keras.Model, directory: pathlib.Path, workdir: pathlib.Path | None = None
) -> None:
    """Restores the best pass that `Trainer.fit` kept in a directory.

    Args:
        model: The model.
        directory: Where it was trained.
        workdir: Directory to delete before training again, for messages; None: `directory`.

    Raises:
        FileNotFoundError: The directory has no checkpoint.
        ValueError: The checkpoint cannot be read.
    """
    path = tf.train.latest_checkpoint(str(directory / "best"))
    remedy = f"Delete {workdir or directory}, and train the model again."
    if path is None:
        raise FileNotFoundError(f"No checkpoint in {directory / 'best'}. {remedy}")
    try:
        tf.train.Checkpoint(model=model).restore(path).expect_partial()
    except (tf.errors.OpError, OSError, LookupError) as error:  # LookupError: the file is truncated
        raise ValueError(f"The checkpoint {path} cannot be read ({error}). {remedy}") from error


def write_description(
    path: pathlib.Path, data_set: reader.DataSet, description: dict[str, Any]
) -> None:
    """Writes the description of a trained model; its presence marks the end of training."""
    stamped = {"fingerprint": data_set.fingerprint, **description}
    files.write_json(path, stamped)


def read_description(path: pathlib.Path, data_set: reader.DataSet, script: str) -> dict[str, Any]:
    """Reads the description of a trained model.

    Args:
        path: The file.
        data_set: The data set that the model was trained on.
        script: The command that trains it, for messages.

    Raises:
        FileNotFoundError: The model was not trained.
        ValueError: It was trained on another data set.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No trained model at {path}. Run {script} first.")
    description = json.loads(path.read_text())
    if description["fingerprint"] != data_set.fingerprint:
        raise ValueError(
            f"{path}: the model was trained on data set {description['fingerprint']}; expected "
            f"{data_set.fingerprint}, that of {data_set.directory}. Train it again."
        )
    return description
