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


def test_lists_are_turned_round_wherever_they_are_filled_up():
    ids = tf.constant([[5, 6, 7], [5, 6, 0], [0, 5, 6], [5, 0, 6], [0, 0, 0]])
    expected = [[7, 6, 5], [6, 5, 0], [6, 5, 0], [6, 5, 0], [0, 0, 0]]
    assert history_tokens.latest_first(ids).numpy().tolist() == expected


def test_tokens_are_the_latest_values_and_what_fills_up_is_absent(monkeypatch):
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
    layer = history_tokens.HistoryTokens(embeddings, 3)
    embeddings(tf.zeros([1, 5], tf.int32))
    tokens, absent = layer(tf.constant([[1, 2, 3, 4, 1], [2, 0, 0, 0, 1]]))
    assert tokens.shape == (2, 2, 3)
    assert absent.numpy().tolist() == [[False, False], [False, True]]
    again, _ = layer(tf.constant([[2, 1, 3, 4, 0], [1, 3, 0, 0, 0]]))
    # d, then c are the latest of both lists; of the second list the latest is another.
    np.testing.assert_array_equal(tokens[0], again[0])
    assert np.abs(tokens[1] - again[1]).max() > 1e-4


@pytest.fixture(scope="module")
def seen_before(tmp_path_factory):
    """Ads of which those among the last three seen are clicked nine times of ten, others once."""
    directory = tmp_path_factory.mktemp("seen_before")
    rng = np.random.default_rng(3)
    lines = ["ad,seen,clicked"]
    for _ in range(6_000):
        seen = rng.choice(NUM_ADS, 3, replace=False)
        ad = rng.choice(seen) if rng.random() < 0.5 else rng.integers(NUM_ADS)
        clicked = rng.random() < (0.9 if ad in seen else 0.1)
        lines.append(f"a{ad}," + "|".join(f"a{one}" for one in seen) + f",{int(clicked)}")
    (directory / "log.csv").write_text("\n".join(lines) + "\n")
    fields = (
        schema_lib.Field("seen", "categorical_list", "query", min_count=1, max_list_length=3),
        schema_lib.Field("ad", "categorical", "ad", min_count=1),
    )
    schema = schema_lib.Schema("seen_before", fields, ("ad",), click="clicked")
    return logs.converted_table(directory / "log.csv", directory / "data", schema)


def test_the_ranker_attends_to_the_tokens(seen_before, ranker_config, monkeypatch):
    model = ranking.build_ranker(seen_before, ranker_config)
    # The blocks' output kernels begin at zero, where nothing that is attended to shows.
    for weight in model.trainable_variables:
        weight.assign(tf.random.stateless_normal(weight.shape, seed=[1, 2], stddev=0.3))
    batch = next(iter(seen_before.batches("test", 8)))
    logits = model(batch)["click"]
    call = history_tokens.HistoryTokens.call

    def moved(self, ids):
        tokens, absent = call(self, ids)
        return tokens + tf.random.normal(tf.shape(tokens), seed=1), absent

    monkeypatch.setattr(history_tokens.HistoryTokens, "call", moved)
    assert np.abs(model(batch)["click"] - logits).max() > 1e-3


@pytest.mark.trains
def test_that_an_ad_was_seen_before_is_learned(seen_before, ranker_config, tmp_path):
    config = dataclasses.replace(
        ranker_config,
        field_dim=16,
        model_dim=32,
        epochs=6,
        patience=6,
        learning_rate=0.01,
        batch_size=128,
    )
    ranking.train_ranker(seen_before, config, tmp_path)
    model, _, _ = ranking.load_ranker(seen_before, tmp_path)
    predictions = ranking.predict_split(model, seen_before, "test")
    labels, known, _ = predictions.labeled("click")
    # Who knows the rule reaches 0.9: the click rates 0.9 and 0.1 tell nine of ten apart.
    assert metrics.auc(labels, predictions.logits["click"][known]) > 0.8
