"""Position bias: learned from a log whose policy prefers some ads, and not served."""

import dataclasses

import logs
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import tensorflow as tf

from tfrec import exported, metrics, ranking
from tfrec.layers import biases
from tfrecords import encoding, reader, schema

NUM_REQUESTS, NUM_ADS, NUM_POSITIONS = 3_000, 40, 5
TRUE_BIASES = np.array([0.0, -0.6, -1.0, -1.3, -1.5])
FIRST = 1  # this log counts its positions from one
SCHEMA = schema.Schema(
    "logged",
    (
        schema.Field("country", "categorical", "query"),
        schema.Field("ad", "categorical", "ad"),
    ),
    ad_key=("ad",),
    click="click",
    revenue="revenue",
    request_key="request",
    position="rank",
)


@dataclasses.dataclass(frozen=True)
class World:
    """The relevance of ads, and the preferences of the policy, which agree only in part."""

    relevance: np.ndarray
    liked: np.ndarray


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    relevance = rng.normal(scale=0.5, size=NUM_ADS)
    return World(relevance, relevance + rng.normal(scale=1.0, size=NUM_ADS))


@pytest.fixture(scope="module")
def logged(world, tmp_path_factory):
    """The log, converted: each request shows any five ads in the order of the policy's taste."""
    rng = np.random.default_rng(1)
    shown = np.argsort(rng.random((NUM_REQUESTS, NUM_ADS)), axis=1)[:, :NUM_POSITIONS]
    taste = world.liked[shown] + rng.gumbel(size=shown.shape)
    shown = np.take_along_axis(shown, np.argsort(-taste, axis=1), axis=1)  # [requests, positions]
    logit = -1.0 + world.relevance[shown] + TRUE_BIASES
    click = rng.random(shown.shape) < 1 / (1 + np.exp(-logit))
    table = pa.table(
        {
            "request": np.repeat(np.arange(NUM_REQUESTS), NUM_POSITIONS),
            "rank": np.tile(np.arange(NUM_POSITIONS) + FIRST, NUM_REQUESTS),
            "country": np.repeat(rng.choice(["CH", "DE"], NUM_REQUESTS), NUM_POSITIONS),
            "ad": [f"a{ad}" for ad in shown.ravel()],
            "click": click.ravel().astype(np.int8),
            "revenue": np.where(click.ravel(), 2.0, 0.0),
        }
    )
    directory = tmp_path_factory.mktemp("logged")
    pa.csv.write_csv(table, directory / "log.csv")
    return logs.converted(directory / "log.csv", directory / "data", SCHEMA, format="tabular")


@pytest.fixture(scope="module")
def config(ranker_config):
    return dataclasses.replace(ranker_config, num_blocks=0, batch_size=64, epochs=3, dropout=0.0)


@pytest.fixture(scope="module")
def with_positions(logged, config, tmp_path_factory):
    directory = tmp_path_factory.mktemp("with_positions")
    ranking.train_ranker(logged, config, directory)
    return ranking.load_ranker(logged, directory)[:2]


def served(data_set, trained):
    """Returns what is served of each ad, by name, ads in the world's order."""
    model, calibrators = trained
    catalog = data_set.catalog()
    query = next(iter(data_set.batches("test", 64)))["query"][:1]
    scores = calibrators.apply(model.score(query, np.asarray(catalog.features)[None]))
    order = np.argsort([int(ad_id[1:]) for ad_id in catalog.ad_ids.to_pylist()])
    return {name: values.numpy()[0][order] for name, values in scores.items()}


@pytest.mark.trains
def test_the_true_biases_are_learned_although_good_positions_went_to_liked_ads(with_positions):
    learned = with_positions[0].position_bias.biases.numpy()[:NUM_POSITIONS, 0]
    np.testing.assert_allclose(learned, TRUE_BIASES, atol=0.2)


@pytest.mark.trains
def test_ads_are_ranked_and_priced_by_their_own_worth(logged, world, with_positions):
    true = 1 / (1 + np.exp(1.0 - world.relevance))  # in the first position
    scores = served(logged, with_positions)
    # With `num_positions=0`, ads that the policy likes look better than they are (0.79), and an ad
    # is priced for the mean position, which is clicked far less (0.56).
    assert np.corrcoef(scores["click_probability"], true)[0, 1] > 0.83
    assert scores["click_probability"].sum() / true.sum() == pytest.approx(1.0, abs=0.12)
    # A click earns 2.
    assert scores["expected_revenue"].sum() / (2 * true.sum()) == pytest.approx(1.0, abs=0.25)


