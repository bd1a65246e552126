"""Products of field embeddings, and the query multiplied into their weights."""

import numpy as np
import pytest
import tensorflow as tf

from tfrec import layers, ranking
from tfrec.exported import candidate_scores

pytestmark = pytest.mark.slow


def test_products_are_of_each_ad_field_with_each_query_field():
    query = tf.constant([[[1.0, 2.0], [0.0, 1.0]]])  # two fields
    ads = tf.constant([[[[3.0, 1.0]], [[-1.0, 4.0]]]])  # two candidates of one field
    # 3·1 + 1·2, 3·0 + 1·1; -1·1 + 4·2, -1·0 + 4·1
    np.testing.assert_allclose(layers.pairwise_products(query, ads), [[5.0, 1.0], [7.0, 4.0]])


def test_the_query_folded_into_weights_gives_the_weighted_products():
    # One query field [1, 2], two ad fields; weights 10 and 100 of their products.
    folded = candidate_scores.folded_products(
        tf.constant([[[1.0, 2.0]]]), tf.constant([[10.0], [100.0]])
    )
    np.testing.assert_allclose(folded, [[[10.0], [20.0], [100.0], [200.0]]])


def test_both_orders_agree_over_batches():
    rng = np.random.default_rng(1)
    query = tf.constant(rng.normal(size=(3, 4, 5)), tf.float32)
    ads = tf.constant(rng.normal(size=(3, 7, 2, 5)), tf.float32)
    kernel = tf.constant(rng.normal(size=(8, 6)), tf.float32)
    wanted = tf.matmul(layers.pairwise_products(query, ads), kernel)
    flat = tf.reshape(ads, [3, 7, 10])
    found = tf.reshape(tf.matmul(flat, candidate_scores.folded_products(query, kernel)), [-1, 6])
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


class WithoutNegativeInputs(ranking.Ranker):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.ad_input = tf.keras.layers.Dense(self._config.feed_forward_dim, activation="relu")


def test_a_layer_that_a_subclass_has_changed_is_exported_as_it_was_trained(data_set, ranker_config):
    model = WithoutNegativeInputs(data_set.fitted, ranker_config, ["click", "revenue"])
    batch = next(iter(data_set.batches("test", 8)))
    model(batch)
    for layer in model.head_layers.values():
        layer.kernel.assign(tf.ones_like(layer.kernel))
    trained = model.score(batch["query"], batch["ad"])
    exported = candidate_scores.score_candidates(model, batch["query"], batch["ad"])
    for head, logits in trained.items():
        np.testing.assert_allclose(exported[head], logits, atol=1e-4)


def test_compared_fields_change_the_scores_and_are_exported(data_set, ranker_config):
    schema = data_set.schema
    pair = tuple(
        next(field for field in side if field.kind == "numeric")
        for side in (schema.query_fields, schema.ad_fields)
    )
    batch = next(iter(data_set.batches("test", 8)))
    tf.keras.utils.set_random_seed(1)
    model = ranking.Ranker(data_set.fitted, ranker_config, ["click", "revenue"])
    model.compare([pair])
    trained = model.score(batch["query"], batch["ad"])
    exported = candidate_scores.score_candidates(model, batch["query"], batch["ad"], parts=2)
    for head, logits in trained.items():
        np.testing.assert_allclose(exported[head], logits, atol=1e-4)
    # Both orders read them.
    assert np.any(model.comparisons(batch["query"][:, None], batch["ad"]))
    kernels = [model.pair_input.kernel, *(layer.kernel for layer in model.head_layers.values())]
    for kernel in kernels:
        kernel.assign(tf.concat([kernel[:-3], tf.zeros_like(kernel[-3:])], axis=0))
    without = candidate_scores.score_candidates(model, batch["query"], batch["ad"])
    assert np.abs(without["click"] - exported["click"]).max() > 0.01
