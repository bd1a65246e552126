"""Trains and restores the two-tower model of a data set.

WORKDIR/config.json           the resolved configuration
WORKDIR/checkpoints, best/    resumable state; the best pass
WORKDIR/tensorboard/          curves
WORKDIR/refit/                the same of the refit with validation clicks; see `refit`
WORKDIR/retrieval.json        written last: fingerprint, validation history
"""

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfrec import layers, training
from tfrec.config import RetrievalConfig, save_config
from tfrec.heads import CLICK
from tfrec.retrieval import retrieval_model, retrieval_validation, two_tower
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
        ad_rows: [N] int32 catalog rows.
        number: [N] number of each click in the split, in the log's order.
        user: [N] int64 fingerprints of the users, or None if the schema has no `user_key`.
    """

    query: np.ndarray
    ad_rows: np.ndarray
    number: np.ndarray
    user: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> "Clicks":
        """Returns some of the clicks."""
        user = None if self.user is None else self.user[rows]
        return Clicks(self.query[rows], self.ad_rows[rows], self.number[rows], user)


def build_two_tower(
    data_set: reader.DataSet,
    config: RetrievalConfig,
    catalog: reader.Catalog,
    clicked_ads: layers.ClickedAds | None = None,
) -> retrieval_model.RetrievalModel:
    """Builds an untrained retrieval model, with its weights created.

    Args:
        data_set: The converted log.
        config: Sizes and options.
        catalog: The ads, with their training clicks.
        clicked_ads: The training clicks of each user, which are not negatives for them; None: not
            known, or the model is not trained.

    Raises:
        ValueError: There is no model `config.retrieval_model`, or its towers are not as expected.
    """
    tf.keras.utils.set_random_seed(config.seed)
    kind = retrieval_model.RETRIEVAL_MODELS.get(config.retrieval_model)
    model = kind.for_data_set(data_set, config, catalog)
    model.clicked_ads = clicked_ads
    model.build_weights()
    return model


def read_pairs(data_set: reader.DataSet, splits: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Reads users [H] int64 and catalog rows [H] int32 of clicks, in log order.

    Args:
        data_set: A data set whose schema has a `user_key`.
        splits: The splits to read, in this order.
    """
    users, rows = [np.empty(0, np.int64)], [np.empty(0, np.int32)]
    for split in splits:
        for batch in data_set.clicked(split, 65_536):
            users.append(batch[records.USER].numpy())
            rows.append(batch["ad_row"].numpy())
    return np.concatenate(users), np.concatenate(rows)


def read_clicks(data_set: reader.DataSet, split: str, max_clicks: int | None = None) -> Clicks:
    """Reads the clicks of a split, in log order.

    Args:
        data_set: The converted log.
        split: `train`, `validation` or `test`.
        max_clicks: Maximum number of clicks, evenly spaced in the log; None: all.
    """
    width = encoding.width(data_set.schema.query_fields)
    parts: dict[str, list[np.ndarray]] = {
        "query": [np.empty((0, width), np.int32)],
        "ad_row": [np.empty(0, np.int32)],
        records.USER: [np.empty(0, np.int64)],
    }
    if not data_set.spec.has_user:
        del parts[records.USER]
    total = round(data_set.label_sum(split, "click"))
    # The first clicks could all be from one hour, or a few users.
    numbers = evenly_spaced(total, total if max_clicks is None else max_clicks)
    count = 0
    for batch in data_set.clicked(split, 4_096):
        first, count = count, count + len(batch["ad_row"])
        kept = numbers[slice(*np.searchsorted(numbers, [first, count]))] - first
        for name, arrays in parts.items():
            arrays.append(batch[name].numpy()[kept])
    read = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    return Clicks(read["query"], read["ad_row"], numbers, read.get(records.USER))


def evenly_spaced(count: int, max_count: int) -> np.ndarray:
    """Returns at most `max_count` evenly spaced numbers [n] int64 of range(count)."""
    return np.linspace(0, count, min(max_count, count), endpoint=False).astype(np.int64)


def check_trainable(data_set: reader.DataSet) -> None:
    """Checks that a two-tower model can be trained on a data set.

    Raises:
        ValueError: The training split has no clicks.
    """
    training.check_clicks(data_set, "train")