@pytest.mark.trains
def test_logged_rows_are_predicted_in_their_logged_positions(logged, with_positions):
    model, _ = with_positions
    predicted = ranking.predict_split(model, logged, "test")
    position = np.concatenate(
        [b["position"].numpy()[b["mask"]] for b in logged.batches("test", 512)]
    )
    ads, query = (
        np.concatenate([b[name].numpy() for b in logged.batches("test", 512)])
        for name in ("ad", "query")
    )
    served_logits = model.score(query, ads)["click"].numpy().ravel()
    biases = model.position_bias.biases.numpy()[:, 0]
    np.testing.assert_allclose(
        predicted.logits["click"], served_logits + biases[position - FIRST], atol=1e-5
    )
    labels = predicted.labels["click"]
    assert metrics.log_loss(labels, 1 / (1 + np.exp(-predicted.logits["click"]))) < (
        metrics.log_loss(labels, 1 / (1 + np.exp(-served_logits)))
    )


@pytest.mark.trains
def test_the_exported_model_takes_no_position(logged, with_positions):
    model, calibrators = with_positions
    module = exported.RankerModule(logged.fitted, model, calibrators)
    inputs = tf.nest.flatten(module.serve.structured_input_signature)
    assert sorted(spec.name for spec in inputs) == ["ad_features", "country"]
    ads = np.asarray(logged.catalog().features)[None]
    answer = module.serve(country=tf.constant(["CH"]), ad_features=tf.constant(ads))
    query = encoding.Encoder(logged.fitted, SCHEMA.query_fields)({"country": tf.constant(["CH"])})
    expected = calibrators.apply(model({"query": query, "ad": tf.constant(ads)}))
    assert answer.keys() == expected.keys()
    for name, values in answer.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-5)


@pytest.mark.trains
def test_the_first_position_of_the_log_is_found(with_positions):
    assert int(with_positions[0].position_bias.first) == FIRST


def test_a_position_bias_is_the_sum_of_steps_and_unknown_positions_have_none():
    bias = biases.PositionBias(num_positions=4, num_logits=2)
    bias.first.assign(1)
    bias.steps.assign(np.array([[-1.0, -0.5], [-0.5, 0.0], [-0.25, 1.0]]) / biases.POSITION_SPEED)
    # Positions 1, 2, 3, 4 have 0, -1, -1.5, -1.75 and 0, -0.5, -0.5, 0.5; 9 counts as 4.
    found = bias(tf.constant([[1, 2, 3], [4, 9, -1], [0, 3, 1]])).numpy()
    np.testing.assert_allclose(found[..., 0], [[0, -1, -1.5], [-1.75, -1.75, 0], [0, -1.5, 0]])
    np.testing.assert_allclose(found[..., 1], [[0, -0.5, -0.5], [0.5, 0.5, 0], [0, -0.5, 0]])


def test_a_position_affects_click_and_revenue_but_not_engagement_after_a_click(
    data_set, ranker_config
):
    heads = ("click", "engagement", "revenue")
    model = ranking.Ranker(data_set.fitted, ranker_config, heads)
    model.learn_positions(3)
    model.position_bias.steps.assign(np.array([[-1.0, -2.0], [0.0, 0.0]]) / biases.POSITION_SPEED)
    logits = {
        "click": tf.constant([[0.5, 0.5]]),
        "engagement": tf.constant([[0.25, 0.25]]),
        "revenue": tf.constant([[[1.0, 2.0, 3.0]] * 2]),
    }
    logged = model.as_logged(logits, tf.constant([[0, 1]]))
    np.testing.assert_allclose(logged["click"], [[0.5, -0.5]])
    np.testing.assert_allclose(logged["engagement"], [[0.25, 0.25]])
    np.testing.assert_allclose(logged["revenue"], [[[1.0, 2.0, 3.0], [-1.0, 2.0, 3.0]]])
    assert model.as_logged(logits, None) is logits


def test_positions_are_not_used_with_sampled_negatives(logged, ranker_config):
    assert ranking.knows_positions(logged)
    sampled = reader.DataSet(logged.directory)
    sampled.description.splits["train"].sampled = 5
    assert ranking.build_ranker(sampled, ranker_config, [], []).position_bias is None
    unaware = dataclasses.replace(ranker_config, num_positions=0)
    assert ranking.build_ranker(logged, unaware, [], []).position_bias is None
