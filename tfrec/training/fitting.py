"""Trains a stage by `compile` and `fit` with the callbacks of both stages.

The run is backed up at the end of each epoch, and every `_STEPS_PER_BACKUP` steps. Backups hold the
weights, the optimizers, the step and the state of the random generators; the data of a step depend
only on the seed, the epoch and the number of the step in it. So a killed run ends with the weights
of an uninterrupted one. The epoch with the best validation result is kept: click models with id
embeddings overfit early (the one-epoch effect; `shrinkage` makes it later).

DIRECTORY/checkpoints/   the latest backup
DIRECTORY/best/          weights of the best epoch
DIRECTORY/history.json   logs of the epochs
DIRECTORY/finished       exists once the training has ended
DIRECTORY/tensorboard/   curves

References:
    Zhang et al., Toward Understanding the Overfitting Phenomenon of Deep Click-Through
    Rate Prediction Models, 2022.
"""

import dataclasses
import json
import math
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfrec.training import callbacks, optimizers, stage_model, validation_summaries, workers
from tfrecords import files, reader, terminal

_MIN_BATCH_SIZE = 64
# Minimum number of steps without improvement before stopping: on a small log a better epoch may
# follow several worse ones, and they cost seconds.
_MIN_STEPS_OF_PATIENCE = 100
_STEPS_PER_BACKUP = 1_000
_FINISHED = "finished"


@dataclasses.dataclass(frozen=True)
class Plan:
    """The plan of a training.

    Attributes:
        epochs: Maximum number of epochs over the data.
        patience: Epochs without improvement before stopping.
        learning_rate: Peak rate of the dense layers.
        embedding_learning_rate: Peak rate of the sparse variables.
        steps_per_epoch: Number of batches in an epoch.
        examples_per_epoch: Number of examples in an epoch.
        metric: Name of the validation metric that picks the best epoch.
        maximize: Whether a larger metric is better.
        average_decay: Decay per step of the running average of the dense weights, which is
            validated and kept; 0: the weights are not averaged.
        initial_accumulator: Initial accumulator of the sparse variables' Adagrad.
        stop_after: Number of epochs that are trained without validation; None: up to `epochs`.
    """

    epochs: int
    patience: int
    learning_rate: float
    embedding_learning_rate: float
    steps_per_epoch: int
    examples_per_epoch: float
    metric: str
    maximize: bool
    average_decay: float = 0.0
    initial_accumulator: float = 0.1
    stop_after: int | None = None

    @property
    def num_epochs(self) -> int:
        """Maximum number of epochs that are trained."""
        return self.stop_after or self.epochs


def batch_size(max_size: int, examples: float, min_batches: int) -> int:
    """Returns the batch size: below the maximum on a small log, so that epochs have enough steps.

    Args:
        max_size: Maximum batch size.
        examples: Number of examples in an epoch.
        min_batches: Minimum number of batches in an epoch, unless they were smaller than 64.
    """
    return min(max_size, max(round(examples / min_batches), _MIN_BATCH_SIZE))


def patience(min_epochs: int, steps_per_epoch: int) -> int:
    """Returns the epochs without improvement before stopping: above the minimum on a small log.

    Args:
        min_epochs: Minimum number of epochs.
        steps_per_epoch: Number of batches in an epoch.
    """
    return max(min_epochs, math.ceil(_MIN_STEPS_OF_PATIENCE / steps_per_epoch))


def check_clicks(data_set: reader.DataSet) -> None:
    """Checks that the training split has clicks.

    Raises:
        ValueError: The training split has no clicks.
    """
    if not data_set.label_sum("train", "click"):
        raise ValueError(
            f"The train split of {data_set.directory} has no clicks (column "
            f"{data_set.schema.click!r}); expected at least one. Check the column, use a larger "
            "log, or convert with other fractions."
        )


