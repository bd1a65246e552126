"""Ad embeddings for TensorBoard's projector.

    DIRECTORY/projector_config.pbtxt   names the tensor and its metadata
    DIRECTORY/ads.tsv                  a row per ad: id, clicks, impressions, display fields
    DIRECTORY/checkpoint, projector-1  the embeddings

`tensorboard --logdir=DIRECTORY` shows them under "Projector". Paths are relative, so the
directory can be moved. The projector is slow and unreadable with more than thousands of points, so
it gets the most clicked ads and a random sample of the others.

Shapes: N ads, n ads shown, D embedding.
"""

import pathlib

import numpy as np
import pyarrow as pa
import tensorflow as tf
from tensorboard.plugins import projector as plugin

from tfrecords import reader
from tfrecords.schema import SHOWN

MAX_ADS = 10_000
# Name of the variable of the attribute `ads` in a tf.train.Checkpoint.
_TENSOR_NAME = "ads/.ATTRIBUTES/VARIABLE_VALUE"
_METADATA = "ads.tsv"


def choose_rows(clicks: np.ndarray, limit: int = MAX_ADS, seed: int = 1) -> np.ndarray:
    """Picks the ads to show: the most clicked, and as many others at random.

    Args:
        clicks: [N] numbers of clicks.
        limit: Maximum number of ads.
        seed: Seed of the sample.

    Returns:
        [min(N, limit)] rows of the catalog, the most clicked first.
    """
    order = np.argsort(-clicks, kind="stable")
    if len(order) <= limit:
        return order
    top = (limit + 1) // 2
    sampled = np.random.default_rng(seed).choice(order[top:], limit - top, replace=False)
    return np.concatenate([order[:top], sampled])


def metadata_of(catalog: reader.Catalog, rows: np.ndarray) -> pa.Table:
    """Returns id, clicks, impressions, raw fields without vectors, and columns to show of ads.

    Args:
        catalog: The ads.
        rows: [n] catalog rows.
    """
    shown = catalog.table.take(rows)
    if SHOWN in shown.column_names:
        shown = shown.drop_columns([SHOWN])
        shown_values = catalog.shown(rows)
        for name in shown_values[0] if shown_values else ():
            if name not in shown.column_names:
                texts = ["" if ad[name] is None else str(ad[name]) for ad in shown_values]
                shown = shown.append_column(name, pa.array(texts))
    names = {
        reader.AD_ID: "ad_id",
        reader.CLICKS: "training_clicks",
        reader.IMPRESSIONS: "training_impressions",
    }
    fields = [
        field.name
        for field in shown.schema
        if field.name not in names
        and not field.name.startswith(reader.RELEASED)
        and not pa.types.is_fixed_size_list(field.type)
    ]
    return shown.select([*names, *fields]).rename_columns([*names.values(), *fields])


def write_projector(directory: pathlib.Path, embeddings: np.ndarray, metadata: pa.Table) -> None:
    """Writes embeddings and their metadata, replacing earlier ones.

    Args:
        directory: The run's TensorBoard directory.
        embeddings: [n, D] float32.
        metadata: n rows, at least two columns: TensorBoard reads a single one without a header.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / _METADATA).write_text(_tsv(metadata), encoding="utf-8")
    checkpoint = tf.train.Checkpoint(ads=tf.Variable(embeddings, dtype=tf.float32))
    tf.train.CheckpointManager(
        checkpoint, str(directory), max_to_keep=1, checkpoint_name="projector"
    ).save()
    config = plugin.ProjectorConfig()
    embedding = config.embeddings.add()
    embedding.tensor_name, embedding.metadata_path = _TENSOR_NAME, _METADATA
    plugin.visualize_embeddings(str(directory), config)


def _tsv(table: pa.Table) -> str:
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    lines = [table.column_names, *rows]
    return "".join("\t".join(map(_cell, line)) + "\n" for line in lines)


def _cell(value: object) -> str:
    """Formats a value without tabs and line ends, which would shift all following ads."""
    if value is None:
        return ""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return " ".join(text.split())
