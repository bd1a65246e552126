"""The number of clicks of a request's user on a candidate."""

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import tfrecords
from tfrec import config, layers, ranking
from tfrec.exported import candidate_scores
from tfrec.layers.comparisons import repeated_clicks
from tfrecords import encoding
from tfrecords import schema as schema_lib

SCHEMA = {
    "name": "apps",
    "fields": [
        {"name": "user", "side": "query", "kind": "categorical", "min_count": 1},
        {"name": "app", "side": "ad", "kind": "categorical", "min_count": 1},
    ],
    "ad_key": ["app"],
    "user_key": "user",
    "click": "click",
    "split": "split",
}


def convert(rows, directory, **options):
    frame = pd.DataFrame(rows, columns=["user", "app", "click", "split"])
    schema = schema_lib.schema_from_json({**SCHEMA, **options})
    return tfrecords.from_pandas(frame, schema, directory)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """User u clicked app a twice and b once; no other click is a training row."""
    rows = [
        *(("u", "a", click, "train") for click in (1, 1, 0)),
        *(("u", "b", click, "train") for click in (1, 0)),
        *(("v", "a", 0, "train"), ("v", "b", 0, "train")),
        *(("v", app, click, split) for app, click in (("a", 1), ("b", 0)) for split in HELD_OUT),
    ]
    return convert(rows, tmp_path_factory.mktemp("small"))


HELD_OUT = ("validation", "test")


def encoded(data_set, users, apps):
    """Returns the encoded queries [B, 1, 1] of users and ads [B, C, 1] of lists of apps."""
    encoders = [encoding.Encoder(data_set.fitted, [field]) for field in data_set.schema.fields]
    query = encoders[0]({"user": tf.constant(users)})[:, None]
    return query, tf.stack([encoders[1]({"app": tf.constant(own)}) for own in apps])


def test_the_clicks_of_training_rows_count(small):
    counted = repeated_clicks.RepeatedClicks.of(small)
    rows = encoded(small, ["u", "v", "new"], [["a", "b", "new"]] * 3)
    found = counted(*rows).numpy()
    np.testing.assert_allclose(np.expm1(found[..., 0]), [[2, 1, 0], [0, 0, 0], [0, 0, 0]], 1e-6)
    np.testing.assert_array_equal(found[..., 1], [[1, 1, 0], [0, 0, 0], [0, 0, 0]])


def test_the_click_of_a_training_row_itself_is_left_out(small):
    counted = repeated_clicks.RepeatedClicks.of(small)
    rows = encoded(small, ["u"], [["a", "a", "b", "b", "b"]])
    found = counted(*rows, clicks=tf.constant([[1.0, 0.0, 1.0, 0.0, np.nan]])).numpy()
    np.testing.assert_allclose(np.expm1(found[0, :, 0]), [1, 2, 0, 1, 1], 1e-6)


def test_they_are_read_only_if_they_are_compared(small):
    fields = tuple(small.schema.fields)
    assert repeated_clicks.RepeatedClicks.of(small, []) is None
    assert repeated_clicks.RepeatedClicks.of(small, [fields]).fields == fields


def test_the_ranker_leaves_it_out_in_training_alone(small):
    options = config.RankerConfig(dropout=0.0, id_dropout=0.0, field_dim=2, model_dim=8)
    model = ranking.build_ranker(small, options, [["user", "app"]])
    query, ad = encoded(small, ["u"], [["a", "b"]])

    def scores(first_click, training):
        inputs = {"query": query[:, 0], "ad": ad, "click": tf.constant([[first_click, 0.0]])}
        return model.logits(inputs, training=training)["click"].numpy()[0]

    trained = scores(1.0, True) - scores(0.0, True)
    assert abs(trained[0]) > 1e-3
    assert trained[1] == 0.0
    np.testing.assert_array_equal(scores(1.0, False), scores(0.0, False))
    np.testing.assert_allclose(scores(1.0, False), scores(0.0, True), atol=1e-5)


def test_they_are_served_as_they_were_trained(small):
    model = ranking.build_ranker(small, config.RankerConfig(), [["user", "app"]])
    query, ad = encoded(small, ["u", "v"], [["a", "b", "new"]] * 2)
    trained = model.score(query[:, 0], ad)["click"]
    exported = candidate_scores.score_candidates(model, query[:, 0], ad, parts=2)["click"]
    np.testing.assert_allclose(exported, trained, atol=1e-4)
    assert not np.allclose(trained, model.score(query[:, 0] * 0, ad)["click"], atol=1e-3)


def log(rng, returning, returning_later):
    """Each user has four apps; returns rows of clicks on these apps and others at random."""
    rows = []
    for split, number, share in (
        ("train", 1_500, returning),
        ("validation", 500, returning_later),
        ("test", 20, returning_later),
    ):
        for _ in range(number):
            user = rng.integers(20)
            rows.append((f"u{user}", f"a{rng.integers(200)}", 0, split))
            own = 4 * user + rng.integers(4) if rng.random() < share else rng.integers(200)
            rows.append((f"u{user}", f"a{own}", 1, split))
    return rows


@pytest.mark.parametrize(
    ("later", "options", "is_compared"),
    [
        (0.8, {}, True),
        # Held-out rows do not repeat clicks as training rows do.
        (0.0, {}, False),
        # Without the ids of users there is nothing to count.
        (0.8, {"user_key": None}, False),
    ],
)
def test_users_and_ads_are_compared_if_clicks_are_repeated(tmp_path, later, options, is_compared):
    data_set = convert(log(np.random.default_rng(0), 0.8, later), tmp_path, **options)
    pairs = layers.find_comparisons(data_set, {})
    assert pairs == ([tuple(data_set.schema.fields)] if is_compared else [])


def test_few_repeated_clicks_are_not_compared(small):
    assert layers.find_comparisons(small, {}) == []
