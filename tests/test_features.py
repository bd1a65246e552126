"""Field embeddings: a shared table for categories, a thermometer for numbers."""

import numpy as np
import pytest
import tensorflow as tf

from tfrec import features
from tfrecords import encoding
from tfrecords import schema as schema_lib

# Interleaved kinds, so that the output must be put back in field order.
FIELDS = (
    schema_lib.Field("age", "numeric", "query"),
    schema_lib.Field("country", "categorical", "query", num_oov_buckets=1),
    schema_lib.Field("visits", "numeric", "query"),
    schema_lib.Field("device", "categorical", "query", num_oov_buckets=1),
)
SCHEMA = schema_lib.Schema(
    "shop", (*FIELDS, schema_lib.Field("sku", "categorical", "ad")), ad_key=("sku",), click="c"
)
STATISTICS = {
    "age": encoding.FieldStatistics(boundaries=(1.0, 2.0, 3.0)),  # ids 0..4
    "visits": encoding.FieldStatistics(boundaries=(5.0,)),  # ids 0..2
    "country": encoding.FieldStatistics(vocabulary=("CH", "DE")),  # ids 0..3
    "device": encoding.FieldStatistics(vocabulary=("phone",)),  # ids 0..2
    "sku": encoding.FieldStatistics(vocabulary=("a",)),
}
FITTED = encoding.FittedSchema(SCHEMA, STATISTICS)


@pytest.fixture
def layer():
    layer = features.FieldEmbeddings(FITTED, FIELDS, 2)
    layer(tf.zeros([1, 4], tf.int32))
    for variable in layer.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    # Row r of the table is (r, −r); step s of numeric field f is (1, f) and missing (100, 100).
    rows = np.arange(7.0)
    layer.table.assign(np.stack([rows, -rows], axis=1))
    steps = np.ones((2, 5, 2))
    steps[:, :, 1] = [[0], [1]]
    steps[:, 0] = 100.0
    layer.steps.assign(steps)
    return layer


def test_a_bucket_is_the_sum_of_the_steps_up_to_it_and_missing_stands_apart(layer):
    ids = tf.constant([[t, 0, min(t, 2), 0] for t in range(5)])
    embedded = layer(ids).numpy()
    np.testing.assert_allclose(embedded[:, 0], [[100, 100], [1, 0], [2, 0], [3, 0], [4, 0]])
    np.testing.assert_allclose(embedded[:, 2], [[100, 100], [1, 1], [2, 2], [2, 2], [2, 2]])


def test_categorical_fields_own_disjoint_rows_of_one_table(layer):
    ids = tf.constant([[0, 0, 0, 0], [0, 3, 0, 2]])
    embedded = layer(ids).numpy()
    # Country has ids 0..3, so device starts at row 4: rows 0 and 4, then 3 and 6.
    np.testing.assert_allclose(embedded[:, 1], [[0, 0], [3, -3]])
    np.testing.assert_allclose(embedded[:, 3], [[4, -4], [6, -6]])
    assert layer.table.shape == (7, 2)


def test_any_leading_dimensions_are_kept(layer):
    ids = tf.constant(np.random.default_rng(0).integers(0, 3, (5, 6, 4)), tf.int32)
    embedded = layer(ids)
    assert embedded.shape == (5, 6, 4, 2)
    np.testing.assert_allclose(embedded[2, 3], layer(ids[2, 3][None])[0])
    flat = features.flatten(embedded)
    assert flat.shape == (5, 6, 8)
    np.testing.assert_allclose(flat[2, 3], tf.reshape(embedded[2, 3], [-1]))


def test_only_the_rows_of_a_batch_get_table_gradients(layer):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tf.constant([[1, 2, 1, 0]])))
    table, steps = tape.gradient(loss, [layer.table, layer.steps])
    assert isinstance(table, tf.IndexedSlices)
    assert sorted(table.indices.numpy().ravel().tolist()) == [2, 4]
    # Bucket 1 learns through step 1 alone.
    assert steps.numpy()[:, 1].all()
    assert not steps.numpy()[:, [0, 2, 3, 4]].any()


@pytest.mark.parametrize("kind", ["numeric", "categorical"])
def test_a_side_of_one_kind_only_works(kind):
    fields = [field for field in FIELDS if field.kind == kind]
    layer = features.FieldEmbeddings(FITTED, fields, 3)
    assert layer(tf.zeros([4, 2], tf.int32)).shape == (4, 2, 3)
    assert len(layer.sparse_variables) == (kind == "categorical")


def test_the_cross_layer_multiplies_by_the_input_and_adds_what_it_crosses():
    layer = features.CrossLayer()
    x0, x = tf.constant([[1.0, 2.0]]), tf.constant([[3.0, 5.0]])
    layer(x0, x)
    layer.set_weights([np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([0.0, 1.0])])
    # x W + b = (3 + 5, 5 + 1); times x0: (8, 12); plus x: (11, 17).
    np.testing.assert_allclose(layer(x0, x), [[11.0, 17.0]])
