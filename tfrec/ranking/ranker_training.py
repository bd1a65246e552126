"""Trains, calibrates and restores the ranker of a data set.

WORKDIR/config.json           the resolved configuration
WORKDIR/checkpoints, best/    resumable state; the best epoch
WORKDIR/tensorboard/          curves
WORKDIR/ranker.json           written last: fingerprint, heads, calibrators, metrics
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfrec import calibration, layers, metrics, training
from tfrec.config import RankerConfig, check_kind, load_config, save_config
from tfrec.heads import CLICK
from tfrec.ranking import (
    default_weights,
    down_sampling,
    initial_bias,
    logit_checks,
    ranker,
    ranker_validation,
    ranking_model,
    rare_heads,
    tasks,
)
from tfrecords import encoding, reader, terminal
from tfrecords.schema import Schema

REQUESTS_PER_EVALUATION_BATCH = 2_048
# Minimum number of batches of an epoch: crosses of fields are learned in many steps, rather than
# from many rows.
_MIN_BATCHES = 300
# Minimum number of the first training rows from which a ranker is initialized, if there are more.
_ROWS_OF_START = 100_000


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Logits and labels of a split's shown ads, as stored (L rows, R requests).

    Attributes:
        logits: Head -> [L], or [L, 3] of an amount.
        labels: Head -> [L]; NaN where missing.
        list_lengths: [R] numbers of shown ads of the requests.
        ad_rows: [L] catalog rows.
    """

    logits: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    list_lengths: np.ndarray
    ad_rows: np.ndarray

    def labeled(self, head: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns a head's known labels, the mask [L] of these rows, and their list lengths."""
        known = ~np.isnan(self.labels[head])
        owner = np.repeat(np.arange(len(self.list_lengths)), self.list_lengths)
        lengths = np.bincount(owner[known], minlength=len(self.list_lengths))
        return self.labels[head][known], known, lengths[lengths > 0]


def build_ranker(
    data_set: reader.DataSet,
    config: RankerConfig,
    compared: Iterable[Sequence[str]] | None = None,
    rated: Iterable[Sequence[str]] | None = None,
) -> ranking_model.RankingModel:
    """Builds an untrained ranker for a data set, with its weights created.

    Args:
        data_set: The converted log; its training labels determine the heads.
        config: Sizes and options.
        compared: Names of the fields that a trained `Ranker` compares; None: the result of
            `layers.find_comparisons`.
        rated: Names of the fields for whose pairs of values it reads the click rates; None: the
            result of `layers.find_pair_rates`.

    Raises:
        FileNotFoundError: See `reader.DataSet.catalog`.
        ValueError: There is no ranker `config.ranker`, or its constructor or `call` is not as
            expected; or see `reader.DataSet.catalog`.
    """
    tf.keras.utils.set_random_seed(config.seed)
    schema = data_set.schema
    kind = ranking_model.RANKERS.get(config.ranker)
    model = training.construct(
        kind,
        lambda: kind.for_data_set(data_set, config, _heads(data_set)),
        "__init__(self, *args, **kwargs) that passes both on to super().__init__, because a "
        "Ranker also gets its ties"
        if issubclass(kind, ranker.Ranker)
        else "a constructor with the arguments fitted, config and heads",
    )
    if kind.call is ranking_model.RankingModel.call:
        raise ValueError(
            f"{kind.__name__}: expected a method `call` that returns logits, got none. Write it; "
            "docs/howto/own_ranker.md has an example."
        )
    model.learn_positions(config.num_positions if knows_positions(data_set) else 0)
    if isinstance(model, ranker.Ranker):
        model.compare(
            layers.find_comparisons(data_set, model.ties)
            if compared is None
            else _field_pairs(schema, compared),
            layers.pair_rates_of(
                data_set,
                layers.find_pair_rates(data_set) if rated is None else _field_pairs(schema, rated),
            ),
        )
    model(
        {
            "query": tf.zeros([1, encoding.width(schema.query_fields)], tf.int32),
            "ad": tf.zeros([1, 1, encoding.width(schema.ad_fields)], tf.int32),
        }
    )
    if kind is not ranker.Ranker:
        logit_checks.check_model(model)
    return model


def _field_pairs(schema: Schema, names: Iterable[Sequence[str]]) -> list[layers.FieldPair]:
    fields = {field.name: field for field in schema.fields}
    return [(fields[query_name], fields[ad_name]) for query_name, ad_name in names]


def _heads(data_set: reader.DataSet) -> list[str]:
    """Returns the labels that are positive in some training row."""
    return [label for label in data_set.spec.labels if data_set.label_positives("train", label)]


def without_ranker(data_set: reader.DataSet) -> str | None:
    """Returns why no ranker can be trained on a data set, or None if one can.

    Retrieval then orders the ads.
    """
    counts = (data_set.label_positives("train", "click"), data_set.label_count("train", "click"))
    if counts[0] < counts[1] or not counts[1]:
        return None
    return (
        "every training row is a click, and a ranker learns from ads that were not clicked; "
        "--sampled_negatives=N samples N of them for each click"
    )


def knows_positions(data_set: reader.DataSet) -> bool:
    """Returns whether the log has the positions of its ads.

    Sampled negatives have no position, so with them a position would reveal the click.
    """
    return data_set.spec.has_position and not data_set.has_sampled_negatives


def start(model: ranking_model.RankingModel, data_set: reader.DataSet) -> None:
    """Initializes an untrained ranker from the first training rows.

    Sets the slopes of amounts, the biases of the heads to the rates of the log, the rates of id
    dropout, and the number of the first position, which is 0 or 1.
    """
    parts: list[dict[str, np.ndarray]] = []
    names = ["ad_row", *model.heads, *(["position"] if model.position_bias is not None else [])]
    for window in data_set.windows("train"):
        parts.append({name: window[name].numpy() for name in names})
        if sum(len(part["ad_row"]) for part in parts) >= _ROWS_OF_START:
            break
    first = {name: np.concatenate([part[name] for part in parts]) for name in names}
    labels = {label: first[label] for label in model.heads}
    ads = np.asarray(data_set.catalog().features)[first["ad_row"]]
    offsets = {}
    for head, slopes in model.amount_slopes.items():
        positive = labels[head] > 0
        slopes.fit(ads[positive], np.log(labels[head][positive]))
        offsets[head] = slopes(ads).numpy()
    model.set_head_biases(initial_bias.from_labels(labels, offsets))
    model.id_dropout.raise_rates(layers.oov_rates(data_set))
    if model.position_bias is not None:
        model.position_bias.first.assign(first["position"].min())


def check_trainable(data_set: reader.DataSet) -> None:
    """Checks that a ranker can be trained on a data set.

    Raises:
        ValueError: All training rows are clicked, or none is; or there are no held-out labels.
    """
    reason = without_ranker(data_set)
    if reason is not None:
        raise ValueError(
            f"No ranker can be trained on {data_set.directory}: {reason}. Train the two-tower "
            "model alone, or check the click column."
        )
    training.check_clicks(data_set)
    if not data_set.num_rows("validation"):
        raise ValueError(
            f"The validation split of {data_set.directory} is empty; expected rows to choose the "
            "best epoch. Convert with a larger --validation_fraction, or another --split."
        )
    if not data_set.label_count("validation", "click"):
        raise ValueError(
            f"No row of the validation split of {data_set.directory} has a click label; expected "
            "some to choose the best epoch. Give a validation file with labels, or split by time."
        )


def predict_split(
    model: ranking_model.RankingModel, data_set: reader.DataSet, split: str
) -> Predictions:
    """Scores every shown ad of a split in its logged position.

    Raises:
        ValueError: The split is empty.
    """

    def predict(batch: reader.Batch) -> Predictions:
        mask = batch["mask"].numpy()
        scores = model.as_logged(model.score(batch["query"], batch["ad"]), batch.get("position"))
        return Predictions(
            {head: values.numpy()[mask] for head, values in scores.items()},
            {label: batch[label].numpy()[mask] for label in model.heads},
            mask.sum(axis=1),
            batch["ad_row"].numpy()[mask],
        )

    batches = data_set.batches(split, REQUESTS_PER_EVALUATION_BATCH)
    total = math.ceil(data_set.num_requests(split) / REQUESTS_PER_EVALUATION_BATCH)
    parts = list(
        terminal.map_with_progress(predict, batches, f"scoring {split} rows", "batches", total)
    )
    if not parts:
        raise ValueError(f"The {split} split of {data_set.directory} is empty; use a larger log.")
    return Predictions(
        {head: np.concatenate([part.logits[head] for part in parts]) for head in model.heads},
        {label: np.concatenate([part.labels[label] for part in parts]) for label in model.heads},
        np.concatenate([part.list_lengths for part in parts]),
        np.concatenate([part.ad_rows for part in parts]),
    )


def served_values(
    predictions: Predictions, calibrators: calibration.Calibrators
) -> dict[str, np.ndarray]:
    """Returns the calibrated outputs of predictions: output name -> [L]."""
    return calibration.calibrated_values(predictions.logits, calibrators)


def fit_calibrators(predictions: Predictions) -> calibration.Calibrators:
    """Fits calibrators on the predictions of held-out rows."""
    folds = calibration.fold_of_rows(predictions.list_lengths)
    return calibration.fit_calibrators(predictions.logits, predictions.labels, folds)


def cross_fitted_predictions(predictions: Predictions) -> dict[str, np.ndarray]:
    """Returns calibrated logits of held-out rows, by calibrators fitted on other rows.

    Returns:
        Head -> [L], or [L, 3] of an amount.
    """
    folds = calibration.fold_of_rows(predictions.list_lengths)
    return calibration.cross_fitted_logits(predictions.logits, predictions.labels, folds)


def train_ranker(
    data_set: reader.DataSet,
    config: RankerConfig,
    workdir: str | os.PathLike[str],
    progress: bool = False,
    callbacks: Sequence[tf.keras.callbacks.Callback] = (),
    strategy: tf.distribute.Strategy | None = None,
) -> None:
    """Trains a ranker, keeps its best epoch, and fits its calibrators.

    With several workers, the chief alone does the steps after the epochs.

    Args:
        data_set: The converted log.
        config: Sizes and schedule.
        workdir: Work directory; training resumes from its files.
        progress: Whether to show progress bars.
        callbacks: Additional callbacks for `Model.fit`.
        strategy: From `training.joined`; None: one worker.

    Raises:
        ValueError: See `check_trainable` and `training.check_callbacks`; or workers, or an earlier
            training in the work directory, have other options or data.
    """
    check_kind(config, RankerConfig)
    training.check_callbacks(callbacks)
    workdir = pathlib.Path(workdir)
    check_trainable(data_set)
    strategy = strategy or tf.distribute.get_strategy()
    source = ranking_model.RANKERS.digest(config.ranker)
    training.check_same(
        strategy,
        {"data": data_set.training_checksum, "source": source, **dataclasses.asdict(config)},
    )
    if training.is_chief(strategy):
        save_config(config, workdir / "config.json", data_set.training_checksum, source)
    with strategy.scope():
        model = build_ranker(data_set, config)
        start(model, data_set)
    compared, rated = (
        [[field.name for field in pair] for pair in pairs]
        for pairs in (model.compared, model.rated)
    )
    for label, found in (
        ("compared fields of the query and the ad", compared),
        ("click rates of pairs of values", rated),
    ):
        if progress and found:
            terminal.print_above_bars(f"  {label}: {', '.join(map(' and '.join, found))}")
    clicks, labeled = (f("train", "click") for f in (data_set.label_sum, data_set.label_count))
    rows = data_set.num_rows("train") - (1 - config.negative_keep_rate) * (labeled - clicks)
    batch_size = training.batch_size(config.batch_size, rows, _MIN_BATCHES)
    steps_per_epoch = math.ceil(rows / batch_size)
    plan = training.Plan(
        epochs=config.epochs,
        patience=training.patience(config.patience, steps_per_epoch),
        learning_rate=config.learning_rate,
        embedding_learning_rate=config.embedding_learning_rate,
        steps_per_epoch=steps_per_epoch,
        examples_per_epoch=rows,
        metric="validation_loss",
        maximize=False,
        average_decay=config.average_decay,
    )

    def read(number: reader.Seed) -> tf.data.Dataset:
        return data_set.batches_of_like_lists(
            "train", batch_size, config.seed + number, config.negative_keep_rate
        )

    shrink = training.ShrinkEmbeddings(
        data_set.schema, data_set.windows("train"), config.embedding_shrinkage
    )
    history = training.fit(
        model,
        read,
        lambda: _validate(model, data_set, config),
        plan,
        workdir,
        progress=progress,
        options=dataclasses.asdict(config),
        extra_callbacks=[*callbacks, shrink],
    )
    if not training.is_chief(strategy):
        return
    if strategy.num_replicas_in_sync > 1:
        # A separate model, which needs no other replica.
        model = build_ranker(data_set, config, compared, rated)
        training.restore_best(model, workdir)
    if type(model) is not ranker.Ranker:
        # Once more: before training, a gate that is initialized to 0 hides what it multiplies.
        logit_checks.check_model(model)
    fit_rare_heads(model, data_set, config.seed)
    # With the fitted heads; `best` then contains everything that serving needs.
    model.save_weights(str(workdir / "best" / "weights"))
    held_out = predict_split(model, data_set, "validation")
    calibrators = fit_calibrators(held_out)
    served = down_sampling.undo_down_sampling(
        served_values(held_out, calibrators), data_set.schema.negative_keep_rate
    )
    description = {
        "heads": list(model.heads),
        "compared": compared,
        "rated": rated,
        "calibrators": calibrators.to_json(),
        "score_deviations": default_weights.score_deviations(served, list(model.heads)),
        "validation": ranker_validation.measure_heads(
            cross_fitted_predictions(held_out),
            held_out.labels,
            np.repeat(
                ranker_validation.owner_of_requests(data_set, "validation"), held_out.list_lengths
            ),
        ),
        "history": history,
    }
    training.write_description(workdir / "ranker.json", data_set, source, description)


def fit_rare_heads(model: ranking_model.RankingModel, data_set: reader.DataSet, seed: int) -> None:
    """Fits the models that are mixed into the rare heads of a trained ranker; see `rare_heads`.

    Factorization machines are fitted on training rows, and their shares on validation rows.
    """
    model.engagement_shares.assign(tf.zeros_like(model.engagement_shares))
    for machine in model.machines.values():
        machine.share.assign(0.0)
    fitted = {
        head: machine
        for head, machine in model.machines.items()
        if rare_heads.fit(machine, data_set, head, seed)
    }
    rows = predict_split(model, data_set, "validation")
    for machine in fitted.values():
        machine.share.assign(1.0)
    machines = predict_split(model, data_set, "validation").logits if fitted else {}
    folds = calibration.fold_of_rows(rows.list_lengths)
    mixed = dict(rows.logits)
    for head, machine in fitted.items():
        share = rare_heads.best_share(head, rows.logits[head], machines[head], rows.labels, folds)
        machine.share.assign(share)
        mixed = layers.mix_logits(mixed, head, machines[head], share)
    shares = []
    for head, after in model.amount_heads.items():
        engaged = layers.after_click_logits(mixed[CLICK.label], mixed[after]).numpy()
        shares.append(rare_heads.best_share(head, rows.logits[head], engaged, rows.labels, folds))
    model.engagement_shares.assign(shares)


def load_ranker(
    data_set: reader.DataSet, workdir: pathlib.Path
) -> tuple[ranking_model.RankingModel, calibration.Calibrators, dict[str, Any]]:
    """Restores a trained ranker.

    Args:
        data_set: The data set that it was trained on.
        workdir: Directory of the training, with `ranker.json`.

    Returns:
        The ranker, its calibrators, and the content of `ranker.json`.

    Raises:
        FileNotFoundError: No ranker was trained in the work directory.
        ValueError: It was trained on another data set, or its source has changed.
    """
    path = workdir / "ranker.json"
    description = training.read_description(path, data_set, "tfrec train_ranker")
    config = load_config(RankerConfig, workdir / "config.json")
    training.check_source(path, description, ranking_model.RANKERS.digest(config.ranker))
    model = build_ranker(data_set, config, description["compared"], description["rated"])
    training.restore_best(model, workdir)
    return model, calibration.Calibrators.from_json(description["calibrators"]), description


def validation_loss(
    model: ranking_model.RankingModel, predictions: Predictions, loss_weights: Mapping[str, float]
) -> float:
    """Returns the weighted losses of all heads, as in training; 0 of a head without labels."""
    logits = {head: tf.constant(values) for head, values in predictions.logits.items()}
    batch = {head: tf.constant(values) for head, values in predictions.labels.items()}
    batch["mask"] = tf.ones(len(predictions.ad_rows), tf.bool)
    losses = {
        head: tasks.mean(task(*tasks.labeled_rows(head, batch, logits, 1.0), compute_metrics=False))
        for head, task in model.tasks.items()
    }
    return sum(loss_weights[head] * float(loss) for head, loss in losses.items())


def _validate(
    model: ranking_model.RankingModel, data_set: reader.DataSet, config: RankerConfig
) -> dict[str, float]:
    predictions = predict_split(model, data_set, "validation")
    labels, known, _ = predictions.labeled(CLICK.label)
    served = served_values(predictions, calibration.Calibrators())
    training.write_curves(served, predictions.labels)
    probabilities = served[CLICK.output][known]
    auc = metrics.auc(labels, probabilities)
    result = {
        "validation_loss": validation_loss(model, predictions, config.loss_weights),
        "validation_click_log_loss": metrics.log_loss(labels, probabilities),
    }
    return result if auc is None else {**result, "validation_click_auc": auc}
