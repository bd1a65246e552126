"""Trains and restores the two-tower model of a data set.

WORKDIR/config.json           the resolved configuration
WORKDIR/checkpoints, best/    resumable state; the best pass
WORKDIR/tensorboard/          curves
WORKDIR/retrieval.json        written last: fingerprint, validation history
"""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from tfrec import config as config_lib
from tfrec import metrics, retrieval, training
from tfrecords import encoding, reader

MAX_VALIDATION_CLICKS = 5_000


@dataclasses.dataclass(frozen=True)
class Clicks:
    """Clicked pairs of a split: encoded queries [N, Wq] and catalogue rows [N]."""

    query: np.ndarray
    ad_rows: np.ndarray


def build(
    data_set: reader.DataSet, config: config_lib.RetrievalConfig, catalogue: reader.Catalogue
) -> retrieval.TwoTower:
    """Builds an untrained two-tower model, with its weights created."""
    tf.keras.utils.set_random_seed(config.seed)
    model = retrieval.TwoTower(data_set.fitted, config, catalogue)
    schema = data_set.schema
    model.query_tower(tf.zeros([1, encoding.width(schema.query_fields)], tf.int32))
    model.ad_tower(tf.zeros([1, encoding.width(schema.ad_fields)], tf.int32))
    return model


def read_clicks(data_set: reader.DataSet, split: str, limit: int | None = None) -> Clicks:
    """Reads the clicks of a split, in log order, at most `limit` of them."""
    queries, rows, count = [], [], 0
    for batch in data_set.clicked(split, 4_096):
        queries.append(batch["query"].numpy())
        rows.append(batch["ad_row"].numpy())
        count += len(rows[-1])
        if limit is not None and count >= limit:
            break
    if not count:
        width = encoding.width(data_set.schema.query_fields)
        return Clicks(np.empty((0, width), np.int32), np.empty(0, np.int32))
    return Clicks(np.concatenate(queries)[:limit], np.concatenate(rows)[:limit])


def train_and_evaluate(
    data_set: reader.DataSet,
    config: config_lib.RetrievalConfig,
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
    config_lib.save(config, workdir / "config.json")
    clicks = data_set.label_sum("train", "click")
    if not clicks:
        raise ValueError(
            f"The training split of {data_set.directory} has no clicks (label 1): there is nothing "
            "to learn from. Check the label column, or use a larger log."
        )
    catalogue = data_set.catalogue()
    held_out = read_clicks(data_set, "validation", MAX_VALIDATION_CLICKS)
    if not len(held_out.ad_rows):
        raise ValueError(
            f"The validation split of {data_set.directory} has no clicks to measure recall on; "
            "use a larger log or a larger --validation_fraction."
        )
    model = build(data_set, config, catalogue)
    metric = f"validation_corpus_recall_at_{config.selection_k}"
    plan = training.Plan(
        epochs=config.epochs,
        patience=config.patience,
        learning_rate=config.learning_rate,
        embedding_learning_rate=config.embedding_learning_rate,
        steps_per_epoch=max(1, round(clicks / config.batch_size)),
        metric=metric,
        maximise=True,
    )
    trainer = training.Trainer(model, functools.partial(_losses, model, config), plan, workdir)

    def validate() -> dict[str, float]:
        ads = retrieval.embed_in_batches(model.ad_tower, np.asarray(catalogue.features))
        queries = retrieval.embed_in_batches(model.query_tower, held_out.query)
        found = retrieval.exact_top_k(queries, ads, config.selection_k)
        return {
            metric: metrics.recall_at_k(found, held_out.ad_rows),
            "validation_corpus_recall_at_100": metrics.recall_at_k(
                found[:, :100], held_out.ad_rows
            ),
            "temperature": float(model.temperature),
        }

    history = trainer.fit(
        lambda epoch: data_set.clicked("train", config.batch_size, seed=config.seed + epoch),
        validate,
        progress,
    )
    training.write_description(workdir / "retrieval.json", data_set, {"history": history})


def load(
    data_set: reader.DataSet, workdir: pathlib.Path
) -> tuple[retrieval.TwoTower, dict[str, Any]]:
    """Restores a trained two-tower model.

    Raises:
        FileNotFoundError: No model was trained in the work directory.
        ValueError: It was trained on another data set.
    """
    description = training.read_description(
        workdir / "retrieval.json", data_set, "scripts/train_retrieval.py"
    )
    config = config_lib.RetrievalConfig(**json.loads((workdir / "config.json").read_text()))
    model = build(data_set, config, data_set.catalogue())
    training.restore_best(model, workdir)
    return model, description


def _losses(
    model: retrieval.TwoTower, config: config_lib.RetrievalConfig, batch: reader.Batch
) -> dict[str, tf.Tensor]:
    softmax_loss = model.loss(batch)
    penalty = model.embedding_penalty(batch)
    return {
        "loss": softmax_loss + config.embedding_l2 * penalty,
        "softmax_loss": softmax_loss,
    }
