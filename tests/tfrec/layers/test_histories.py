"""Histories: which lists are tied to ads, how they are pooled, and that ties are of use."""

import dataclasses

import logs
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from tfrec import layers, retrieval
from tfrec.layers import histories
from tfrecords import encoding, reader
from tfrecords import schema as schema_lib

FIELDS = (
    schema_lib.Field("age", "numeric", "query"),
    schema_lib.Field("seen", "categorical_list", "query", num_oov_buckets=1, max_list_length=3),
    schema_lib.Field("tags", "categorical_list", "query", num_oov_buckets=1, max_list_length=2),
    schema_lib.Field("film", "categorical", "ad", num_oov_buckets=1),
    schema_lib.Field("genre", "categorical", "ad", num_oov_buckets=1),
)
STATISTICS = {
    "age": encoding.FieldStatistics(boundaries=(20.0,)),
    "seen": encoding.FieldStatistics(vocabulary=("b", "a", "x")),
    "tags": encoding.FieldStatistics(vocabulary=("new", "old")),
    "film": encoding.FieldStatistics(vocabulary=("a", "b")),
    "genre": encoding.FieldStatistics(vocabulary=("b", "new", "old")),
}


def fitted(ad_key=("film",), **vocabularies):
    statistics = {
        **STATISTICS,
        **{name: encoding.FieldStatistics(vocabulary=v) for name, v in vocabularies.items()},
    }
    return encoding.FittedSchema(
        schema_lib.Schema("films", FIELDS, ad_key=ad_key, click="c"), statistics
    )


def catalog_of(*films):
    """Film number i, from 0, has id i + 1 and the genre with id i + 1."""
    features = np.array([[i + 1, i + 1] for i in range(len(films))], np.int32)
    return reader.Catalog(pa.table({reader.AD_ID: list(films)}), features)


def test_a_list_of_ads_is_tied_to_their_features():
    # The more frequent half of the values of `seen` is b and a; x is none of the films.
    # `tags` are all among the genres, but these are too few.
    ties = layers.find_histories(fitted(), catalog_of("a", "b"))
    assert list(ties) == ["seen"]
    # Missing, b, a, x, out of vocabulary.
    assert ties["seen"].tolist() == [[0, 0], [2, 2], [1, 1], [0, 0], [0, 0]]


def test_a_list_of_values_of_a_field_with_many_is_tied_to_this_field():
    many = tuple(f"v{i}" for i in range(100))
    nothing = catalog_of("y")
    ties = layers.find_histories(fitted(tags=("v7", "z"), genre=many), nothing)
    assert list(ties) == ["tags"]
    # Missing, v7, z, out of vocabulary; columns film and genre.
    assert ties["tags"].tolist() == [[0, 0], [0, 8], [0, 0], [0, 0]]
    assert not layers.find_histories(fitted(tags=("v7", "z"), genre=many[:99]), nothing)


def test_a_list_whose_frequent_values_are_not_ads_is_not_tied():
    films = tuple(f"v{i}" for i in range(20))
    # Nine of the ten more frequent values are films, then eight.
    assert layers.find_histories(fitted(seen=("x", *films[:9], *films[10:])), catalog_of(*films))
    assert not layers.find_histories(fitted(seen=("x", "y", *films[:18])), catalog_of(*films))
    # An ad that several columns identify is no value.
    assert not layers.find_histories(fitted(("film", "genre")), catalog_of("a", "b"))


@pytest.fixture
def layer():
    """Of a side with a tied list: row r of the ads' table is (r, 10 r), of the list's (r, 0)."""
    data = fitted()
    ads = layers.FieldEmbeddings(data, data.schema.ad_fields, 2)
    ads(tf.zeros([1, 2], tf.int32))
    queries = layers.FieldEmbeddings(
        data, data.schema.query_fields, 2, layers.find_histories(data, catalog_of("a", "b")), ads
    )
    queries(tf.zeros([1, 6], tf.int32))
    for variable in queries.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    ads.table.assign(np.arange(ads.table.shape[0])[:, None] * np.array([1.0, 10.0]))
    queries.table.assign(np.arange(queries.table.shape[0])[:, None] * np.array([1.0, 0.0]))
    # The film's own embedding counts once, its genre's not at all.
    queries._poolings[0].map.kernel.assign([[1, 0], [0, 1], [0, 0], [0, 0]])
    return queries


