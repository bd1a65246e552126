"""The embeddings of rare values shrink after each epoch, by their numbers of training rows."""

import numpy as np
import pytest
import tensorflow as tf

from tfrec import layers, training
from tfrec.training import shrinkage
from tfrecords import encoding, schema

SCHEMA = schema.Schema(
    "shop",
    (
        schema.Field("country", "categorical", "query", num_oov_buckets=1),
        schema.Field("genres", "categorical_list", "query", num_oov_buckets=1, max_list_length=2),
        schema.Field("sku", "categorical", "ad", num_oov_buckets=1),
    ),
    ad_key=("sku",),
    click="c",
)
FITTED = encoding.FittedSchema(
    SCHEMA,
    {
        "country": encoding.FieldStatistics(vocabulary=("CH",)),  # ids 0..2
        "genres": encoding.FieldStatistics(vocabulary=("drama",)),
        "sku": encoding.FieldStatistics(vocabulary=("a", "b")),  # ids 0..3
    },
)
# Two requests, of three and one ads. Columns: country, genres ×2.
BATCH = {
    "query": np.array([[1, 1, 2], [2, 0, 0]], np.int32),
    "list_lengths": np.array([3, 1]),
    "ad": np.array([[1], [2], [1], [3]], np.int32),
}


class Model(training.StageModel):
    """The loss is the sum of all embeddings."""

    def __init__(self):
        super().__init__()
        self.query = layers.FieldEmbeddings(FITTED, SCHEMA.query_fields, 2)
        self.ads = layers.FieldEmbeddings(FITTED, SCHEMA.ad_fields, 2)
        self.other = layers.FieldEmbeddings(FITTED, SCHEMA.query_fields[:1], 2)
        self.uncalled = layers.FieldEmbeddings(FITTED, SCHEMA.query_fields, 2)
        self.query(tf.zeros([1, 3], tf.int32))
        self.ads(tf.zeros([1, 1], tf.int32))
        self.other(tf.zeros([1, 1], tf.int32))
        self.built = True

    def compute_loss(self, inputs, training=False):
        return tf.reduce_sum(self.query(inputs["query"])) + tf.reduce_sum(self.ads(inputs["ad"]))


def test_a_query_counts_once_for_each_of_its_ads():
    model = Model()
    counts = shrinkage.count_rows(model, SCHEMA, [BATCH, BATCH])
    # Country 0..2, then genres 0..2; the second query has no genres: twice id 0.
    np.testing.assert_array_equal(counts[model.query.table.ref()], [0, 6, 2, 4, 6, 6])
    np.testing.assert_array_equal(counts[model.ads.table.ref()], [0, 4, 2, 2])
    # A layer of some of the fields reads other columns.
    assert model.other.table.ref() not in counts
    clicks = {"query": BATCH["query"], "ad": BATCH["ad"][:2]}
    counts = shrinkage.count_rows(model, SCHEMA, [clicks])
    np.testing.assert_array_equal(counts[model.query.table.ref()], [0, 1, 1, 2, 1, 1])


def fitted_once(shrink):
    model = Model()
    model.compile(training.dense_and_sparse(model, 0.0, 0.5, steps=1, initial_accumulator=0.25))
    before = {}

    class Before(tf.keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            before.update(table=model.ads.table.numpy(), sums=sums(model))

    data = tf.data.Dataset.from_tensors({k: tf.constant(v) for k, v in BATCH.items()})
    model.fit(data, verbose=0, callbacks=[Before(), shrink])
    return model, before


def sums(model):
    _, sparse = model.optimizer.optimizers
    return sparse._accumulators[sparse._index_dict[sparse._var_key(model.ads.table)]].numpy()


def test_a_value_with_n_rows_keeps_n_of_n_plus_c():
    model, before = fitted_once(training.ShrinkEmbeddings(SCHEMA, [BATCH], 2.0))
    kept = np.array([0.0, 2 / 4, 1 / 3, 1 / 3])[:, None]  # n is 0, 2, 1 and 1
    np.testing.assert_allclose(model.ads.table, kept * before["table"], rtol=1e-6)
    # Sums of squared gradients were 0.25, and 1 more for each looked up row.
    assert before["sums"][1:].min() > 1
    np.testing.assert_allclose(sums(model), 0.25 + kept * (before["sums"] - 0.25), rtol=1e-6)


def test_shrinkage_of_zero_counts_and_shrinks_nothing():
    unread = iter(lambda: pytest.fail("rows are counted"), None)
    model, before = fitted_once(training.ShrinkEmbeddings(SCHEMA, unread, 0.0))
    np.testing.assert_array_equal(model.ads.table, before["table"])
