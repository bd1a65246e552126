"""Id dropout: whose ids are hidden, and by what."""

import dataclasses

import logs
import numpy as np
import pytest
import tensorflow as tf

from tfrec import id_dropout, metrics, retrieval, retrieval_training
from tfrecords import encoding
from tfrecords import schema as schema_lib

# Query columns: seen ×2, user; ad columns: film, year.
FIELDS = (
    schema_lib.Field("seen", "categorical_list", "query", max_list_length=2),
    schema_lib.Field("user", "categorical", "query", column="uid", num_oov_buckets=3),
    schema_lib.Field("film", "categorical", "ad", num_oov_buckets=1),
    schema_lib.Field("year", "numeric", "ad"),
)
STATISTICS = {
    "seen": encoding.FieldStatistics(vocabulary=("a",)),
    "user": encoding.FieldStatistics(vocabulary=("u", "v")),  # ids 1, 2; strangers 3, 4, 5
    "film": encoding.FieldStatistics(vocabulary=("a", "b")),  # ids 1, 2; strangers 3
    "year": encoding.FieldStatistics(boundaries=(1990.0,)),
}


def fitted(fields=FIELDS, ad_key=("film",), user_key="uid"):
    schema = schema_lib.Schema("films", fields, ad_key=ad_key, click="c", user_key=user_key)
    return encoding.FittedSchema(schema, STATISTICS)


def test_a_share_of_users_become_any_of_the_strangers_and_nothing_else_changes():
    tf.random.set_seed(1)
    ids = np.tile(np.array([[1, 0, 2]], np.int32), (8_000, 1))
    hidden = id_dropout.of_user(fitted(), 0.25)(tf.constant(ids)).numpy()
    assert (hidden[:, :2] == [1, 0]).all()
    values, counts = np.unique(hidden[:, 2], return_counts=True)
    assert values.tolist() == [2, 3, 4, 5]
    # Three quarters stay, a twelfth becomes each stranger; five standard errors of 0.005.
    np.testing.assert_allclose(counts / 8_000, [0.75, 1 / 12, 1 / 12, 1 / 12], atol=0.025)


def test_ads_with_other_fields_are_hidden():
    hidden = id_dropout.of_ad(fitted(), 1.0)(tf.constant([[1, 2], [2, 1]]))
    assert hidden.numpy().tolist() == [[3, 2], [3, 1]]


def test_where_nothing_else_tells_ads_apart_or_no_one_field_is_the_id_none_is_hidden():
    ids = tf.constant([[1, 2], [2, 1]])
    for data in (fitted(FIELDS[:3]), fitted(ad_key=("film", "year"))):
        width = encoding.width(data.schema.ad_fields)
        hidden = id_dropout.of_ad(data, 1.0)(ids[:, :width])
        assert hidden.numpy().tolist() == ids[:, :width].numpy().tolist()
    query = tf.constant([[1, 0, 2]])
    assert id_dropout.of_user(fitted(user_key=None), 1.0)(query).numpy().tolist() == [[1, 0, 2]]
    assert id_dropout.of_user(fitted(), 0.0)(query).numpy().tolist() == [[1, 0, 2]]


@pytest.fixture(scope="module")
def genres(tmp_path_factory):
    """Users of three tastes, each a genre of 50 ads, ten of which are never shown in training."""
    directory = tmp_path_factory.mktemp("genres")
    rng = np.random.default_rng(4)

    def click(user, ad, split):
        return f"u{user},a{50 * (user % 3) + ad},{split}"

    shown = [
        click(user, ad, "train") for user in range(120) for ad in rng.choice(40, 10, replace=False)
    ]
    rng.shuffle(shown)
    held_out = [click(user, rng.integers(40), "validation") for user in range(120)]
    never_shown = [click(user, 40 + rng.integers(10), "test") for user in range(120)]
    log = directory / "log.csv"
    log.write_text("\n".join(["user,ad,split", *shown, *held_out, *never_shown]) + "\n")
    ads = directory / "ads.csv"
    lines = [f"a{ad},g{ad // 50},c{rng.integers(20)}" for ad in range(150)]
    ads.write_text("\n".join(["ad,genre,colour", *lines]) + "\n")
    fields = (
        schema_lib.Field("user", "categorical", "query", min_count=1),
        *(schema_lib.Field(n, "categorical", "ad", min_count=1) for n in ("ad", "genre", "colour")),
    )
    schema = schema_lib.Schema(
        "genres", fields, ("ad",), click=None, user_key="user", split="split"
    )
    return logs.converted_table(log, directory / "data", schema, ads_path=ads)


def test_ads_that_were_never_shown_are_found_by_their_other_fields(
    genres, retrieval_config, tmp_path
):
    config = dataclasses.replace(
        retrieval_config, field_dim=16, epochs=8, id_dropout=0.1, refit=False
    )
    retrieval_training.train_and_evaluate(genres, config, tmp_path)
    model, _ = retrieval_training.load(genres, tmp_path)
    clicks = retrieval_training.read_clicks(genres, "test")
    found = retrieval.exact_top_k(
        retrieval.embed_in_batches(model.query_tower, clicks.query),
        retrieval.embed_in_batches(model.ad_tower, np.asarray(genres.catalogue().features)),
        50,
    )
    # A genre has 50 of the 150 ads: at random, a third would be found.
    assert metrics.recall_at_k(found, clicks.ad_rows) > 0.8