def fit(
    model: stage_model.StageModel,
    read: Callable[[reader.Seed], tf.data.Dataset],
    validate: Callable[[], dict[str, float]],
    plan: Plan,
    directory: pathlib.Path,
    *,
    progress: bool = False,
    options: Mapping[str, Any] | None = None,
    extra_callbacks: Sequence[tf.keras.callbacks.Callback] = (),
) -> list[dict[str, float]]:
    """Trains until the plan ends or validation stops improving, then restores the best epoch.

    With several workers, all of them call it, and all validate; the chief's metrics decide.

    Args:
        model: The model, with built weights, made in the scope of its strategy.
        read: Maps the number of an epoch, from 0, to its batches.
        validate: Returns validation metrics of the current model, including `plan.metric`.
        plan: Number of epochs, steps per epoch, patience, and the metric of the best epoch.
        directory: Directory of the run; training resumes from its files.
        progress: Whether to show progress bars, and a line for each epoch.
        options: The run's hyperparameters for TensorBoard.
        extra_callbacks: Callbacks that see the metrics of `validate` and, at the end of an epoch,
            the weights that are validated. A change of the tables counts from the next epoch on.

    Returns:
        The logs of each epoch, with its number `epoch` from 1.

    Raises:
        FloatingPointError: The loss or a validation metric is not finite.
        ValueError: The model's `compile` sets another optimizer.
    """
    strategy = model.distribute_strategy
    workers.check_shared(strategy, directory)
    is_chief = workers.is_chief(strategy)
    before = _progress(directory, plan) if is_chief else None
    history, first = workers.chief_value(strategy, before)
    if first is not None:
        with (
            strategy.scope(),
            workers.directory_to_write(strategy, directory) as output,
            tf.summary.create_file_writer(str(output / "tensorboard")).as_default(step=0),
        ):
            optimizer = optimizers.dense_and_sparse(
                model,
                plan.learning_rate,
                plan.embedding_learning_rate,
                plan.epochs * plan.steps_per_epoch,
                plan.average_decay,
                plan.initial_accumulator,
            )
            model.compile(optimizer)
            if model.optimizer is not optimizer:
                raise ValueError(
                    f"{type(model).__name__}.compile sets the optimizer "
                    f"{type(model.optimizer).__name__}; expected the one that it is given. Pass it "
                    "on; or train with your own optimizer by calling compile and fit yourself."
                )
            if options is not None and not first:
                validation_summaries.write_options(options)
            examples_per_step = plan.examples_per_epoch / plan.steps_per_epoch
            average = callbacks.SwapEMAWeights()
            best = {"monitor": plan.metric, "mode": "max" if plan.maximize else "min"}
            threshold = history[best_epoch(history, plan)][plan.metric] if history else None
            validated = plan.metric if plan.stop_after is None else None
            batches = stream_epochs(read, plan.steps_per_epoch, plan.num_epochs, first)
            model.fit(
                workers.shared_out(strategy, batches),
                epochs=plan.num_epochs,
                steps_per_epoch=plan.steps_per_epoch,
                verbose=0,
                callbacks=[
                    average,
                    callbacks.Validation(
                        lambda: workers.chief_value(strategy, validate()), examples_per_step
                    ),
                    tf.keras.callbacks.ModelCheckpoint(
                        str(output / "best" / "weights"),
                        save_best_only=True,
                        save_weights_only=True,
                        initial_value_threshold=threshold,
                        **best,
                    ),
                    callbacks.EarlyStopping(history, patience=plan.patience, **best),
                    callbacks.Summaries(),
                    *([callbacks.Progress(validated)] if progress else []),
                    *extra_callbacks,
                    callbacks.HistoryFile(output / "history.json", history),
                    tf.keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: average.swap()),
                    # Keras has the other workers write to a directory that is deleted.
                    callbacks.BackupAndRestore(
                        str(directory / "checkpoints"),
                        save_freq=_STEPS_PER_BACKUP,
                        delete_checkpoint=False,
                    ),
                ],
            )
        if is_chief:  # A callback may have ended it, which the history does not show.
            (directory / _FINISHED).touch()
        if progress and validated:
            kept = history[best_epoch(history, plan)]
            terminal.print_above_bars(
                f"  epoch {kept['epoch']:g} is kept: {validated} {kept[validated]:.4f}"
            )
    workers.gathered(strategy, "written")
    restore_best(model, directory)
    return history


