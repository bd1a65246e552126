"""Numeric fields of ads and queries: buckets by id, and a linear term in their logarithms.

Numbers are embedded by bucket, and few rows are in the last bucket. But the best ads are often
there: if prices are log-normal, the most expensive of many ads bring ten times the average of
their bucket. So the logarithm of an amount starts from a linear function of the logarithms of the
ad's numbers, such as its price. It is fitted to the first rows before training, which then learns
how amounts differ from it. Numbers outside the range of the log are clipped to it, so nothing is
extrapolated.

Shapes: N rows, B requests, C candidates, W columns of ids of a side, M numeric fields, T buckets.

References:
    McCullagh and Nelder, Generalized Linear Models, 1989 (offsets).
    Cheng et al., Wide & Deep Learning for Recommender Systems, 2016 (a linear part next to a deep
    one).
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfrecords import encoding, schema

# Numbers are divided by this quantile of their sizes: all but the smallest become logarithms.
_SCALE_QUANTILE = 0.01


class NumberLookup:
    """Maps encoded rows of a side to a value for each of its numbers.

    Args:
        fields: The fields of the side, in the order of the columns.
        tables: The value of each id of each numeric field.
        dtype: Type of the values.

    Attributes:
        num_fields: Number M of numeric fields.
    """

    def __init__(
        self, fields: Sequence[schema.Field], tables: Sequence[np.ndarray], dtype: type
    ) -> None:
        starts = [columns.start for f, columns in encoding.columns(fields) if f.is_bucketed]
        self.num_fields = len(starts)
        self._columns = np.array(starts, np.int32)
        self._first = np.cumsum([0, *map(len, tables)])[:-1].astype(np.int32)
        self._values: np.ndarray = np.concatenate([*tables, np.empty(0)]).astype(dtype)

    def __call__(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the values [..., M] of ids [..., W] int32."""
        return tf.gather(self._values, tf.gather(ids, self._columns, axis=-1) + self._first)


def coarse_rows(
    fitted: encoding.FittedSchema, fields: Sequence[schema.Field], first: Sequence[int]
) -> NumberLookup:
    """Returns a lookup of the row, in a table, of the coarse bucket of each number.

    Args:
        fitted: The fitted schema.
        fields: The fields of a side.
        first: The row of id 0 of each numeric field.
    """
    numeric = [field for field in fields if field.is_bucketed]
    buckets = [fitted.statistics[field.name].coarse_buckets() for field in numeric]
    rows = [bucket + row for bucket, row in zip(buckets, first, strict=True)]
    return NumberLookup(fields, rows, np.int32)


def scaled_numbers(fitted: encoding.FittedSchema, fields: Sequence[schema.Field]) -> NumberLookup:
    """Returns a lookup of the logarithm of each number, see `numbers_of_ids`."""
    numeric = [field for field in fields if field.is_bucketed]
    tables = [numbers_of_ids(fitted.statistics[field.name].boundaries) for field in numeric]
    return NumberLookup(fields, tables, np.float32)


def numbers_of_ids(boundaries: Sequence[float]) -> np.ndarray:
    """Returns a number for each id of a numeric field; over the buckets, mean 0 and deviation 1.

    Args:
        boundaries: Ascending boundaries [T - 1] of the buckets.

    Returns:
        [T + 1] float32: the inverse hyperbolic sine, which is a logarithm for numbers that are not
        small, of the lower end of each bucket, and of the upper end of the first; 0, their mean,
        for a missing number.
    """
    if not boundaries:
        return np.zeros(2, np.float32)
    ends = np.asarray([boundaries[0], *boundaries], np.float64)
    sizes = np.abs(ends[ends != 0])
    scale = np.quantile(sizes, _SCALE_QUANTILE) if sizes.size else 1.0
    numbers = np.arcsinh(ends / scale)
    numbers = (numbers - numbers.mean()) / max(numbers.std(), 1e-6)
    return np.concatenate([[0.0], numbers]).astype(np.float32)


class NumericSlopes(tf.keras.layers.Layer):
    """Multiplies the logarithms of numbers with slopes, which are 0 before `fit`.

    Args:
        fitted: The fitted schema.
        fields: The fields of one side, in the order of the columns.
    """

    def __init__(self, fitted: encoding.FittedSchema, fields: Sequence[schema.Field]) -> None:
        super().__init__(name="numeric_slopes")
        self._numbers = scaled_numbers(fitted, fields)
        self.slopes = self.add_weight(
            "slopes", (self._numbers.num_fields,), initializer="zeros", trainable=False
        )

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the linear term [B, C] of encoded ads [B, C, W] int32."""
        return tf.linalg.matvec(self._numbers(ids), self.slopes)

    def fit(self, ids: np.ndarray, targets: np.ndarray) -> None:
        """Sets the slopes to a ridge regression of targets [N] on the numbers of ads [N, W] int32.

        The penalty corresponds to a prior of deviation 1 and target noise of deviation 1.
        """
        if not len(targets):
            return
        numbers = self._numbers(ids).numpy().astype(np.float64)
        centered = numbers - numbers.mean(axis=0)
        gram = centered.T @ centered + np.eye(numbers.shape[1])
        self.slopes.assign(np.linalg.solve(gram, centered.T @ (targets - targets.mean())))