def test_a_value_of_a_tied_list_is_its_own_row_and_the_ads(layer):
    # Columns: age, seen ×3, tags ×2. b is id 1 of the list and id 2 of the films.
    embedded = layer(tf.constant([[0, 1, 0, 0, 0, 0], [0, 2, 0, 0, 0, 0], [0, 3, 0, 0, 0, 0]]))
    np.testing.assert_allclose(embedded[:, 1], [[1 + 2, 20], [2 + 1, 10], [3, 0]], atol=1e-5)


def test_a_value_of_a_tied_list_counts_for_its_ad_too(layer):
    # Once b after a, and twice an empty list.
    counts = layer.count(np.array([[0, 2, 1, 0, 0, 0], [0] * 6]), np.array([1, 2]))
    list_counts, ad_counts = counts[layer.table.ref()], counts[layer._ads.table.ref()]
    assert list_counts[:3].tolist() == [7, 1, 1]  # ids of seen
    assert ad_counts[:3].tolist() == [7, 1, 1]  # ids of films; what is no film counts as 0


def test_positions_are_weighted_from_the_end_wherever_a_list_begins(layer):
    pooling = layer._poolings[0]
    assert pooling.logits.shape == (3, 2)
    # Weighting 0, of the first half of the embedding: the latest counts three times the one
    # before; weighting 1: as much.
    pooling.logits.assign([[np.log(3.0), 0], [0, 0], [0, 0]])
    expected = [(3 * 3 + 3) / 4, (20 + 10) / 2]  # (2 + 1, 10) latest, (1 + 2, 20) before it
    for ids in ([1, 2, 0], [0, 1, 2], [1, 0, 2]):
        embedded = layer(tf.constant([[0, *ids, 0, 0]]))
        np.testing.assert_allclose(embedded[0, 1], expected, rtol=1e-5)
    # (1 + 2, 20) latest: the second half is the same, the first half of both values is 3.
    reverse = layer(tf.constant([[0, 2, 1, 0, 0, 0]]))
    np.testing.assert_allclose(reverse[0, 1], expected, rtol=1e-5)
    unequal = layer(tf.constant([[0, 1, 3, 0, 0, 0], [0, 3, 1, 0, 0, 0]]))
    # x is (3, 0), b is (3, 20): equal weights in the second half, whatever the order.
    np.testing.assert_allclose(unequal[:, 1, 1], [10, 10], rtol=1e-5)


def test_a_tied_list_without_values_is_the_row_of_id_zero(layer):
    layer.table.assign_add(np.full(layer.table.shape, 5.0, np.float32))
    embedded = layer(tf.zeros([1, 6], tf.int32))
    np.testing.assert_allclose(embedded[0, 1], [5, 5], rtol=1e-5)


def test_clicks_on_an_ad_train_its_embedding_in_histories(layer):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tf.constant([[0, 1, 0, 0, 0, 0]]))[:, 1])
    gradient = tape.gradient(loss, layer._ads.table)
    assert isinstance(gradient, tf.IndexedSlices)
    dense = tf.convert_to_tensor(gradient).numpy()
    assert dense[2].tolist() == [1, 1]
    assert not dense[[1, 3]].any()


def test_buckets_of_ages_share_what_the_points_between_them_learn():
    points = np.arange(histories.NUM_AGE_ROWS, dtype=np.float32)[:, None]
    table = histories.interpolate_ages(tf.constant(points)).numpy()[:, 0]
    # Bucket 0 is a missing age; 1 is point 0, in row 1, and 9 is point 1; 5 is half way.
    assert table[[0, 1, 5, 9, 11]].tolist() == [0, 1, 1.5, 2, 2.25]
    assert len(table) == 256


def test_the_ads_of_a_history_are_a_variable_of_graphs_but_not_of_checkpoints():
    pooling = histories.HistoryPooling(
        np.arange(4, dtype=np.int32)[:, None], lambda rows: tf.cast(rows[..., None], tf.float32), 2
    )
    model = tf.Module()
    model.part = pooling

    @tf.function
    def embed(ids):
        return pooling(ids, None, lambda distinct: tf.zeros([tf.size(distinct), 2]))

    pooling.build(tf.TensorShape([1, 3]))
    read = embed.get_concrete_function(tf.TensorSpec([1, 3], tf.int32)).variables
    (table,) = layers.history_tables(model)
    assert any(variable is table for variable in read)
    assert all(variable is not table for variable in pooling.variables)


