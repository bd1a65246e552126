"""Field embeddings: a shared table for categories, a thermometer for numbers."""

import numpy as np
import pytest
import tensorflow as tf

from tfrec.layers import features
from tfrecords import encoding, schema

# Interleaved kinds, so that the output must be put back in field order.
FIELDS = (
    schema.Field("age", "numeric", "query"),
    schema.Field("country", "categorical", "query", num_oov_buckets=1),
    schema.Field("visits", "numeric", "query"),
    schema.Field("device", "categorical", "query", num_oov_buckets=1),
)
SCHEMA = schema.Schema(
    "shop", (*FIELDS, schema.Field("sku", "categorical", "ad")), ad_key=("sku",), click="c"
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


def test_in_training_the_mean_squared_norm_is_a_loss_to_which_padding_adds_nothing():
    fields = [field for field in FIELDS if field.kind == "categorical"]
    layer = features.FieldEmbeddings(FITTED, fields, 2, l2=0.5)
    layer(tf.zeros([1, 2], tf.int32))
    layer.frequency_steps.assign(tf.zeros_like(layer.frequency_steps))
    rows = np.arange(7.0)
    layer.table.assign(np.stack([rows, -rows], axis=1))
    # Rows 1 and 4, then 2 and 6: squared norms 2 (1 + 16) = 34 and 2 (4 + 36) = 80, mean 57.
    ids = tf.constant([[[1, 0], [2, 2]], [[0, 0], [0, 0]]])
    layer(ids, training=True)
    np.testing.assert_allclose(layer.losses, [0.5 * 57])
    layer(ids)
    assert not layer.losses


@pytest.mark.parametrize("kind", ["numeric", "categorical"])
def test_a_side_of_one_kind_only_works(kind):
    fields = [field for field in FIELDS if field.kind == kind]
    layer = features.FieldEmbeddings(FITTED, fields, 3)
    assert layer(tf.zeros([4, 2], tf.int32)).shape == (4, 2, 3)
    assert len(layer.sparse_variables) == (kind == "categorical")


# Table rows: country 0..3, then the lists: genres 4..7 (ids 0..3) and tags 8..10 (ids 0..2).
LIST_FIELDS = (
    schema.Field("genres", "categorical_list", "query", num_oov_buckets=1, max_list_length=3),
    schema.Field("age", "numeric", "query"),
    schema.Field("country", "categorical", "query", num_oov_buckets=1),
    schema.Field("tags", "categorical_list", "query", num_oov_buckets=1, max_list_length=2),
)
LIST_FITTED = encoding.FittedSchema(
    schema.Schema("films", (*LIST_FIELDS, SCHEMA.fields[-1]), ad_key=("sku",), click="c"),
    {
        **STATISTICS,
        "genres": encoding.FieldStatistics(vocabulary=("drama", "comedy")),
        "tags": encoding.FieldStatistics(vocabulary=("new",)),
    },
)


@pytest.fixture
def list_layer():
    layer = features.FieldEmbeddings(LIST_FITTED, LIST_FIELDS, 2)
    layer(tf.zeros([1, 7], tf.int32))
    layer.table.assign(np.stack([np.arange(11.0), -np.arange(11.0)], axis=1))
    layer.frequency_steps.assign(tf.zeros_like(layer.frequency_steps))
    layer.steps.assign(np.ones((1, 5, 2)))
    return layer


def test_a_list_is_the_mean_of_its_values(list_layer):
    # Columns: genres ×3, age, country, tags ×2.
    ids = tf.constant([[1, 3, 0, 2, 1, 2, 0], [1, 2, 3, 4, 0, 1, 2]])
    expected = [
        # Rows 5 and 7; two steps; row 1; row 10.
        [[6, -6], [2, 2], [1, -1], [10, -10]],
        # Rows 5, 6 and 7; four steps; row 0; rows 9 and 10.
        [[6, -6], [4, 4], [0, 0], [9.5, -9.5]],
    ]
    np.testing.assert_allclose(list_layer(ids), expected)


def test_a_list_without_values_is_the_row_of_id_zero(list_layer):
    embedded = list_layer(tf.zeros([1, 7], tf.int32))
    np.testing.assert_allclose(embedded[0, 0], [4, -4], rtol=1e-6)
    np.testing.assert_allclose(embedded[0, 3], [8, -8], rtol=1e-6)


def test_neither_order_nor_padding_of_a_list_matters(list_layer):
    lists = [[1, 3, 0], [3, 1, 0], [0, 1, 3], [3, 0, 1]]
    embedded = list_layer(tf.constant([[*ids, 0, 0, 0, 0] for ids in lists])).numpy()
    np.testing.assert_allclose(embedded, np.repeat(embedded[:1], 4, axis=0))
    # A value that comes twice counts twice: rows 5, 5 and 7 make 17 / 3.
    twice = list_layer(tf.constant([[1, 1, 3, 0, 0, 0, 0]]))
    np.testing.assert_allclose(twice[0, 0], [17 / 3, -17 / 3], rtol=1e-6)


def test_values_of_a_list_share_what_their_frequency_has_learned(list_layer):
    # String fields are country, genres, tags. Genres: step t adds (1, 0), missing is (100, 0).
    steps = np.zeros((3, features.FREQUENCY_BUCKETS, 2))
    steps[1, 1:, 0], steps[1, 0, 0] = 1.0, 100.0
    list_layer.frequency_steps.assign(steps)
    ids = [[1, 0, 0], [1, 2, 0], [3, 0, 0], [0, 0, 0]]
    embedded = list_layer(tf.constant([[*i, 0, 0, 0, 0] for i in ids])).numpy()
    # Rank 1 is in bucket 1, rank 2 in the next, 2, and what is out of vocabulary after it, in 3.
    expected = [[5 + 1, -5], [5.5 + 1.5, -5.5], [7 + 3, -7], [4 + 100, -4]]
    np.testing.assert_allclose(embedded[:, 0], expected, rtol=1e-6)


def test_a_batch_with_lists_is_its_single_rows(list_layer):
    ids = tf.constant(np.random.default_rng(0).integers(0, 3, (5, 6, 7)), tf.int32)
    embedded = list_layer(ids)
    assert embedded.shape == (5, 6, 4, 2)
    for b, c in np.ndindex(5, 6):
        np.testing.assert_allclose(embedded[b, c], list_layer(ids[b, c][None])[0], rtol=1e-6)


def test_a_list_teaches_its_values_and_its_padding_nothing(list_layer):
    def gradient(*genres):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(list_layer(tf.constant([[*genres, 0, 0, 0, 0]]))[:, 0])
        slices = tape.gradient(loss, list_layer.table)
        assert isinstance(slices, tf.IndexedSlices)
        return tf.convert_to_tensor(slices).numpy()[4:8, 0]

    np.testing.assert_allclose(gradient(1, 3, 0), [0, 0.5, 0, 0.5])
    np.testing.assert_allclose(gradient(0, 0, 0), [1, 0, 0, 0], rtol=1e-6)


def test_a_side_of_lists_only_works():
    layer = features.FieldEmbeddings(LIST_FITTED, [LIST_FIELDS[3], LIST_FIELDS[0]], 3)
    assert layer(tf.zeros([4, 5], tf.int32)).shape == (4, 2, 3)
    assert [variable.shape[0] for variable in layer.sparse_variables] == [7]


def test_frequency_buckets_leave_none_out():
    # 2 log2 of ranks 1..6 is 0, 2, 3.17, 4, 4.64, 5.17: buckets 1, 2, 3, 4, 4, 5.
    buckets = features.frequency_buckets(1 + 6 + 2, num_oov_buckets=2)
    np.testing.assert_array_equal(buckets, [0, 1, 2, 3, 4, 4, 5, 6, 6])
    assert features.frequency_buckets(1 + 8, num_oov_buckets=8).max() == 1
    assert features.frequency_buckets(10_000_000, 8).max() < features.FREQUENCY_BUCKETS
