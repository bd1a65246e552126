"""Query tokens of histories: the latest values, each attended to by candidates."""

import dataclasses

import logs
import numpy as np
import pytest
import tensorflow as tf

from tfrec import layers, metrics, ranking
from tfrec.layers import history_tokens
from tfrecords import encoding
from tfrecords import schema as schema_lib

NUM_ADS = 12


def test_lists_are_reversed_wherever_their_padding_is():
    ids = tf.constant([[5, 6, 7], [5, 6, 0], [0, 5, 6], [5, 0, 6], [0, 0, 0]])
    expected = [[7, 6, 5], [6, 5, 0], [6, 5, 0], [6, 5, 0], [0, 0, 0]]
    order = history_tokens.latest_first(ids)
    assert tf.gather(ids, order, batch_dims=1).numpy().tolist() == expected


def test_tokens_are_the_latest_values_and_padding_is_absent(monkeypatch):
    monkeypatch.setattr(history_tokens, "MAX_VALUES", 2)
    fields = (
        schema_lib.Field("seen", "categorical_list", "query", max_list_length=4),
        schema_lib.Field("age", "numeric", "query"),
    )
    fitted = encoding.FittedSchema(
        schema_lib.Schema(
            "films", (*fields, schema_lib.Field("ad", "categorical", "ad")), ("ad",), "c"
        ),
        {
            "seen": encoding.FieldStatistics(vocabulary=("a", "b", "c", "d")),
            "age": encoding.FieldStatistics(boundaries=(20.0,)),
            "ad": encoding.FieldStatistics(vocabulary=("a",)),
        },
    )
    embeddings = layers.FieldEmbeddings(fitted, fields, 2)
    layer = history_tokens.HistoryTokens(embeddings, fields, 3)
    embeddings(tf.zeros([1, 5], tf.int32))
    tokens, absent = layer(tf.constant([[1, 2, 3, 4, 1], [2, 0, 0, 0, 1]]))
    assert tokens.shape == (2, 2, 3)
    assert absent.numpy().tolist() == [[False, False], [False, True]]
    again, _ = layer(tf.constant([[2, 1, 3, 4, 0], [1, 3, 0, 0, 0]]))
    # d, then c are the latest of both lists; of the second list the latest is another.
    np.testing.assert_array_equal(tokens[0], again[0])
    assert np.abs(tokens[1] - again[1]).max() > 1e-4


def with_history(event=("click", "engagement"), max_length=3):
    """A side with a history of ads alone, whose ids, ages and events are columns in this order."""
    fields = (
        schema_lib.Field("recent", "history", "query", of="ad", event=event, max_length=max_length),
        schema_lib.Field("ad", "categorical", "ad", min_count=1),
    )
    schema = schema_lib.Schema(
        "films", fields, ("ad",), click="c", engagement="e", time="t", user_key="u"
    )
    return encoding.FittedSchema(
        schema, {"ad": encoding.FieldStatistics(vocabulary=("a", "b", "d"))}
    )


def test_a_token_of_a_history_has_the_embeddings_of_its_age_and_event():
    fitted = with_history()
    (history,) = fitted.schema.query_fields
    embeddings = layers.FieldEmbeddings(fitted, [history], 2)
    layer = history_tokens.HistoryTokens(embeddings, [history], 2)
    row = [1, 2, 0, 40, 17, 0, 1, 3, 0]
    embeddings(tf.constant([row]))
    layer(tf.constant([row]))
    for weight in layer.trainable_variables:
        weight.assign(tf.zeros_like(weight))
    # A bucket of 1 + 8 p is point p, from row 1 on: 17 is row 3, and 40 is 7/8 of the way from
    # row 5 to row 6.
    layer.ages[0].assign(np.arange(layer.ages[0].shape[0])[:, None] * [1.0, 0.0])
    layer.events[0].assign(np.arange(layer.events[0].shape[0])[:, None] * [0.0, 10.0])
    tokens, absent = layer(tf.constant([row]))
    np.testing.assert_allclose(tokens[0, :2], [[3, 30], [5.875, 10]])
    assert absent.numpy().tolist() == [[False, False, True]]


def test_histories_of_one_kind_of_event_have_no_embeddings_of_events():
    fitted = with_history(event=("click",))
    (history,) = fitted.schema.query_fields
    embeddings = layers.FieldEmbeddings(fitted, [history], 2)
    layer = history_tokens.HistoryTokens(embeddings, [history], 2)
    embeddings(tf.zeros([1, 6], tf.int32))
    layer(tf.zeros([1, 6], tf.int32))
    assert (len(layer.ages), len(layer.events)) == (1, 0)


def test_two_hundred_events_of_a_history_are_tokens():
    fitted = with_history(event=("click",), max_length=250)
    (history,) = fitted.schema.query_fields
    embeddings = layers.FieldEmbeddings(fitted, [history], 2)
    layer = history_tokens.HistoryTokens(embeddings, [history], 2)
    row = tf.constant([[1] * 250 + [2] * 250])
    embeddings(row)
    tokens, _ = layer(row)
    assert tokens.shape == (1, 200, 2)