def test_values_of_histories_are_weighted_by_age_and_event():
    history = schema_lib.Field(
        "recent", "history", "query", of="film", event=("click", "engagement"), max_length=3
    )
    columns = encoding.history_columns(history, slice(2, 11))
    pooling = histories.HistoryPooling(
        np.zeros((4, 1), np.int32), lambda ids: tf.zeros([len(ids), 1, 2]), 2, columns
    )
    # Ids 1 and 2 of ages in buckets 9 and 1; a click and an engagement.
    rows = tf.constant([[7, 7, 1, 2, 0, 9, 1, 0, 1, 2, 0]])
    embeddings = tf.constant([[5.0, 50.0], [1.0, 10.0], [2.0, 20.0]])

    def pooled(rows):
        return pooling(rows[:, columns.values], rows, lambda ids: tf.gather(embeddings, ids))

    pooled(rows)
    logits = np.zeros(pooling.age_logits.shape, np.float32)
    logits[2, 1] = np.log(3.0)  # weighting 1 of bucket 9
    logits[1, 1] = np.log(0.5)  # of bucket 1
    pooling.age_logits.assign(logits)
    events = np.zeros(pooling.event_logits.shape, np.float32)
    events[2, 3] = np.log(4.0)  # weighting 3 of engagements
    pooling.event_logits.assign(events)
    by_age = pooled(rows)[0, 1:]
    # Weights are divided by 1 plus their sum: 1 and 1 by 3; 3 and 0.5 by 4.5; 1 and 4 by 6.
    np.testing.assert_allclose(by_age[:, 0], [1, 4 / 4.5, 1, 9 / 6], rtol=1e-5)
    np.testing.assert_allclose(by_age[:, 1], 10 * by_age[:, 0], rtol=1e-5)
    # A value without an age adds nothing, and without values there is nothing of any age.
    no_age = tf.constant([[7, 7, 1, 2, 0, 9, 0, 0, 1, 2, 0]])
    alone = pooled(no_age)[0, 1:]
    np.testing.assert_allclose(alone[:, 0], [1 / 2, 3 / 4, 1 / 2, 1 / 2], rtol=1e-5)
    empty = tf.zeros([1, 11], tf.int32)
    np.testing.assert_array_equal(pooled(empty)[0, 1:], 0.0)
    # However certain the weights are, they stay weights.
    pooling.age_logits.assign(tf.fill(pooling.age_logits.shape, 200.0))
    certain = pooled(rows)[0, 1:]
    np.testing.assert_allclose(certain[:3, 0], 1.5, rtol=1e-5)


def shop(*more):
    """A shop: 26 films, 11 genres, 12 studios, three formats, 14 shelves; a history of films."""
    history = schema_lib.Field(
        "recent", "history", "query", of="ad", event=("click",), max_length=3
    )
    ad_fields = (
        schema_lib.Field("film", "categorical", "ad", num_oov_buckets=1),
        schema_lib.Field("studio", "categorical", "ad", num_oov_buckets=1),
        schema_lib.Field("genre", "categorical", "ad", num_oov_buckets=1),
        schema_lib.Field("format", "categorical", "ad", num_oov_buckets=1),
        schema_lib.Field("shelf", "categorical", "ad", num_oov_buckets=1),
        schema_lib.Field("price", "numeric", "ad"),
    )
    schema = schema_lib.Schema(
        "shop",
        (history, *more, *ad_fields),
        ad_key=("film",),
        click="c",
        user_key="user",
        time="time",
    )
    sizes = {"film": 26, "studio": 12, "genre": 11, "format": 3, "shelf": 14}
    statistics = {
        name: encoding.FieldStatistics(vocabulary=tuple(f"{name}{i}" for i in range(size)))
        for name, size in sizes.items()
    }
    statistics["price"] = encoding.FieldStatistics(boundaries=(1.0,))
    return encoding.FittedSchema(schema, statistics)


def films(data):
    """Film number i, from 0, has the genre and the studio with id 1 + i % 11, and else ids of 1."""
    numbers = np.arange(26)
    genres = 1 + numbers % 11
    columns = [numbers + 1, genres, genres, *np.ones((3, 26))]
    table = pa.table({reader.AD_ID: list(data.statistics["film"].vocabulary)})
    return reader.Catalog(table, np.stack(columns, axis=1).astype(np.int32))


