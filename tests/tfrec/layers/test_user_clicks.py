"""What users clicked as an input of the query tower."""

import dataclasses

import logs
import numpy as np
import pytest
import tensorflow as tf

from tfrec import layers, retrieval
from tfrecords import encoding
from tfrecords import schema as schema_lib

USER = schema_lib.Field("user", "categorical", "query", num_oov_buckets=1, min_count=1)
AD = schema_lib.Field("ad", "categorical", "ad", num_oov_buckets=1, min_count=1)
STATISTICS = {
    "user": encoding.FieldStatistics(vocabulary=("u", "v", "w")),
    "ad": encoding.FieldStatistics(vocabulary=("a", "b", "c", "d")),
}


def fitted(*fields, user_key="user"):
    schema = schema_lib.Schema("shop", fields, ad_key=("ad",), click=None, user_key=user_key)
    return encoding.FittedSchema(schema, STATISTICS)


def fingerprints(*users):
    return encoding.fingerprint(tf.constant(users)).numpy()


def embed(rows):
    """Ad r has one field, embedded as (r, 1)."""
    rows = tf.cast(rows, tf.float32)
    return tf.stack([rows, tf.ones_like(rows)], axis=1)[:, None]


@pytest.fixture
def layer():
    schema = fitted(USER, AD)
    layer = layers.UserClicks(layers.KeyIds.for_users(schema), schema, 2)
    nothing = tf.zeros([1], tf.int32)
    layer(nothing, nothing, nothing, embed)
    layer.map.kernel.assign(np.eye(2))
    return layer


# u clicked ads 1, 2 and 3, v ad 3, w nothing.
CLICKED = layers.ClickedAds(
    np.repeat(fingerprints("u", "v"), (3, 1)), np.array([1, 2, 3, 3], np.int32)
)


def test_the_sums_kept_are_over_the_root_of_the_number_of_clicks(layer):
    layer.store(CLICKED, 4, embed)
    # Ids: missing, u, v, w, out of vocabulary.
    sums = layer.stored_sums(tf.constant([[0], [1], [2], [3], [4]]))
    root = np.sqrt(3)
    np.testing.assert_allclose(
        sums, [[0, 0], [6 / root, 3 / root], [3, 1], [0, 0], [0, 0]], rtol=1e-6
    )


def test_users_out_of_vocabulary_and_requests_without_one_are_unknown(layer):
    known = layer.users.is_known(tf.constant([[0], [1], [2], [3], [4]]))
    assert known.numpy().tolist() == [False, True, True, True, False]


def test_in_training_a_clicks_own_ad_is_left_out(layer):
    users = tf.constant(np.append(fingerprints("u", "v", "u", "w"), 5))
    own = tf.constant([2, 3, 0, 1, 1])
    sums = layer(*CLICKED.others(users, own, 10, tf.zeros([len(users)])), embed)
    root = np.sqrt(3)
    # The mean of 1 and 3; nothing is left; all of u's ads; nothing; an unknown user.
    expected = [[2 * root, root], [0, 0], [2 * root, root], [0, 0], [0, 0]]
    np.testing.assert_allclose(sums, expected, rtol=1e-6)


def test_any_clicks_of_a_user_with_many_may_be_drawn_each_once():
    clicked = layers.ClickedAds(np.full(50, 9), np.arange(50))
    users, own = tf.fill([40], tf.constant(9, tf.int64)), tf.zeros([40], tf.int32)
    generator = tf.random.Generator.from_seed(1)
    ads, owner, counts = (
        t.numpy() for t in clicked.others(users, own, 10, generator.uniform([len(users)]))
    )
    assert (counts == 50).all()
    assert set(ads.tolist()) == set(range(1, 50))
    for query in range(40):
        drawn = ads[owner == query]
        assert len(drawn) in (9, 10)
        assert len(set(drawn.tolist())) == len(drawn)


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """Forty users of each of three tastes, who click 12 of the 40 ads of their taste."""
    directory = tmp_path_factory.mktemp("groups")
    return logs.converted_tastes(directory, users=120, tastes=3, ads=40, clicks=12, seed=4)


@pytest.mark.trains
def test_served_queries_know_what_their_users_clicked(groups, retrieval_config, tmp_path):
    config = dataclasses.replace(
        retrieval_config, field_dim=16, epochs=3, batch_size=32, click_factors=False, refit=False
    )
    retrieval.train_two_tower(groups, config, tmp_path)
    model, _ = retrieval.load_two_tower(groups, tmp_path)
    table = model.query_tower.user_clicks.table.numpy()
    assert np.abs(table[1:121]).max(axis=1).all()
    clicks = retrieval.read_clicks(groups, "test")
    ads = retrieval.embed_in_batches(model.ad_tower, np.asarray(groups.catalog().features))
    found = retrieval.exact_top_k(
        retrieval.embed_in_batches(model.query_tower, clicks.query), ads, 40
    )
    # Ads of a user's taste are a third of all.
    taste = np.array([int(str(a)[1:]) // 40 for a in groups.catalog().ad_ids.to_pylist()])
    assert (taste[found] == taste[clicks.ad_rows][:, None]).mean() > 0.8
