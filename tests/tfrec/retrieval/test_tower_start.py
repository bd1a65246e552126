"""The query tower starts by reading ads as the ad tower does."""

import dataclasses

import logs
import numpy as np
import pytest
import tensorflow as tf

from tfrec import config as config_lib
from tfrec import retrieval
from tfrec.retrieval import tower_start
from tfrecords import encoding
from tfrecords import schema as schema_lib

USER = schema_lib.Field("user", "categorical", "query", num_oov_buckets=1, min_count=1)
AD = schema_lib.Field("ad", "categorical", "ad", num_oov_buckets=1, min_count=1)
SHOP = schema_lib.Field("shop", "categorical", "ad", num_oov_buckets=1, min_count=1)
STATISTICS = {
    "user": encoding.FieldStatistics(vocabulary=("u",)),
    "ad": encoding.FieldStatistics(vocabulary=("a", "b", "c", "d")),
    "shop": encoding.FieldStatistics(vocabulary=("x", "y")),
}


class Catalog:
    """Four ads, as much of a catalog as a model needs."""

    def __init__(self, features):
        self.features = np.array(features, np.int32)
        self.clicks = np.ones(len(features), np.int64)

    def __len__(self):
        return len(self.features)


def towers(*ad_fields, features):
    schema = schema_lib.Schema("s", (USER, *ad_fields), ("ad",), None, user_key="user")
    fitted = encoding.FittedSchema(schema, STATISTICS)
    tf.keras.utils.set_random_seed(1)
    options = config_lib.RetrievalConfig(embedding_dim=16, hidden_dim=32, field_dim=8)
    model = retrieval.TwoTower(fitted, options, Catalog(features))
    nothing = tf.zeros([1], tf.int32)
    model.query_tower.user_clicks(nothing, nothing, nothing, model.embed_rows)
    model.query_tower(tf.zeros([1, 1], tf.int32))
    model.ad_tower(tf.zeros([1, len(ad_fields)], tf.int32))
    return model


def embedding_after_click_on(model, row):
    """The query embedding of a user with one click and nothing else known."""
    clicks = model.query_tower.user_clicks.map(
        tf.reshape(model.embed_rows(tf.constant([row])), [1, -1])
    )
    return model.query_tower.combine(tf.stack([tf.zeros_like(clicks), clicks], axis=1))


def similarity(model, row):
    ad_embedding = model.ad_tower.combine(model.embed_rows(tf.constant([row])))
    return float(tf.reduce_sum(embedding_after_click_on(model, row) * ad_embedding))


def test_a_user_of_one_click_starts_at_the_ad_clicked():
    model = towers(AD, features=[[1], [2], [3], [4]])
    assert max(abs(similarity(model, row)) for row in range(4)) < 0.9
    tower_start.copy_initial_weights(model.query_tower, model.ad_tower)
    # Both embeddings have length one.
    for row in range(4):
        assert similarity(model, row) == pytest.approx(1.0, abs=1e-5)


def test_with_more_fields_than_the_sum_holds_a_query_starts_near_its_ads():
    model = towers(AD, SHOP, features=[[1, 1], [2, 1], [3, 2], [4, 2]])
    tower_start.copy_initial_weights(model.query_tower, model.ad_tower)
    # Half of the sixteen numbers of an ad remain, in expectation √½ of its length; weights drawn
    # apart would give zero.
    mean = np.mean([similarity(model, row) for row in range(4)])
    assert mean > 0.4
    projection = model.query_tower.user_clicks.map.kernel.numpy()
    np.testing.assert_allclose(projection.T @ projection, np.eye(8), atol=1e-5)


def test_a_tower_that_reads_no_ads_keeps_its_initial_weights():
    schema = schema_lib.Schema("s", (USER, AD), ("ad",), None)
    fitted = encoding.FittedSchema(schema, STATISTICS)
    options = config_lib.RetrievalConfig(embedding_dim=16, hidden_dim=32, field_dim=8)
    model = retrieval.TwoTower(fitted, options, Catalog([[1], [2], [3], [4]]))
    model.query_tower(tf.zeros([1, 1], tf.int32))
    model.ad_tower(tf.zeros([1, 1], tf.int32))
    before = model.query_tower.get_weights()
    tower_start.copy_initial_weights(model.query_tower, model.ad_tower)
    for weight, value in zip(model.query_tower.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    """300 users, each with one of thirty tastes, who clicked eight of the thirty ads of that taste.

    An ad has 2.7 clicks, so it is learned almost only from who else clicked it.
    """
    directory = tmp_path_factory.mktemp("sparse")
    return logs.converted_tastes(directory, users=300, tastes=30, ads=30, clicks=8, seed=5)


@pytest.mark.trains
def test_a_sparse_log_of_ids_is_learned_in_a_few_epochs(sparse, retrieval_config, tmp_path):
    config = dataclasses.replace(
        retrieval_config, field_dim=16, epochs=4, refit=False, click_factors=False
    )
    retrieval.train_two_tower(sparse, config, tmp_path)
    model, _ = retrieval.load_two_tower(sparse, tmp_path)
    clicks = retrieval.read_clicks(sparse, "test")
    ads = retrieval.embed_in_batches(model.ad_tower, np.asarray(sparse.catalog().features))
    top = retrieval.exact_top_k(model.query_tower(clicks.query).numpy(), ads, 30)
    taste = np.array([int(ad[1:]) // 30 for ad in sparse.catalog().ad_ids.to_pylist()])
    # By chance, a thirtieth of the first thirty ads would match the taste. With three seeds, 0.55
    # to 0.59 match, and 0.12 to 0.29 if the query tower starts from its own weights.
    assert (taste[top] == taste[clicks.ad_rows][:, None]).mean() > 0.42