def _progress(directory: pathlib.Path, plan: Plan) -> tuple[list[dict[str, float]], int | None]:
    """Returns the logs of the epochs of an earlier run, and the number of steps in its backup.

    The number is None if the training has ended.
    """
    path, backups = directory / "history.json", directory / "checkpoints"
    history = json.loads(path.read_text()) if path.is_file() else []
    if (directory / _FINISHED).is_file() or _is_finished(history, plan):
        return history, None
    first = _first_step(backups, plan.steps_per_epoch)
    # An epoch is written before it is backed up.
    if first // plan.steps_per_epoch > len(history):
        shutil.rmtree(backups, ignore_errors=True)
        first = 0
    return history[: first // plan.steps_per_epoch], first


def stream_epochs(
    read: Callable[[reader.Seed], tf.data.Dataset],
    steps_per_epoch: int,
    epochs: int,
    first_step: int = 0,
) -> tf.data.Dataset:
    """Streams the batches of all epochs, each of exactly `steps_per_epoch`, for `Model.fit`.

    Args:
        read: Maps the number of an epoch, from 0, to its batches.
        steps_per_epoch: Number of batches in an epoch.
        epochs: Number of epochs.
        first_step: Number of batches, over all epochs, that were trained on before.
    """
    first_epoch, skipped = divmod(first_step, steps_per_epoch)
    numbers = reader.without_tuning(tf.data.Dataset.range(first_epoch, epochs))
    batches = numbers.flat_map(
        # Sampling and the cut into batches leave some epochs a few batches short.
        tf.autograph.experimental.do_not_convert(
            lambda number: read(number).repeat().take(steps_per_epoch)
        )
    )
    return batches.skip(skipped).prefetch(tf.data.AUTOTUNE)


def _first_step(backups: pathlib.Path, steps_per_epoch: int) -> int:
    """Returns the number of steps, over all epochs, that the latest backup holds."""
    path = tf.train.latest_checkpoint(str(backups / "chief"))
    if path is None:
        return 0
    epoch, batch = (
        int(tf.train.load_variable(path, f"ckpt_saved_{name}/.ATTRIBUTES/VARIABLE_VALUE"))
        for name in ("epoch", "batch")
    )
    return epoch * steps_per_epoch + batch + 1


def _is_finished(history: Sequence[Mapping[str, float]], plan: Plan) -> bool:
    if not history:
        return False
    stale = len(history) - 1 - best_epoch(history, plan)
    return len(history) >= plan.num_epochs or stale >= plan.patience


def best_epoch(history: Sequence[Mapping[str, float]], plan: Plan) -> int:
    """Returns the index of the best epoch, from 0, by the metric of the plan."""
    values = [entry[plan.metric] for entry in history]
    return values.index(max(values) if plan.maximize else min(values))


def restore_best(
    model: tf.keras.Model, directory: pathlib.Path, workdir: pathlib.Path | None = None
) -> None:
    """Restores the best epoch that `fit` kept in a directory.

    Args:
        model: A model of the same sizes, with built weights.
        directory: Directory of its training.
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
        status = model.load_weights(path)
        status.assert_existing_objects_matched()
        status.expect_partial()  # The optimizers are not needed,
        model._deferred_dependencies.pop("optimizer", None)  # not even by a later `compile`.
    except (AssertionError, ValueError) as error:  # ValueError: a weight has another shape
        raise ValueError(
            f"The checkpoint {path} lacks weights of the model; expected a checkpoint of this "
            f"version and these sizes. {remedy}"
        ) from error
    except (tf.errors.OpError, OSError, LookupError) as error:  # LookupError: the file is truncated
        raise ValueError(f"The checkpoint {path} cannot be read ({error}). {remedy}") from error


def write_description(
    path: pathlib.Path, data_set: reader.DataSet, source: str | None, description: dict[str, Any]
) -> None:
    """Writes the description of a trained model; its presence marks the end of training.

    The source is from `plugins.Registry.digest`.
    """
    stamped = {"fingerprint": data_set.fingerprint, "source": source, **description}
    files.write_json(path, stamped)


def check_source(path: pathlib.Path, description: Mapping[str, Any], source: str | None) -> None:
    """Checks that a model has the source, from `plugins.Registry.digest`, that it was trained with.

    Raises:
        ValueError: The source has changed.
    """
    if description["source"] != source:
        raise ValueError(
            f"{path}: the source of the model, or of a file that it imports, has changed since it "
            "was trained, so its weights may not fit it. Restore the source, or train it again."
        )


def read_description(path: pathlib.Path, data_set: reader.DataSet, script: str) -> dict[str, Any]:
    """Reads what `write_description` wrote of a model; the message names the script that trains it.

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
            f"{data_set.fingerprint} of {data_set.directory}. Train it again."
        )
    return description
