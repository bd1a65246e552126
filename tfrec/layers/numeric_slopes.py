"""A line in the logarithms of an ad's numbers, such as its price, for the logarithm of an amount.

Numbers are embedded by bucket, and few rows have the largest ones. But the best ads are often
there: where prices are log-normal, the dearest of many ads bring ten times what a bucket of them
has brought on average. The line is fitted to the first rows before training, which then learns how
amounts differ from it. Numbers beyond those of the log count as the largest or smallest of it, so
nothing is extrapolated.

Shapes: N rows, B requests, C candidates, W columns of ids.

References:
    McCullagh and Nelder, Generalized Linear Models, 1989 (offsets).
    Cheng et al., Wide & Deep Learning for Recommender Systems, 2016 (a linear part beside a deep
    one).
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfrec.layers import number_lookup
from tfrecords import encoding, schema


class NumericSlopes(tf.keras.layers.Layer):
    """Multiplies the logarithms of numbers with slopes, which are 0 before `fit`.

    Args:
        fitted: The fitted schema.
        fields: The fields of one side, in the order of the columns.
    """

    def __init__(self, fitted: encoding.FittedSchema, fields: Sequence[schema.Field]) -> None:
        super().__init__(name="numeric_slopes")
        self._numbers = number_lookup.scaled_numbers(fitted, fields)
        self.slopes = self.add_weight(
            "slopes", (self._numbers.num_fields,), initializer="zeros", trainable=False
        )

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the line [B, C] at encoded ads [B, C, W] int32."""
        return tf.linalg.matvec(self._numbers(ids), self.slopes)

    def fit(self, ids: np.ndarray, targets: np.ndarray) -> None:
        """Sets the slopes to a ridge regression of targets [N] on the numbers of ads [N, W] int32.

        The penalty is that of a prior of deviation 1 for targets with noise of deviation 1.
        """
        if not len(targets):
            return
        numbers = self._numbers(ids).numpy().astype(np.float64)
        centered = numbers - numbers.mean(axis=0)
        gram = centered.T @ centered + np.eye(numbers.shape[1])
        self.slopes.assign(np.linalg.solve(gram, centered.T @ (targets - targets.mean())))
