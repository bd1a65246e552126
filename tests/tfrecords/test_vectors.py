"""Vectors as columns of an encoded row."""

import numpy as np
import pyarrow as pa
import tensorflow as tf

from tfrecords import vectors


def test_a_vector_is_divided_by_its_largest_absolute_value():
    # 3, -4, 2 by 4, and 1e-30, 2e-30, 0 by 2e-30: the scale of a vector does not count.
    values = tf.constant([[3.0, -4.0, 2.0], [1e-30, 2e-30, 0.0]])
    decoded = vectors.decode(vectors.encode(values), 3).numpy()
    assert decoded.tolist() == [[0.75, -1.0, 0.5], [0.5, 1.0, 0.0]]


def test_two_values_share_a_column_and_an_odd_length_is_padded():
    # float16: 1.0 is 0x3c00 and 0.5 is 0x3800; the first value is the lower half.
    columns = vectors.encode(tf.constant([[1.0, 0.5, 1.0]])).numpy()
    assert columns.tolist() == [[0x38003C00, 0x3C00]]
    assert columns.dtype == np.int32


def test_zeros_and_values_that_are_not_finite_are_missing():
    values = tf.constant([[0.0, -0.0], [1.0, np.nan], [np.inf, 1.0]])
    assert vectors.encode(values).numpy()[1:].tolist() == [[0], [0]]
    np.testing.assert_array_equal(vectors.decode(vectors.encode(values), 2), np.zeros((3, 2)))


def test_encoding_is_the_same_alone_in_a_batch_and_when_repeated():
    values = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    once = vectors.encode(tf.constant(values)).numpy()
    alone = np.concatenate([vectors.encode(tf.constant(values[i : i + 1])) for i in range(50)])
    again = vectors.encode(vectors.decode(tf.constant(once), 7)).numpy()
    np.testing.assert_array_equal(once, alone)
    np.testing.assert_array_equal(once, again)


def test_columns_keep_leading_dimensions():
    columns = vectors.encode(tf.constant([[1.0, 0.5], [0.25, 1.0]]))
    decoded = vectors.decode(tf.reshape(columns, [1, 2, 1]), 2).numpy()
    assert decoded.tolist() == [[[1.0, 0.5], [0.25, 1.0]]]


def test_arrow_lists_become_rows_and_null_zeros():
    lists = pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float64()))
    assert vectors.from_arrow(lists, 2).tolist() == [[1, 2], [0, 0], [3, 4]]
    fixed = pa.array([None, [3.0, 4.0]], pa.list_(pa.float16(), 2))
    assert vectors.from_arrow(fixed, 2).tolist() == [[0, 0], [3, 4]]