def test_properties_of_a_history_are_broad_fields_of_the_ad():
    # A format is one of a handful, and a shelf has a film or two.
    genres = schema_lib.Field("genres", "history", "query", of="genre", event=("click",))
    seen = dataclasses.replace(genres, event=("impression",))
    both = ["genre", "studio"]
    for more, expected in (((), both), ((seen,), both), ((genres,), ["studio"])):
        data = shop(*more)
        ties = layers.find_histories(data, films(data))
        history, *others = data.schema.histories
        properties = histories.find_properties(data, history, ties["recent"])
        assert [found.field.name for found in properties] == expected
        for other in others:
            assert not histories.find_properties(data, other, ties[other.name])
    # Missing, films 0 to 25, out of vocabulary.
    (studio,) = properties
    assert studio.ids.tolist() == [0, *range(1, 12), *range(1, 12), 1, 2, 3, 4, 0]
    assert studio.ad_features[:, 1].tolist() == [*range(13), 0]
    assert not np.delete(studio.ad_features, 1, axis=1).any()
    assert not histories.find_properties(data, history, None)


def test_a_history_of_ads_is_read_as_a_declared_history_of_a_property_would_be():
    studios = schema_lib.Field(
        "studios", "history", "query", of="studio", event=("click",), max_length=3
    )
    genres = dataclasses.replace(studios, name="genres", of="genre")

    def embeddings(data):
        ads = layers.FieldEmbeddings(data, data.schema.ad_fields, 2)
        ties = layers.find_histories(data, films(data))
        layer = layers.FieldEmbeddings(data, data.schema.query_fields, 2, ties, ads)
        layer(tf.zeros([1, encoding.width(data.schema.query_fields)], tf.int32))
        rng = np.random.default_rng(1)
        ads.set_weights([rng.normal(size=weight.shape) for weight in ads.weights])
        return layer

    inferred, declared = embeddings(shop(studios)), embeddings(shop(studios, genres))
    rng = np.random.default_rng(2)
    for name in ("table", "frequency_steps"):
        weights = rng.normal(size=getattr(inferred, name).shape)
        # Recent films, studios, genres: the same order in both.
        getattr(inferred, name).assign(weights)
        getattr(declared, name).assign(weights)
    for pooling, other in zip(inferred._poolings, declared._poolings, strict=True):
        pooling.set_weights(other.get_weights())
    # Films 0, 11 and 4, where 0 and 11 have one genre; the studios say something else.
    ages = [9, 30, 80]
    films_and_studios = [1, 12, 5, *ages, 3, 3, 8, *ages]
    found = inferred(tf.constant([films_and_studios]))[0]
    expected = declared(tf.constant([[*films_and_studios, 1, 1, 5, *ages]]))[0]
    assert found.shape == expected.shape == (3 * 5, 2)
    # The means of films, studios and genres come first where they are declared.
    order = [0, 1, *range(3, 11), 2, *range(11, 15)]
    np.testing.assert_allclose(found, tf.gather(expected, order), rtol=1e-5)


@pytest.fixture(scope="module")
def successions(tmp_path_factory):
    """Clicks on the ad that follows the last of seven others, which are drawn at random."""
    directory = tmp_path_factory.mktemp("successions")
    rng = np.random.default_rng(2)
    follower = rng.permutation(40)
    lines = ["ad,seen"]
    for _ in range(1_500):
        seen = rng.integers(40, size=7)
        lines.append(f"a{follower[seen[-1]]}," + "|".join(f"a{ad}" for ad in seen))
    (directory / "log.csv").write_text("\n".join(lines) + "\n")
    fields = (
        schema_lib.Field("seen", "categorical_list", "query", min_count=1, max_list_length=8),
        schema_lib.Field("ad", "categorical", "ad", min_count=1),
    )
    schema = schema_lib.Schema("successions", fields, ("ad",), click=None)
    return logs.converted_table(directory / "log.csv", directory / "data", schema)


@pytest.mark.trains
def test_an_effect_of_the_last_value_of_a_history_is_learned(
    successions, retrieval_config, tmp_path
):
    config = dataclasses.replace(
        retrieval_config,
        field_dim=16,
        epochs=4,
        batch_size=32,
        learning_rate=0.01,
        refit=False,
    )
    retrieval.train_two_tower(successions, config, tmp_path)
    model, _ = retrieval.load_two_tower(successions, tmp_path)
    clicks = retrieval.read_clicks(successions, "test")
    features = np.asarray(successions.catalog().features)
    found = retrieval.exact_top_k(
        retrieval.embed_in_batches(model.query_tower, clicks.query),
        retrieval.embed_in_batches(model.ad_tower, features),
        10,
    )
    # Ten of 40 drawn at random would hold a quarter of the clicks.
    assert (found == clicks.ad_rows[:, None]).any(axis=1).mean() > 0.8