@pytest.fixture(scope="module")
def seen_before(tmp_path_factory):
    """Ads among the last three seen are clicked nine times in ten, and others once in ten."""
    directory = tmp_path_factory.mktemp("seen_before")
    rng = np.random.default_rng(3)
    lines = ["ad,seen,clicked"]
    for _ in range(200):
        seen = rng.choice(NUM_ADS, 3, replace=False)
        ad = rng.choice(seen) if rng.random() < 0.5 else rng.integers(NUM_ADS)
        clicked = rng.random() < (0.9 if ad in seen else 0.1)
        lines.append(f"a{ad}," + "|".join(f"a{seen_ad}" for seen_ad in seen) + f",{int(clicked)}")
    (directory / "log.csv").write_text("\n".join(lines) + "\n")
    fields = (
        schema_lib.Field("seen", "categorical_list", "query", min_count=1, max_list_length=3),
        schema_lib.Field("ad", "categorical", "ad", min_count=1),
    )
    schema = schema_lib.Schema("seen_before", fields, ("ad",), click="clicked")
    return logs.converted_table(directory / "log.csv", directory / "data", schema)


def test_the_ranker_attends_to_the_tokens_and_learns_them(seen_before, ranker_config, monkeypatch):
    model = ranking.build_ranker(seen_before, ranker_config)
    # The blocks' output kernels begin at zero, where nothing that is attended to shows.
    for weight in model.trainable_variables:
        weight.assign(tf.random.stateless_normal(weight.shape, seed=[1, 2], stddev=0.3))
    batch = next(iter(seen_before.batches("test", 8)))
    with tf.GradientTape() as tape:
        logits = model(batch)["click"]
    for gradient in tape.gradient(logits, model.history_tokens.trainable_variables):
        assert np.abs(tf.convert_to_tensor(gradient)).max() > 1e-3
    call = history_tokens.HistoryTokens.call

    def moved(self, ids):
        tokens, absent = call(self, ids)
        return tokens + tf.random.normal(tf.shape(tokens), seed=1), absent

    monkeypatch.setattr(history_tokens.HistoryTokens, "call", moved)
    assert np.abs(model(batch)["click"] - logits).max() > 1e-3


@pytest.fixture(scope="module")
def delayed(tmp_path_factory):
    """Ads are clicked nine times in ten if clicked days before and not ordered, else once in ten.

    A user has two requests that are always clicked, then one that follows the rule.
    """
    directory = tmp_path_factory.mktemp("delayed")
    rng = np.random.default_rng(4)
    lines = ["user,time,ad,clicked,ordered"]
    for user in range(4_000):
        first = 1_700_000_000 + 1_000 * user
        ads = rng.choice(6, 2, replace=False)
        days = rng.choice([0.01, 4.0], 2)
        orders = rng.random(2) < 0.5
        for ad, age, ordered in sorted(
            zip(ads, days, orders, strict=True), key=lambda event: -event[1]
        ):
            lines.append(f"u{user},{first - int(86_400 * age)},a{ad},1,{int(ordered)}")
        ad = rng.choice(ads) if rng.random() < 0.8 else rng.integers(6)
        wanted = [a for a, age, order in zip(ads, days, orders, strict=True) if age > 1 > order]
        clicked = rng.random() < (0.9 if ad in wanted else 0.1)
        lines.append(f"u{user},{first},a{ad},{int(clicked)},0")
    (directory / "log.csv").write_text("\n".join(lines) + "\n")
    schema = dataclasses.replace(
        with_history().schema, user_key="user", time="time", click="clicked", engagement="ordered"
    )
    return logs.converted_table(directory / "log.csv", directory / "data", schema)


@pytest.mark.trains
def test_effects_of_age_and_kind_of_events_are_learned(delayed, ranker_config, tmp_path):
    sizes = {"field_dim": 16, "model_dim": 32, "num_blocks": 0, "batch_size": 128}
    config = dataclasses.replace(ranker_config, learning_rate=0.01, epochs=2, **sizes)
    trained = tf.keras.callbacks.Callback()
    ranking.train_ranker(delayed, config, tmp_path, callbacks=[trained])
    predictions = ranking.predict_split(trained.model, delayed, "test")
    ids = np.concatenate([window["query"][:, :3] for window in delayed.windows("test")])
    # Requests after clicks on two ads; the others are clicked anyway.
    last = np.flatnonzero([len(set(row) - {0}) == 2 for row in ids.tolist()])
    labels, _, _ = predictions.labeled("click")
    assert len(last) > 200
    # The rule reaches 0.84, and kinds and the order without ages 0.71.
    assert metrics.auc(labels[last], predictions.logits["click"][last]) > 0.8
