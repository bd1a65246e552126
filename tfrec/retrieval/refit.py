"""Retrains the two-tower model on the training and the validation clicks together.

The first training chooses the number of epochs, and the temperature after each epoch, by the
validation clicks. Then the model can learn from these clicks, too; if the log is split by time,
they are the newest. The refit trains for the same number of epochs with the same schedule on more
clicks, and measures nothing.

WORKDIR/refit   checkpoints, best/ (the last epoch), tensorboard/, as in any training
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tfrec import training
from tfrec.retrieval import retrieval_model
from tfrecords import reader, terminal

REFIT_SPLITS = ("train", "validation")
REFIT_DIRECTORY = "refit"
_METRIC = "epoch_of_refit"


def with_validation_clicks(data_set: reader.DataSet, catalog: reader.Catalog) -> reader.Catalog:
    """Returns the catalog with the validation clicks added to its counts."""
    clicks = catalog.clicks.copy()
    for batch in data_set.clicked("validation", 65_536):
        clicks += np.bincount(batch["ad_row"].numpy(), minlength=len(clicks))
    column = catalog.table.schema.get_field_index(reader.CLICKS)
    table = catalog.table.set_column(column, reader.CLICKS, [clicks])
    return dataclasses.replace(catalog, table=table)


def order_of_ties(num_ads: int) -> np.ndarray:
    """Returns the rows of the ads in one random order, in which equal scores are listed.

    Catalog order would prefer ads that have been shown for longer.
    """
    return np.random.default_rng(0).permutation(num_ads)


def most_clicked(data_set: reader.DataSet, catalog: reader.Catalog, count: int) -> np.ndarray:
    """Returns the rows [at most `count`] of the ads with the most clicks in both splits.

    Ads with equal clicks are in the order of `order_of_ties`.
    """
    clicks = with_validation_clicks(data_set, catalog).clicks
    order = order_of_ties(len(clicks))
    return order[np.argsort(-clicks[order], kind="stable")[:count]]


def refit_batches(data_set: reader.DataSet, batch_size: int, seed: reader.Seed) -> tf.data.Dataset:
    """Streams the clicks of both splits, with their batches mixed."""
    parts = [data_set.clicked(split, batch_size, seed) for split in REFIT_SPLITS]
    counts = np.array([data_set.label_sum(split, "click") for split in REFIT_SPLITS])
    return tf.data.Dataset.sample_from_datasets(
        parts, (counts / counts.sum()).tolist(), seed=seed, stop_on_empty_dataset=False
    )


def refit_two_tower(
    model: retrieval_model.RetrievalModel,
    plan: training.Plan,
    history: Sequence[dict[str, float]],
    read: Callable[[reader.Seed], tf.data.Dataset],
    workdir: pathlib.Path,
    progress: bool = False,
    callbacks: Sequence[tf.keras.callbacks.Callback] = (),
) -> None:
    """Trains an untrained model for the best number of epochs; it resumes from the workdir's files.

    `plan` has the epochs of the refit, `history` the metrics and `temperature` of each epoch of the
    first training, and `read` maps the number of an epoch to its batches.
    """
    epochs = training.best_epoch(history, plan) + 1
    plan = dataclasses.replace(plan, metric=_METRIC, maximize=True, stop_after=epochs)

    def temperature() -> dict[str, float]:
        number = int(model.optimizer.iterations.read_value()) // plan.steps_per_epoch
        model.store_user_clicks()
        model.temperature.assign(history[number - 1]["temperature"])
        return {_METRIC: float(number), "temperature": float(model.temperature.read_value())}

    directory = workdir / REFIT_DIRECTORY
    if progress:
        terminal.print_above_bars(
            f"  refit on training and validation clicks, epochs: {epochs} (the best number)"
        )
    training.fit(
        model, read, temperature, plan, directory, progress=progress, extra_callbacks=callbacks
    )
