"""Shrinks the embeddings of rare values after each epoch.

In the second epoch, the embeddings of rare values already know the labels of the rows that they
meet again. The dense layers then learn to trust embeddings that will not be as good on other rows,
and learn nothing else: validation worsens after a few epochs (the one-epoch effect). So after each
epoch the embedding of a value with n training rows is multiplied by n / (n + c), and so is what its
optimizer has accumulated. A rare value starts each epoch almost without a past, as it starts the
first, and the dense layers can learn for many epochs.

References:
    Liu et al., Multi-Epoch Learning for Deep Click-Through Rate Prediction Models, 2023 (the
    embeddings of all values start again in each epoch).
    Morris, Parametric Empirical Bayes Inference, 1983 (the factor).
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from tfrec import layers
from tfrec.training import stage_model
from tfrecords import reader
from tfrecords.schema import Schema


class ShrinkEmbeddings(tf.keras.callbacks.Callback):
    """Shrinks the rows of a model's field embeddings, and their accumulators, after each epoch.

    Args:
        schema: The log's schema.
        batches: The training rows; see `count_rows`.
        rows: The number c: a value with as many rows keeps half of its embedding. 0: all values
            keep theirs, and no rows are counted.
    """

    def __init__(self, schema: Schema, batches: Iterable[reader.Batch], rows: float) -> None:
        super().__init__()
        self._schema, self._batches, self._rows = schema, batches, rows

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        counts = count_rows(self.model, self._schema, self._batches) if self._rows else {}
        self._kept = {
            table: (count / (count + self._rows)).astype(np.float32)[:, None]
            for table, count in counts.items()
        }

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        _, sparse = self.model.optimizer.optimizers
        start = sparse.initial_accumulator_value
        for table in self.model.sparse_variables:
            kept = self._kept.get(table.ref())
            if kept is not None:
                accumulator = sparse._accumulators[sparse._index_dict[sparse._var_key(table)]]
                table.assign(kept * table)
                accumulator.assign(start + kept * (accumulator - start))


def count_rows(
    model: stage_model.StageModel, schema: Schema, batches: Iterable[reader.Batch]
) -> dict[Any, np.ndarray]:
    """Counts how many training rows look up each row of the tables.

    Args:
        model: The model; embedding layers of all fields of a side are counted.
        schema: The log's schema.
        batches: The training rows: `query` [B, Wq] and `ad` [L, Wa] int32; `list_lengths` [B] if
            queries have several ads.

    Returns:
        Reference of a table [V, E] -> [V].
    """
    sides = {"query": schema.query_fields, "ad": schema.ad_fields}
    counted = [
        (side, part)
        for part in model.submodules
        for side, fields in sides.items()
        # A layer that the model does not call has no table.
        if isinstance(part, layers.FieldEmbeddings) and part.built
        if list(part.fields) == list(fields)
    ]
    totals: dict[Any, np.ndarray] = {}
    for batch in batches:
        ones = np.ones(len(batch["ad"]))
        weights = {"query": np.asarray(batch.get("list_lengths", ones)), "ad": ones}
        for side, part in counted:
            for table, count in part.count(np.asarray(batch[side]), weights[side]).items():
                totals[table] = totals.get(table, 0.0) + count
    return totals
