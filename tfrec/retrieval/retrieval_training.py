"""Trains and restores the two-tower model of a data set.

WORKDIR/config.json           the resolved configuration
WORKDIR/checkpoints, best/    resumable state; the best epoch
WORKDIR/tensorboard/          curves
WORKDIR/refit/                the same for the refit with validation clicks; see `refit`
WORKDIR/click_factors.npz     factors appended to the embeddings, if any; see `click_factors`
WORKDIR/distillation/         the same for the ranker's lessons; see `distillation`
WORKDIR/retrieval.json        written last: fingerprint, validation history, utility shares
"""

import dataclasses
import itertools
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfrec import layers, training
from tfrec.config import RetrievalConfig, check_kind, load_config, save_config
from tfrec.heads import CLICK
from tfrec.retrieval import (
    click_factors,
    distillation,
    reading,
    retrieval_model,
    retrieval_validation,
    towers,
)
from tfrec.retrieval.refit import (
    REFIT_DIRECTORY,
    REFIT_SPLITS,
    refit_batches,
    refit_two_tower,
    with_validation_clicks,
)
from tfrecords import columns, reader, terminal

MAX_VALIDATION_CLICKS = 5_000
_MIN_BATCHES = 20
# More lessons are a better use of time than more epochs (docs/experiments/0039-distillation.md).
_MAX_EPOCHS_BEFORE_LESSONS = 3


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
        ValueError: There is no model `config.retrieval_model`, or its constructor or towers are
            not as expected.
    """
    tf.keras.utils.set_random_seed(config.seed)
    kind = retrieval_model.RETRIEVAL_MODELS.get(config.retrieval_model)
    model = training.construct(
        kind,
        lambda: kind.for_data_set(data_set, config, catalog),
        "a constructor with the arguments fitted, config and catalog, which gives a query_tower "
        "and an ad_tower to super().__init__",
    )
    model.clicked_ads = clicked_ads
    model.build_weights()
    return model


def train_two_tower(
    data_set: reader.DataSet,
    config: RetrievalConfig,
    workdir: str | os.PathLike[str],
    progress: bool = False,
    callbacks: Sequence[tf.keras.callbacks.Callback] = (),
    teacher: distillation.Teacher | None = None,
    strategy: tf.distribute.Strategy | None = None,
) -> None:
    """Trains a two-tower model on clicks and then distills a ranker into it.

    The best epoch of each training is kept. With several workers, the chief alone distills: the
    number of lessons does not grow with the log.

    Args:
        data_set: The converted log.
        config: Sizes and schedule.
        workdir: Work directory; training resumes from its files.
        progress: Whether to show progress bars.
        callbacks: Additional callbacks for each call of `Model.fit`.
        teacher: Scores ads by utility; None: learn from clicks alone.
        strategy: From `training.joined`; None: one worker.

    Raises:
        ValueError: The training split has no clicks; see `training.check_callbacks`; or workers, or
            an earlier training in the work directory, have other options or data.
    """
    check_kind(config, RetrievalConfig)
    training.check_callbacks(callbacks)
    workdir = pathlib.Path(workdir)
    strategy = strategy or tf.distribute.get_strategy()
    source = retrieval_model.RETRIEVAL_MODELS.digest(config.retrieval_model)
    learned = {
        "data": data_set.training_checksum,
        "teacher": None if teacher is None else dict(teacher.weights),
        "source": source,
    }
    training.check_same(strategy, {**learned, **dataclasses.asdict(config)})
    if training.is_chief(strategy):
        save_config(config, workdir / "config.json", data_set.training_checksum, source)
    training.check_clicks(data_set)
    clicks = data_set.label_sum("train", "click")
    batch_size = training.batch_size(config.batch_size, clicks, _MIN_BATCHES)
    config = dataclasses.replace(config, batch_size=batch_size)
    catalog = data_set.catalog()
    pairs = reading.read_pairs(data_set, ("train",)) if data_set.spec.has_user else None
    held_out = _held_out(data_set, pairs)
    clicked_ads = None if pairs is None else layers.ClickedAds(*pairs)
    oov_rates = layers.oov_rates(data_set)

    def build(
        catalog: reader.Catalog,
        clicked_ads: layers.ClickedAds | None,
        strategy: tf.distribute.Strategy,
    ) -> retrieval_model.RetrievalModel:
        with strategy.scope():
            model = build_two_tower(data_set, config, catalog, clicked_ads)
        model.id_dropout.raise_rates(oov_rates)
        return model

    model = build(catalog, clicked_ads, strategy)
    epochs = config.epochs if teacher is None else min(config.epochs, _MAX_EPOCHS_BEFORE_LESSONS)
    plan = training.Plan(
        epochs=epochs,
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
        ads = towers.embed_in_batches(model.ad_tower, np.asarray(catalog.features))
        queries = towers.embed_in_batches(model.query_tower, held_out.query)
        model.temperature.assign(
            retrieval_validation.best_temperature(model, held_out, queries, ads, catalog.clicks)
        )
        measured = retrieval_validation.measure(model, held_out, queries, ads)
        return {**measured, "temperature": float(model.temperature.read_value())}

    history = training.fit(
        model,
        lambda number: data_set.clicked("train", config.batch_size, seed=config.seed + number),
        validate,
        plan,
        workdir,
        progress=progress,
        options=dataclasses.asdict(config),
        extra_callbacks=[*callbacks, _shrink(data_set, config, ("train",))],
    )
    # The refit would only add clicks; the teacher is more informative about ads.
    refit = config.refit and teacher is None
    if refit:
        model = _refit(
            data_set, config, build, strategy, plan, history, workdir, progress, callbacks
        )
    if not training.is_chief(strategy):
        return
    default = tf.distribute.get_strategy()
    if strategy.num_replicas_in_sync > 1:
        # The following steps need no other replica.
        model = build(catalog, clicked_ads, default)
        training.restore_best(model, workdir / REFIT_DIRECTORY if refit else workdir, workdir)
    description: dict[str, Any] = {"history": history, "refit": refit}
    (workdir / click_factors.FILE).unlink(missing_ok=True)
    if teacher is None and config.click_factors and model.takes_click_factors:

        def before_refit() -> retrieval_model.RetrievalModel:
            if not refit:
                return model
            before = build(catalog, clicked_ads, default)
            training.restore_best(before, workdir)
            return before

        description["click_factors"] = _fit_click_factors(
            data_set, clicked_ads, before_refit, held_out, workdir, refit, progress
        )
        _append_click_factors(model, description, workdir)
    if teacher is not None:
        description["distillation"] = distillation.distill(
            model, teacher, data_set, config, workdir, progress, callbacks
        )
    shown = training.choose_rows(catalog.clicks)
    ads = towers.embed_in_batches(model.ad_tower, np.asarray(catalog.features[shown]))
    metadata = training.metadata_of(catalog, shown)
    training.write_projector(workdir / "tensorboard", ads, metadata)
    training.write_description(workdir / "retrieval.json", data_set, source, description)


def _refit(
    data_set: reader.DataSet,
    config: RetrievalConfig,
    build: Callable[..., retrieval_model.RetrievalModel],
    strategy: tf.distribute.Strategy,
    plan: training.Plan,
    history: list[dict[str, float]],
    workdir: pathlib.Path,
    progress: bool,
    callbacks: Sequence[tf.keras.callbacks.Callback],
) -> retrieval_model.RetrievalModel:
    """Retrains on the training and the validation clicks; see `refit`."""
    catalog = with_validation_clicks(data_set, data_set.catalog())
    pairs = reading.read_pairs(data_set, REFIT_SPLITS) if data_set.spec.has_user else None
    model = build(catalog, None if pairs is None else layers.ClickedAds(*pairs), strategy)
    clicks = [data_set.label_sum(split, "click") for split in REFIT_SPLITS]
    steps = sum(math.ceil(count / config.batch_size) for count in clicks)
    refit_two_tower(
        model,
        dataclasses.replace(plan, steps_per_epoch=steps, examples_per_epoch=sum(clicks)),
        history,
        lambda number: refit_batches(data_set, config.batch_size, config.seed + number),
        workdir,
        progress,
        [*callbacks, _shrink(data_set, config, REFIT_SPLITS)],
    )
    return model


def _shrink(
    data_set: reader.DataSet, config: RetrievalConfig, splits: Sequence[str]
) -> training.ShrinkEmbeddings:
    """Returns the callback that shrinks embeddings by their clicks in some splits."""
    clicks = itertools.chain.from_iterable(data_set.clicked(split, 65_536) for split in splits)
    return training.ShrinkEmbeddings(data_set.schema, clicks, config.embedding_shrinkage)


def _fit_click_factors(
    data_set: reader.DataSet,
    clicked: layers.ClickedAds | None,
    before_refit: Callable[[], retrieval_model.RetrievalModel],
    held_out: retrieval_validation.HeldOut,
    workdir: pathlib.Path,
    refit: bool,
    progress: bool,
) -> dict[str, Any] | None:
    """Writes factors of the clicks if they improve held-out clicks; returns the measurements.

    `before_refit` returns the model that was not trained on the held-out clicks. In a refit,
    factors of the clicks of both splits are written.

    Returns:
        A `click_factors.FactorChoice` as JSON; None if there can be no factors.
    """
    catalog = data_set.catalog()
    if clicked is None or not data_set.label_positives("validation", CLICK.label):
        return None
    if progress:
        terminal.print_above_bars("  decomposing the matrix of clicks")
    factors = click_factors.fit(data_set.fitted, catalog, clicked)
    if factors is None:
        return None
    chosen = click_factors.choose(before_refit(), factors, held_out, catalog)
    if chosen.count:
        if refit:
            pairs = reading.read_pairs(data_set, REFIT_SPLITS)
            all_clicks = layers.ClickedAds(*pairs)
            factors = click_factors.fit(data_set.fitted, catalog, all_clicks, [chosen.count])
            assert factors is not None  # They have more clicks.
        factors.scaled(chosen.scale, chosen.count).save(workdir)
    if progress:
        terminal.print_above_bars(f"  {_chosen_text(chosen)}")
    return dataclasses.asdict(chosen)


def _chosen_text(chosen: click_factors.FactorChoice) -> str:
    metric = retrieval_validation.METRIC
    without = f"{metric} {chosen.recall_without[metric]:.4f}"
    if not chosen.count:
        return f"no factors of clicks are used: none improves on the {without} of the towers"
    return f"{chosen.count} factors of clicks: {without}, with them {chosen.recall[metric]:.4f}"


def _append_click_factors(
    model: retrieval_model.RetrievalModel, description: Mapping[str, Any], workdir: pathlib.Path
) -> None:
    """Appends the factors to a trained model if its description says that there are some."""
    if (description.get("click_factors") or {}).get("count"):
        click_factors.append(model, click_factors.ClickFactors.load(workdir))


def forget_teacher(workdir: pathlib.Path) -> None:
    """Deletes the part learned from a ranker, and keeps the part learned from clicks."""
    (workdir / "retrieval.json").unlink(missing_ok=True)
    shutil.rmtree(workdir / distillation.DISTILLATION_DIRECTORY, ignore_errors=True)


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
        ValueError: It was trained on another data set, or its source has changed.
    """
    path = workdir / "retrieval.json"
    description = training.read_description(path, data_set, "tfrec train_retrieval")
    config = load_config(RetrievalConfig, workdir / "config.json")
    source = retrieval_model.RETRIEVAL_MODELS.digest(config.retrieval_model)
    training.check_source(path, description, source)
    model = build_two_tower(data_set, config, data_set.catalog())
    refit = description["refit"]
    if "distillation" in description:
        distillation.restore(model, description["distillation"], data_set, workdir)
    else:
        training.restore_best(model, workdir / REFIT_DIRECTORY if refit else workdir, workdir)
    _append_click_factors(model, description, workdir)
    return model, description


def _held_out(
    data_set: reader.DataSet, pairs: tuple[np.ndarray, np.ndarray] | None
) -> retrieval_validation.HeldOut:
    """Reads the validation clicks; `pairs` are users and ads of the training clicks.

    Without validation clicks, training clicks take their place: better a model than none.
    """
    has_clicks = data_set.label_positives("validation", CLICK.label) > 0
    split = "validation" if has_clicks else "train"
    clicks = reading.read_clicks(data_set, split, MAX_VALIDATION_CLICKS)
    repeated = 1.0
    if pairs is not None and clicks.user is not None:
        known = np.sort(columns.hashes_of_pairs(*pairs))
        hashes = columns.hashes_of_pairs(clicks.user, clicks.ad_rows)
        repeated = float(columns.contains(known, hashes).mean())
    return retrieval_validation.HeldOut(clicks.query, clicks.ad_rows, clicks.user, repeated)
