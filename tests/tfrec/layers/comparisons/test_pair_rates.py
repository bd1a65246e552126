"""Click rates of pairs of values of both sides."""

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import tfrecords
from tfrec import config, layers, ranking, training
from tfrec.exported import candidate_scores
from tfrec.layers.comparisons import pair_rates
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
    frame["time"] = np.arange(len(frame)) * 3600
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
    return query, tf.stack([encoders[1]({"app": tf.constant(names)}) for names in apps])


def rates_of(data_set):
    return layers.pair_rates_of(data_set, [tuple(data_set.schema.fields[:2])])[0]


def test_the_clicks_of_training_rows_count(small):
    rows = encoded(small, ["u", "v", "new"], [["a", "b", "new"]] * 3)
    found = rates_of(small)(*rows).numpy()
    np.testing.assert_allclose(np.expm1(found[..., 0]), [[2, 1, 0], [0, 0, 0], [0, 0, 0]], 1e-6)
    np.testing.assert_array_equal(found[..., 1], [[1, 1, 0], [0, 0, 0], [0, 0, 0]])
    # v has rows without a click, and nothing is known of new values.
    assert np.all(found[0, :2, 2] > 0)
    assert np.all(found[1, :2, 2] < 0)
    np.testing.assert_allclose(found[[0, 1, 2, 2], [2, 2, 0, 2], 2], 0.0, atol=1e-6)


def test_a_rate_is_shrunk_toward_the_effects_of_both_values(small):
    rows = encoded(small, ["u"], [["a"]])
    rates = rates_of(small)
    expected, _ = pair_rates._with_expected(rates.tables, *rates.values(*rows), None)
    above = rates(*rows)[..., 2]
    # 3 of all 7 rows, 3 of the 5 of u, 2 of the 4 of a.
    logit = np.log(3 / 4)
    value_log_odds = [np.log((c + 20 * 3 / 7) / (n - c + 20 * 4 / 7)) for c, n in ((3, 5), (2, 4))]
    np.testing.assert_allclose(expected, [[sum(value_log_odds) - logit]], rtol=1e-5)
    p = 1 / (1 + np.exp(-expected))
    np.testing.assert_allclose(
        above, np.log((2 + 3 * p) / (1 + 3 * (1 - p))) - expected, rtol=1e-5, atol=1e-6
    )


def test_a_training_row_itself_is_left_out(small):
    rows = encoded(small, ["u"], [["a", "a", "b", "b", "b"]])
    labels = tf.constant([[1.0, 0.0, 1.0, 0.0, np.nan]])
    found = rates_of(small)(*rows, clicks=labels).numpy()
    np.testing.assert_allclose(np.expm1(found[0, :, 0]), [1, 2, 0, 1, 1], 1e-6)
    others = rates_of(small)(*rows).numpy()
    assert found[0, 0, 2] < others[0, 0, 2] < found[0, 1, 2]
    np.testing.assert_allclose(found[0, 4], others[0, 4], rtol=1e-6)


def test_the_ranker_leaves_rows_out_in_training_alone(small):
    options = config.RankerConfig(dropout=0.0, id_dropout=0.0, field_dim=2, model_dim=8)
    model = ranking.build_ranker(small, options, [], [["user", "app"]])
    query, ad = encoded(small, ["u"], [["a", "b"]])

    def scores(first_click, training):
        inputs = {"query": query[:, 0], "ad": ad, "click": tf.constant([[first_click, 0.0]])}
        return model.logits(inputs, training=training)["click"].numpy()[0]

    trained = scores(1.0, True) - scores(0.0, True)
    assert abs(trained[0]) > 1e-3
    assert trained[1] == 0.0
    np.testing.assert_array_equal(scores(1.0, False), scores(0.0, False))


def test_rates_are_exported(small):
    model = ranking.build_ranker(small, config.RankerConfig(), [], [["user", "app"]])
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
            app = 4 * user + rng.integers(4) if rng.random() < share else rng.integers(200)
            rows.append((f"u{user}", f"a{app}", 1, split))
    return rows


HISTORY = {"name": "recent", "side": "query", "kind": "history", "of": "ad", "event": "click"}


@pytest.mark.parametrize(
    ("later", "options", "are_found"),
    [
        (0.8, {}, True),
        # Held-out rows do not repeat clicks as training rows do.
        (0.0, {}, False),
        # A history already has the clicks of users.
        (0.8, {"fields": [*SCHEMA["fields"], {**HISTORY, "max_length": 3}], "time": "time"}, False),
    ],
)
def test_rates_are_used_if_they_predict_held_out_clicks(tmp_path, later, options, are_found):
    data_set = convert(log(np.random.default_rng(0), 0.8, later), tmp_path, **options)
    found = layers.find_pair_rates(data_set)
    assert found == ([tuple(data_set.schema.fields[:2])] if are_found else [])


def test_rates_of_pairs_with_many_or_few_rows_are_not_used(small, tmp_path):
    # All rows are of the same four pairs.
    rows = [(*pair, label, split) for split in SPLITS for pair, label in PAIRS for _ in range(200)]
    assert layers.find_pair_rates(convert(rows, tmp_path)) == []
    # And of few rows, nothing is known.
    assert layers.find_pair_rates(small) == []


SPLITS = ("train", *HELD_OUT)
PAIRS = [(pair, label) for label in (0, 1) for pair in (("u", "a"), ("v", "b"))]
PAIRS += [(("u", "b"), 0), (("v", "a"), 0)]


def test_rates_are_restored_with_the_ranker(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "fit", lambda *_, **__: [])
    data_set = convert(log(np.random.default_rng(0), 0.8, 0.8), tmp_path / "data")
    options = config.RankerConfig(field_dim=2, model_dim=8, num_blocks=0)
    ranking.train_ranker(data_set, options, tmp_path / "ranker")
    model, _, description = ranking.load_ranker(data_set, tmp_path / "ranker")
    assert description["rated"] == [["user", "app"]]
    assert [field.name for pair in model.rated for field in pair] == ["user", "app"]
