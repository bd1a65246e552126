"""Scalars and histograms of a training run for TensorBoard.

Gradient norms refer to the whole gradient before clipping. They are computed in every
`STEPS_PER_SAMPLE`th step, histograms once per epoch over a bounded number of values, so no cost
grows with the tables.

TensorBoard sorts groups of scalars by name, so it opens with the losses: `batch/` has the latest
steps, and `epoch/` has means over an epoch and validation metrics.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto import summary_pb2
from tensorboard.plugins.histogram import summary_v2 as histogram
from tensorboard.plugins.scalar import summary_v2 as scalar

STEPS_PER_SAMPLE = 20
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
    halved_squares = [tf.nn.l2_loss(_values(g)) for g in gradients if g is not None]
    return tf.sqrt(2.0 * tf.add_n([tf.zeros([]), *halved_squares]))


def _values(gradient: Gradient) -> tf.Tensor:
    """Returns the values of a gradient, summed by row of a table."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    rows, index = tf.unique(gradient.indices)
    return tf.math.unsorted_segment_sum(gradient.values, index, tf.size(rows))


def write_scalars(values: dict[str, tf.Tensor], step: int) -> None:
    """Writes scalars to the current summary writer at once, which is faster than one by one."""
    summary = summary_pb2.Summary()
    for name, value in values.items():
        summary.MergeFrom(scalar.scalar_pb(name, float(value)))
    tf.summary.experimental.write_raw_pb(summary.SerializeToString(), step=step)


def write_histograms(model: tf.keras.Model, step: int) -> None:
    """Writes histograms of the values of matrices and of the row norms of sparse variables."""
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
