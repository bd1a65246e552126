"""Trains and restores the two-tower model of a data set.

WORKDIR/config.json           the resolved configuration
WORKDIR/checkpoints, best/    resumable state; the best pass
WORKDIR/tensorboard/          curves
WORKDIR/refit/                the same of the training on validation clicks too; see
                              `refit`
WORKDIR/retrieval.json        written last: fingerprint, validation history
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfrec import layers, training
from tfrec.config import RetrievalConfig, save_config
from tfrec.retrieval import retrieval_validation, two_tower
from tfrec.retrieval.refit import (
    REFIT_DIRECTORY,
    REFIT_SPLITS,
    refit_batches,
    refit_two_tower,
    with_validation_clicks,
)
from tfrecords import encoding, reader, records

MAX_VALIDATION_CLICKS = 5_000


@dataclasses.dataclass(frozen=True)
class Clicks:
    """Clicked pairs of a split.

    Attributes:
        query: [N, Wq] int32 encoded queries.
        ad_rows: [N] int32 catalogue rows.
        number: [N] which of the split's clicks each is, in the log's order.
        user: [N] int64 fingerprints of the users, or None where the schema has no `user_key`.
    """

    query: np.ndarray
    ad_rows: np.ndarray
    number: np.ndarray
    user: np.ndarray | None = None


def build_two_tower(
    data_set: reader.DataSet,
    config: RetrievalConfig,
    catalogue: reader.Catalogue,
    clicked_ads: layers.ClickedAds | None = None,
) -> two_tower.TwoTower:
    """Builds an untrained two-tower model, with its weights created."""
    tf.keras.utils.set_random_seed(config.seed)
    model = two_tower.TwoTower(data_set.fitted, config, catalogue, clicked_ads)
    schema = data_set.schema
    if model.query_tower.user_clicks is not None:
        nothing = tf.zeros([1], tf.int32)
        model.query_tower.user_clicks(nothing, nothing, nothing, model.embed_rows)
    model.query_tower(tf.zeros([1, encoding.width(schema.query_fields)], tf.int32))
    model.ad_tower(tf.zeros([1, encoding.width(schema.ad_fields)], tf.int32))
    model.start_alike()
    return model


def read_pairs(data_set: reader.DataSet, splits: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Reads who clicked what, in log order: users [H] int64 and catalogue rows [H] int32.

    Args:
        data_set: Its schema has a `user_key`.
        splits: Whose clicks are read, one split after the other.
    """
    users, rows = [np.empty(0, np.int64)], [np.empty(0, np.int32)]
    for split in splits:
        for batch in data_set.clicked(split, 65_536):
            users.append(batch[records.USER].numpy())
            rows.append(batch["ad_row"].numpy())
    return np.concatenate(users), np.concatenate(rows)


def read_clicks(data_set: reader.DataSet, split: str, limit: int | None = None) -> Clicks:
    """Reads the clicks of a split, in log order; of more than `limit`, as many, evenly spaced."""
    width = encoding.width(data_set.schema.query_fields)
    parts: dict[str, list[np.ndarray]] = {
        "query": [np.empty((0, width), np.int32)],
        "ad_row": [np.empty(0, np.int32)],
        records.USER: [np.empty(0, np.int64)],
    }
    if not data_set.spec.has_user:
        del parts[records.USER]
    total = round(data_set.label_sum(split, "click"))
    # The first ones would all be of one hour, or of a few users.
    numbers = evenly_spaced(total, total if limit is None else limit)
    count = 0
    for batch in data_set.clicked(split, 4_096):
        first, count = count, count + len(batch["ad_row"])
        kept = numbers[slice(*np.searchsorted(numbers, [first, count]))] - first
        for name, arrays in parts.items():
            arrays.append(batch[name].numpy()[kept])
    read = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    return Clicks(read["query"], read["ad_row"], numbers, read.get(records.USER))


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """Returns the places [at most `most`] int64 of some of `count` things, spread over them all."""
    return np.linspace(0, count, min(most, count), endpoint=False).astype(np.int64)