def train_two_tower(
    data_set: reader.DataSet,
    config: RetrievalConfig,
    workdir: pathlib.Path,
    progress: bool = False,
    callbacks: Sequence[tf.keras.callbacks.Callback] = (),
) -> None:
    """Trains a two-tower model and keeps its best pass.

    Args:
        data_set: The converted log.
        config: Sizes and schedule.
        workdir: Work directory; training resumes from its files.
        progress: Whether to show progress bars.
        callbacks: Additional callbacks for `Model.fit`, of the refit too.

    Raises:
        ValueError: See `check_trainable`.
    """
    save_config(config, workdir / "config.json")
    check_trainable(data_set)
    clicks = data_set.label_sum("train", "click")
    config = dataclasses.replace(config, batch_size=training.batch_size(config.batch_size, clicks))
    catalog = data_set.catalog()
    pairs = read_pairs(data_set, ("train",)) if data_set.spec.has_user else None
    held_out = _held_out(data_set, pairs)
    clicked_ads = None if pairs is None else layers.ClickedAds(*pairs)
    model = build_two_tower(data_set, config, catalog, clicked_ads)
    oov_rates = layers.oov_rates(data_set)
    model.id_dropout.raise_rates(oov_rates)
    plan = training.Plan(
        epochs=config.epochs,
        patience=config.patience,
        learning_rate=config.learning_rate,
        embedding_learning_rate=config.embedding_learning_rate,
        steps_per_epoch=math.ceil(clicks / config.batch_size),
        examples_per_epoch=clicks,
        metric=retrieval_validation.METRIC,
        maximize=True,
        initial_accumulator=config.embedding_accumulator,
    )

    def validate() -> dict[str, float]:
        model.store_user_clicks()
        ads = two_tower.embed_in_batches(model.ad_tower, np.asarray(catalog.features))
        queries = two_tower.embed_in_batches(model.query_tower, held_out.query)
        model.temperature.assign(
            retrieval_validation.best_temperature(model, held_out, queries, ads, catalog.clicks)
        )
        measured = retrieval_validation.measure(model, held_out, queries, ads)
        return {**measured, "temperature": float(model.temperature)}

    history = training.fit(
        model,
        lambda number: data_set.clicked("train", config.batch_size, seed=config.seed + number),
        validate,
        plan,
        workdir,
        observe=functools.partial(
            model.embedding_norms,
            next(iter(data_set.clicked("train", config.batch_size, seed=config.seed))),
        ),
        progress=progress,
        options=dataclasses.asdict(config),
        extra_callbacks=callbacks,
    )
    if config.refit:
        model = _refit(data_set, config, oov_rates, plan, history, workdir, progress, callbacks)
    _write_projector(model, catalog, workdir / "tensorboard")
    description = {"history": history, "refit": config.refit}
    training.write_description(workdir / "retrieval.json", data_set, description)


def _refit(
    data_set: reader.DataSet,
    config: RetrievalConfig,
    oov_rates: Mapping[str, float],
    plan: training.Plan,
    history: list[dict[str, float]],
    workdir: pathlib.Path,
    progress: bool,
    callbacks: Sequence[tf.keras.callbacks.Callback],
) -> retrieval_model.RetrievalModel:
    """Retrains on the training and the validation clicks; see `refit`."""
    catalog = with_validation_clicks(data_set, data_set.catalog())
    pairs = read_pairs(data_set, REFIT_SPLITS) if data_set.spec.has_user else None
    clicked_ads = None if pairs is None else layers.ClickedAds(*pairs)
    model = build_two_tower(data_set, config, catalog, clicked_ads)
    model.id_dropout.raise_rates(oov_rates)
    clicks = [data_set.label_sum(split, "click") for split in REFIT_SPLITS]
    steps = sum(math.ceil(count / config.batch_size) for count in clicks)
    refit_two_tower(
        model,
        dataclasses.replace(plan, steps_per_epoch=steps, examples_per_epoch=sum(clicks)),
        history,
        lambda number: refit_batches(data_set, config.batch_size, config.seed + number),
        workdir,
        progress,
        callbacks,
    )
    return model


def load_two_tower(
    data_set: reader.DataSet, workdir: pathlib.Path
) -> tuple[retrieval_model.RetrievalModel, dict[str, Any]]:
    """Restores a trained two-tower model.

    Args:
        data_set: The data set that it was trained on.
        workdir: Directory of the training, with `retrieval.json`.

    Returns:
        The model, and the content of `retrieval.json`.

    Raises:
        FileNotFoundError: No model was trained in the work directory.
        ValueError: It was trained on another data set.
    """
    description = training.read_description(
        workdir / "retrieval.json", data_set, "tfrec train_retrieval"
    )
    config = RetrievalConfig(**json.loads((workdir / "config.json").read_text()))
    model = build_two_tower(data_set, config, data_set.catalog())
    refit = description.get("refit", False)
    trained = workdir / REFIT_DIRECTORY if refit else workdir
    training.restore_best(model, trained, workdir)
    return model, description


def _write_projector(
    model: retrieval_model.RetrievalModel, catalog: reader.Catalog, directory: pathlib.Path
) -> None:
    rows = training.choose_rows(catalog.clicks)
    ads = two_tower.embed_in_batches(model.ad_tower, np.asarray(catalog.features[rows]))
    training.write_projector(directory, ads, training.metadata_of(catalog, rows))


def _held_out(
    data_set: reader.DataSet, pairs: tuple[np.ndarray, np.ndarray] | None
) -> retrieval_validation.HeldOut:
    """Reads the validation clicks; `pairs` are users and ads of the training clicks.

    Without validation clicks, training clicks take their place: better a model than none.
    """
    has_clicks = data_set.label_positives("validation", CLICK.label) > 0
    split = "validation" if has_clicks else "train"
    clicks = read_clicks(data_set, split, MAX_VALIDATION_CLICKS)
    repeated = 1.0
    if pairs is not None and clicks.user is not None:
        hashes = _hashes(clicks.user, clicks.ad_rows)
        repeated = float(np.isin(hashes, _hashes(*pairs)).mean())
    return retrieval_validation.HeldOut(clicks.query, clicks.ad_rows, clicks.user, repeated)


def _hashes(users: np.ndarray, ad_rows: np.ndarray) -> np.ndarray:
    """Returns a hash [N] int64 of each pair of user and ad."""
    return users * np.int64(0x9E3779B97F4A7C15 - (1 << 64)) + ad_rows
