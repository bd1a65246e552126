"""Padding changes no score: in short histories, and in short lists of candidates."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from loud_models import loud

from tfrec import config, exported, ranking, retrieval
from tfrecords import encoding, schema

pytestmark = pytest.mark.slow

NUM_ADS, NUM_FILMS = 6, 5
RANKER = config.RankerConfig(
    field_dim=4, model_dim=8, num_blocks=2, num_heads=2, feed_forward_dim=8
)
RETRIEVAL = config.RetrievalConfig(embedding_dim=8, field_dim=4, hidden_dim=8)
HISTORIES = [[1, 2, 3], [4], [2, 5], []]


def fitted(width):
    """Encodes a history of at most `width` films, of ids 1 to 5, and an ad with a price."""
    fields = (
        schema.Field("history", "categorical_list", "query", max_list_length=width),
        schema.Field("age", "numeric", "query"),
        schema.Field("film", "categorical", "ad"),
        schema.Field("price", "numeric", "ad"),
    )
    films = tuple(f"f{film}" for film in range(NUM_FILMS))
    return encoding.FittedSchema(
        schema.Schema("films", fields, ("film",), "click"),
        {
            "history": encoding.FieldStatistics(vocabulary=films),
            "age": encoding.FieldStatistics(boundaries=(30.0,)),
            "film": encoding.FieldStatistics(vocabulary=films),
            "price": encoding.FieldStatistics(boundaries=(5.0, 9.0)),
        },
    )


def ties(is_tied):
    """Returns the ads that the values of the history are, ids 1 to 5 and eight unknown ones."""
    known = np.zeros((1 + NUM_FILMS + 8, 2), np.int32)
    known[1 : 1 + NUM_FILMS, 0] = np.arange(1, 1 + NUM_FILMS)
    return {"history": known} if is_tied else None


def queries(width, side):
    """Returns the encoded histories, filled up to a width on a side, and an age."""
    filled = [
        [*h, *[0] * (width - len(h))] if side == "right" else [*[0] * (width - len(h)), *h]
        for h in HISTORIES
    ]
    return tf.constant([[*h, 1 + row % 2] for row, h in enumerate(filled)], tf.int32)


def ads():
    rng = np.random.default_rng(0)
    columns = [rng.integers(1, 6, (len(HISTORIES), NUM_ADS)), rng.integers(1, 4, (4, NUM_ADS))]
    return tf.constant(np.stack(columns, axis=-1), tf.int32)


def widened(model, narrow):
    """Gives a model the weights of a narrower one; weights of positions that it lacks stay."""
    loud(model, scale=0.4, seed=1)
    for variable, other in zip(model.trainable_variables, narrow.trainable_variables, strict=True):
        values = variable.numpy()
        values[tuple(slice(size) for size in other.shape)] = other.numpy()
        variable.assign(values)
    return model


def ranker(width, is_tied):
    model = ranking.Ranker(fitted(width), RANKER, ("click", "revenue"), ties=ties(is_tied))
    model({"query": queries(width, "right"), "ad": ads()})
    return model


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("is_tied", [False, True], ids=["values", "ads"])
def test_a_ranker_s_scores_do_not_change_with_the_width_of_short_histories(is_tied, side):
    narrow = loud(ranker(3, is_tied), scale=0.4, seed=1)
    wide = widened(ranker(9, is_tied), narrow)
    expected = narrow({"query": queries(3, "right"), "ad": ads()})
    query = queries(9, side)
    for found in (
        wide.logits({"query": query, "ad": ads()}),
        exported.score_candidates(wide, query, ads()),
    ):
        for head, values in found.items():
            np.testing.assert_allclose(values, expected[head], rtol=1e-4, atol=1e-4)
    # The positions that only the wide model has do matter.
    longest = tf.constant([[*[1] * 9, 1]] * 4)
    first = wide({"query": longest, "ad": ads()})["click"].numpy()
    longest = tf.constant([[2, *[1] * 8, 1]] * 4)
    assert np.abs(wide({"query": longest, "ad": ads()})["click"] - first).max() > 1e-3


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("is_tied", [False, True], ids=["values", "ads"])
def test_a_tower_s_embeddings_do_not_change_with_the_width_of_short_histories(is_tied, side):
    def tower(width):
        data = fitted(width)
        ad_tower = retrieval.Tower(data, data.schema.ad_fields, RETRIEVAL, 0.01)
        ad_tower(ads()[0])
        query_tower = retrieval.Tower(
            data,
            data.schema.query_fields,
            RETRIEVAL,
            0.01,
            ties(is_tied),
            ad_tower.field_embeddings,
        )
        query_tower(queries(width, "right"))
        return query_tower

    narrow = loud(tower(3), scale=0.4, seed=1)
    wide = widened(tower(9), narrow)
    np.testing.assert_allclose(
        wide(queries(9, side)), narrow(queries(3, "right")), rtol=1e-4, atol=1e-4
    )


def test_padding_candidates_changes_no_score():
    model = ranking.Ranker(fitted(3), RANKER, ("click", "revenue"))
    query, shown = queries(3, "right"), ads()[:, :3]
    model({"query": query, "ad": shown})
    loud(model, scale=0.4, seed=1)
    alone = model({"query": query, "ad": shown})
    padded = model({"query": query, "ad": tf.pad(shown, [[0, 0], [2, 5], [0, 0]])})
    for head, values in alone.items():
        np.testing.assert_allclose(padded[head][:, 2:5], values, rtol=1e-4, atol=1e-4)


def test_padding_candidates_changes_no_loss():
    sizes = dataclasses.replace(RANKER, dropout=0.0, id_dropout=0.0)
    model = ranking.Ranker(fitted(3), sizes, ("click", "revenue"))
    rng = np.random.default_rng(3)
    clicks = rng.integers(0, 2, (len(HISTORIES), NUM_ADS)).astype(np.float32)
    batch = {
        "query": queries(3, "right"),
        "ad": ads(),
        "mask": tf.ones(clicks.shape, tf.bool),
        "click": tf.constant(clicks),
        "revenue": tf.constant(clicks * rng.uniform(1, 3, clicks.shape).astype(np.float32)),
    }
    model(batch)
    loud(model, scale=0.4, seed=1)
    padded = {
        name: values
        if name == "query"
        else tf.pad(values, [[0, 0], [0, 4], [0, 0]][: values.shape.rank])
        for name, values in batch.items()
    }
    expected = float(model.compute_loss(batch, training=True))
    assert float(model.compute_loss(padded, training=True)) == pytest.approx(expected, rel=1e-4)