def train_two_tower(
    data_set: reader.DataSet,
    config: RetrievalConfig,
    workdir: pathlib.Path,
    progress: bool = False,
) -> None:
    """Trains a two-tower model and keeps its best pass.

    Args:
        data_set: The converted log.
        config: Sizes and schedule.
        workdir: Work directory; training resumes from what it holds.
        progress: Whether to show progress bars.

    Raises:
        ValueError: The training or the validation split has no clicks.
    """
    save_config(config, workdir / "config.json")
    clicks = data_set.label_sum("train", "click")
    if not clicks:
        raise ValueError(
            f"The training split of {data_set.directory} has no clicks (label 1): there is nothing "
            "to learn from. Check the label column, or use a larger log."
        )
    config = dataclasses.replace(config, batch_size=training.batch_size(config.batch_size, clicks))
    catalogue = data_set.catalogue()
    pairs = read_pairs(data_set, ("train",)) if data_set.spec.has_user else None
    held_out = _held_out(data_set, pairs)
    clicked_ads = None if pairs is None else layers.ClickedAds(*pairs)
    model = build_two_tower(data_set, config, catalogue, clicked_ads)
    strangers = layers.oov_rates(data_set)
    model.id_dropout.expect(strangers)
    plan = training.Plan(
        epochs=config.epochs,
        patience=config.patience,
        learning_rate=config.learning_rate,
        embedding_learning_rate=config.embedding_learning_rate,
        steps_per_epoch=max(1, round(clicks / config.batch_size)),
        metric=retrieval_validation.METRIC,
        maximise=True,
        initial_accumulator=config.embedding_accumulator,
    )
    losses = functools.partial(batch_losses, model, config)
    observe = functools.partial(
        training.norms_of_sides,
        model.query_tower.field_embeddings,
        model.ad_tower.field_embeddings,
        data_set.fitted,
    )
    trainer = training.Trainer(model, losses, plan, workdir, observe)

    def validate() -> dict[str, float]:
        model.keep_user_clicks()
        ads = two_tower.embed_in_batches(model.ad_tower, np.asarray(catalogue.features))
        queries = two_tower.embed_in_batches(model.query_tower, held_out.query)
        model.temperature.assign(
            retrieval_validation.best_temperature(model, held_out, queries, ads, catalogue.clicks)
        )
        measured = retrieval_validation.measure(model, held_out, queries, ads)
        return {**measured, "temperature": float(model.temperature)}

    history = trainer.fit(
        lambda epoch: data_set.clicked("train", config.batch_size, seed=config.seed + epoch),
        validate,
        progress,
        dataclasses.asdict(config),
    )
    if config.refit:
        model = _refit(data_set, config, strangers, plan, history, workdir, progress)
    _write_projector(model, catalogue, workdir / "tensorboard")
    description = {"history": history, "refit": config.refit}
    training.write_description(workdir / "retrieval.json", data_set, description)


def _refit(
    data_set: reader.DataSet,
    config: RetrievalConfig,
    strangers: Mapping[str, float],
    plan: training.Plan,
    history: list[dict[str, float]],
    workdir: pathlib.Path,
    progress: bool,
) -> two_tower.TwoTower:
    """Trains anew on the training and the validation clicks; see `refit`."""
    splits = REFIT_SPLITS
    catalogue = with_validation_clicks(data_set, data_set.catalogue())
    pairs = read_pairs(data_set, splits) if data_set.spec.has_user else None
    clicked_ads = None if pairs is None else layers.ClickedAds(*pairs)
    model = build_two_tower(data_set, config, catalogue, clicked_ads)
    model.id_dropout.expect(strangers)
    clicks = sum(data_set.label_sum(split, "click") for split in splits)
    refit_two_tower(
        model,
        functools.partial(batch_losses, model, config),
        dataclasses.replace(plan, steps_per_epoch=max(1, round(clicks / config.batch_size))),
        history,
        lambda epoch: refit_batches(data_set, config.batch_size, config.seed + epoch),
        workdir,
        progress,
    )
    return model


def load_two_tower(
    data_set: reader.DataSet, workdir: pathlib.Path
) -> tuple[two_tower.TwoTower, dict[str, Any]]:
    """Restores a trained two-tower model.

    Raises:
        FileNotFoundError: No model was trained in the work directory.
        ValueError: It was trained on another data set.
    """
    description = training.read_description(
        workdir / "retrieval.json", data_set, "tfrec train_retrieval"
    )
    config = RetrievalConfig(**json.loads((workdir / "config.json").read_text()))
    model = build_two_tower(data_set, config, data_set.catalogue())
    refit = description.get("refit", False)
    trained = workdir / REFIT_DIRECTORY if refit else workdir
    training.restore_best(model, trained, workdir)
    return model, description


def batch_losses(
    model: two_tower.TwoTower, config: RetrievalConfig, batch: reader.Batch
) -> dict[str, tf.Tensor]:
    losses = model.losses(batch)
    return {
        "loss": losses.softmax + config.embedding_l2 * losses.penalty,
        "softmax_loss": losses.softmax,
    }


def _write_projector(
    model: two_tower.TwoTower, catalogue: reader.Catalogue, directory: pathlib.Path
) -> None:
    rows = training.choose_rows(catalogue.clicks)
    ads = two_tower.embed_in_batches(model.ad_tower, np.asarray(catalogue.features[rows]))
    training.write_projector(directory, ads, training.metadata_of(catalogue, rows))


def _held_out(
    data_set: reader.DataSet, pairs: tuple[np.ndarray, np.ndarray] | None
) -> retrieval_validation.HeldOut:
    """Reads the validation clicks; `pairs` are users and ads of the training clicks."""
    clicks = read_clicks(data_set, "validation", MAX_VALIDATION_CLICKS)
    if not len(clicks.ad_rows):
        raise ValueError(
            f"The validation split of {data_set.directory} has no clicks to measure recall on; "
            "use a larger log or a larger --validation_fraction."
        )
    repeated = 1.0
    if pairs is not None and clicks.user is not None:
        hashes = _hashes(clicks.user, clicks.ad_rows)
        repeated = float(np.isin(hashes, _hashes(*pairs)).mean())
    return retrieval_validation.HeldOut(clicks.query, clicks.ad_rows, clicks.user, repeated)


def _hashes(users: np.ndarray, ad_rows: np.ndarray) -> np.ndarray:
    """Returns a hash [N] int64 of who clicked what."""
    return users * np.int64(0x9E3779B97F4A7C15 - (1 << 64)) + ad_rows
