"""Vectors as columns of an encoded row: float16, two in each int32 column.

So ids and vectors of a row are in one int32 matrix, from the data set through both models to the
ranker of a release. Only the direction of a vector counts. It is divided by its largest absolute
value, so float16 is precise enough for vectors of any scale, and a vector has the same bits in
every batch and when it is encoded again. A vector of zeros is missing.

Shapes: B rows, n values of a vector, m = ceil(n / 2) columns.
"""

import numpy as np
import pyarrow as pa
import tensorflow as tf


def scaled(values: tf.Tensor) -> tf.Tensor:
    """Divides vectors by their largest absolute value.

    Args:
        values: [B, n] float32; a vector with a non-finite value counts as missing.

    Returns:
        [B, n] float16 in [-1, 1].
    """
    is_finite = tf.reduce_all(tf.math.is_finite(values), axis=-1, keepdims=True)
    values = tf.where(is_finite, values, 0.0)
    largest = tf.reduce_max(tf.abs(values), axis=-1, keepdims=True)
    return tf.cast(tf.math.divide_no_nan(values, largest), tf.float16)


def encode(values: tf.Tensor) -> tf.Tensor:
    """Encodes vectors [B, n] float32 as columns [B, m] int32."""
    length = values.shape[-1]
    padded = tf.pad(scaled(values), [[0, 0], [0, length % 2]])
    return tf.bitcast(tf.reshape(padded, [-1, (length + 1) // 2, 2]), tf.int32)


def decode(columns: tf.Tensor, length: int) -> tf.Tensor:
    """Returns the vectors [..., n] float32 of columns [..., m] int32."""
    pairs = tf.bitcast(columns, tf.float16)  # [..., m, 2]
    shape = tf.concat([tf.shape(columns)[:-1], [2 * columns.shape[-1]]], axis=0)
    return tf.cast(tf.reshape(pairs, shape)[..., :length], tf.float32)


def columns_of(values: np.ndarray) -> np.ndarray:
    """Returns the columns [B, m] int32 of scaled vectors [B, n] float16."""
    padded = np.pad(values, [(0, 0), (0, values.shape[1] % 2)])
    return np.ascontiguousarray(padded).view(np.int32)


def from_arrow(lists: pa.Array, length: int) -> np.ndarray:
    """Returns lists of numbers [B], all of one length, as [B, n] float32; null becomes zeros."""
    values = np.zeros((len(lists), length), np.float32)
    flat = lists.drop_null().flatten().cast(pa.float32()).to_numpy(zero_copy_only=False)
    values[lists.is_valid().to_numpy(zero_copy_only=False)] = flat.reshape(-1, length)
    return values
