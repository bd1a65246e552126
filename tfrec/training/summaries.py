"""Scalars and histograms of a training run for TensorBoard.

Gradient norms are those of the whole gradient before clipping. Embedding norms are means by field,
over the values of a batch and over values drawn from the whole table: rows that training does not
reach keep their initial norm. Expensive scalars are computed in every `STEPS_PER_SAMPLE`th step,
histograms once per epoch over a bounded number of values, so no cost grows with the tables.

TensorBoard sorts groups by name, so it opens with the losses: `batch/` has those of the latest
steps, and `epoch/` means and validation metrics.

Shapes: B batch, F fields, W columns of ids, E field embedding.
"""

import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto import summary_pb2
from tensorboard.plugins.histogram import summary_v2 as histogram
from tensorboard.plugins.scalar import summary_v2 as scalar

from tfrec import layers
from tfrecords import encoding, reader
from tfrecords.schema import Field

STEPS_PER_SAMPLE = 20
_VALUES_PER_FIELD = 256
_VALUES_PER_HISTOGRAM = 10_000
Gradient: TypeAlias = tf.Tensor | tf.IndexedSlices | None


class GradientNorms:
    """The gradient norms of the dense layers and of the tables in the latest sampled step."""

    def __init__(self) -> None:
        self._dense, self._sparse = (
            tf.Variable(
                0.0,
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.MEAN,
            )
            for _ in range(2)
        )

    def update(
        self, step: tf.Tensor, dense: Sequence[Gradient], sparse: Sequence[Gradient]
    ) -> None:
        """Measures the gradients if the step is sampled; None counts as zero."""

        def measure() -> None:
            self._dense.assign(_global_norm(dense))
            self._sparse.assign(_global_norm(sparse))

        tf.cond(step % STEPS_PER_SAMPLE == 0, measure, lambda: None)

    def read(self) -> dict[str, tf.Tensor]:
        """Returns the norms; zeros before the first sampled step."""
        return {
            "norm_of_gradient/dense": self._dense.read_value(),
            "norm_of_gradient/sparse": self._sparse.read_value(),
        }


def _global_norm(gradients: Sequence[Gradient]) -> tf.Tensor:
    squares = [tf.reduce_sum(tf.square(_values(g))) for g in gradients if g is not None]
    return tf.sqrt(tf.add_n([tf.zeros([]), *squares]))


def _values(gradient: Gradient) -> tf.Tensor:
    """Returns the values of a gradient, summed by row of a table."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    rows, index = tf.unique(gradient.indices)
    return tf.math.unsorted_segment_sum(gradient.values, index, tf.size(rows))


def embedding_norms(
    layer: layers.FieldEmbeddings,
    fields: Sequence[Field],
    fitted: encoding.FittedSchema,
    ids: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """Measures the embeddings of one side.

    Args:
        layer: The side's embeddings.
        fields: The side's fields, in the order of the columns; vectors are left out.
        fitted: The fitted schema.
        ids: [B, W] int32 encoded rows of a batch.

    Returns:
        For each field the mean norm over the batch, and over values drawn uniformly from all its
        values; the same ones in every call.
    """
    drawn = _drawn_ids(fields, fitted)
    fields = [field for field in fields if not field.is_vector]
    norms = tf.norm(layer(tf.concat([ids, drawn], axis=0)), axis=-1).numpy()  # [B + drawn, F]
    norms = norms[:, : len(fields)]
    of_batch, of_table = norms[: -len(drawn)].mean(axis=0), norms[-len(drawn) :].mean(axis=0)
    names = [f"{field.side}/{field.name}" for field in fields]
    return {
        **{f"norm_of_embeddings_in_batch/{n}": v for n, v in zip(names, of_batch, strict=True)},
        **{f"norm_of_embeddings_in_table/{n}": v for n, v in zip(names, of_table, strict=True)},
    }


def norms_of_sides(
    query: layers.FieldEmbeddings,
    ad: layers.FieldEmbeddings,
    fitted: encoding.FittedSchema,
    batch: reader.Batch,
) -> dict[str, tf.Tensor]:
    """Returns the `embedding_norms` of both sides.

    Args:
        query: The query side's embeddings.
        ad: The ad side's embeddings.
        fitted: The fitted schema.
        batch: `query` [B, Wq] and `ad` [B, Wa], int32, or lists `ad` [B, C, Wa] with `mask`
            [B, C], true for shown ads.
    """
    schema = fitted.schema
    ads = tf.boolean_mask(batch["ad"], batch["mask"]) if "mask" in batch else batch["ad"]
    return {
        **embedding_norms(query, schema.query_fields, fitted, batch["query"]),
        **embedding_norms(ad, schema.ad_fields, fitted, ads),
    }


def _drawn_ids(fields: Sequence[Field], fitted: encoding.FittedSchema) -> np.ndarray:
    """Draws ids [_VALUES_PER_FIELD, W]; each list holds one value."""
    generator = np.random.default_rng(0)
    ids = np.zeros((_VALUES_PER_FIELD, encoding.width(fields)), np.int32)
    for field, own in encoding.columns(fields):
        if field.is_vector:
            continue
        ids[:, own.start] = generator.integers(fitted.cardinality(field), size=_VALUES_PER_FIELD)
    return ids


class Meter:
    """Measures the speed between readings.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._examples, self._at = clock, 0, clock()

    def read(self, examples: int) -> dict[str, float]:
        """Returns the speed since the last reading.

        Args:
            examples: Number of examples since the start.
        """
        now = self._clock()
        speed = (examples - self._examples) / (now - self._at)
        self._examples, self._at = examples, now
        return {"speed/examples_per_second": speed}


def write_scalars(values: dict[str, tf.Tensor], step: int) -> None:
    """Writes scalars to the current summary writer at once, which is faster than one by one."""
    summary = summary_pb2.Summary()
    for name, value in values.items():
        summary.MergeFrom(scalar.scalar_pb(name, float(value)))
    tf.summary.experimental.write_raw_pb(summary.SerializeToString(), step=step)


def write_histograms(model: tf.keras.Model, step: int) -> None:
    """Writes histograms of the values of matrices and of the row norms of tables.

    Args:
        model: A model with `sparse_variables`.
        step: Number of the epoch.
    """
    tables = {variable.ref() for variable in model.sparse_variables}
    summary = summary_pb2.Summary()
    for variable in model.trainable_variables:
        name = variable.name.removesuffix(":0")
        if variable.ref() in tables:
            rows = tf.gather(variable, _spread(variable.shape[0], _VALUES_PER_HISTOGRAM)).numpy()
            summary.MergeFrom(
                histogram.histogram_pb(f"row_norm/{name}", np.linalg.norm(rows, axis=-1))
            )
        elif variable.shape.rank > 1:
            values = variable.numpy().ravel()
            taken = values[_spread(len(values), _VALUES_PER_HISTOGRAM)]
            summary.MergeFrom(histogram.histogram_pb(f"weights/{name}", taken))
    tf.summary.experimental.write_raw_pb(summary.SerializeToString(), step=step)


def _spread(count: int, limit: int) -> np.ndarray:
    """Returns at most `limit` numbers spread evenly over range(count)."""
    return np.linspace(0, count - 1, min(count, limit)).astype(np.int32)
