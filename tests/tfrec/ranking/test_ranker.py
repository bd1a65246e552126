"""The ranker: a candidate's score depends on its request and on itself, on nothing else."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from loud_models import loud

from tfrec import layers, ranking

B, NUM_CANDIDATES = 3, 500
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def model(data_set, ranker_config):
    return loud(ranking.build_ranker(data_set, ranker_config, [], []))


@pytest.fixture(scope="module")
def query(data_set):
    return next(iter(data_set.batches("test", 64)))["query"][:B]


@pytest.fixture(scope="module")
def ads(data_set):
    """[B, 500, Fa], another random choice of ads for each request."""
    rows = np.random.default_rng(1).integers(0, len(data_set.catalog()), (B, NUM_CANDIDATES))
    return np.asarray(data_set.catalog().features)[rows]


@pytest.fixture(scope="module")
def among_500(model, query, ads):
    return {head: values.numpy() for head, values in model.score(query, ads).items()}


def assert_same_scores(model, query, ads, expected):
    """Compares logits, which are steeper than probabilities."""
    scores = model.score(query, ads)
    assert scores.keys() == expected.keys()
    for head, values in scores.items():
        np.testing.assert_allclose(values, expected[head], rtol=TOLERANCE, atol=TOLERANCE)


def taken(scores, columns):
    return {head: values[:, columns] for head, values in scores.items()}


def test_the_scores_compared_below_differ_between_candidates(among_500):
    assert among_500["click"].shape == (B, NUM_CANDIDATES)
    assert among_500["engagement"].shape == (B, NUM_CANDIDATES)
    assert among_500["revenue"].shape == (B, NUM_CANDIDATES, 3)
    assert all(values.std(axis=1).min() > 0.1 for values in among_500.values())


@pytest.mark.parametrize("position", [0, 7, 250, 499])
def test_a_candidate_scores_alone_what_it_scores_among_500(model, query, ads, among_500, position):
    columns = [position]
    assert_same_scores(model, query, ads[:, columns], taken(among_500, columns))


@pytest.mark.parametrize("seed", range(4))
def test_a_candidate_scores_among_any_ten_what_it_scores_among_500(
    model, query, ads, among_500, seed
):
    columns = np.random.default_rng(seed).choice(NUM_CANDIDATES, 10, replace=False)
    assert_same_scores(model, query, ads[:, columns], taken(among_500, columns))


@pytest.mark.parametrize("seed", range(4))
def test_permuting_candidates_permutes_scores(model, query, ads, among_500, seed):
    columns = np.random.default_rng(seed).permutation(NUM_CANDIDATES)
    assert_same_scores(model, query, ads[:, columns], taken(among_500, columns))


@pytest.mark.parametrize("count", [1, 10, 100])
def test_padding_changes_no_score(model, query, ads, among_500, count):
    padded = np.concatenate([ads[:, :10], np.zeros((B, count, ads.shape[2]), ads.dtype)], axis=1)
    scores = {head: values[:, :10] for head, values in model.score(query, padded).items()}
    for head, values in taken(among_500, slice(10)).items():
        np.testing.assert_allclose(scores[head], values, rtol=TOLERANCE, atol=TOLERANCE)


def test_duplicates_have_equal_scores_and_change_no_other_score(model, query, ads, among_500):
    columns = [3, 3, 3, 4, 3]
    assert_same_scores(model, query, ads[:, columns], taken(among_500, columns))


def test_a_batch_scores_like_its_single_requests(model, query, ads, among_500):
    for b in range(B):
        single = {head: values[b : b + 1] for head, values in among_500.items()}
        assert_same_scores(model, query[b : b + 1], ads[b : b + 1], single)


def test_the_query_matters(model, query, ads, among_500):
    other = model.score(tf.reverse(query, [0]), ads)["click"].numpy()
    assert np.abs(other - among_500["click"])[0].max() > 0.1


@pytest.mark.parametrize(
    "heads", [("click",), ("click", "engagement"), ("click", "revenue")], ids="+".join
)
def test_an_absent_head_is_absent(data_set, ranker_config, query, ads, heads):
    model = ranking.Ranker(data_set.fitted, ranker_config, heads)
    logits = model({"query": query, "ad": ads[:, :4]})
    assert tuple(logits) == heads
    served = layers.head_outputs(logits)
    assert len(served) == len(heads)
    assert ("expected_revenue" in served) == ("revenue" in heads)
    assert ("engagement_probability" in served) == ("engagement" in heads)


def test_served_values_are_probabilities_and_engagement_needs_a_click(among_500):
    served = layers.head_outputs({h: tf.constant(v) for h, v in among_500.items()})
    click = served["click_probability"].numpy()
    engagement = served["engagement_probability"].numpy()
    assert (click > 0).all()
    assert (click < 1).all()
    assert (engagement <= click).all()
    assert np.isfinite(served["expected_revenue"]).all()
    assert (served["expected_revenue"].numpy() > 0).all()


@pytest.mark.parametrize("num_blocks", [0, 1])
def test_the_gradient_reaches_every_trainable_variable(num_blocks, data_set, ranker_config):
    config = dataclasses.replace(ranker_config, num_blocks=num_blocks)
    model = loud(ranking.build_ranker(data_set, config, [], []))
    batch = next(iter(data_set.batches("train", 64)))
    with tf.GradientTape() as tape:
        loss = model.compute_loss(batch, training=True)
    gradients = tape.gradient(loss, model.trainable_variables)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None, variable.name
        assert np.abs(tf.convert_to_tensor(gradient).numpy()).max() > 0, variable.name


def test_padding_has_no_part_in_loss_or_penalty(data_set, model):
    batch = next(iter(data_set.batches("train", 16)))
    padded = dict(batch)
    for name, values in batch.items():
        if name != "query":
            padding = [[0, 0], [0, 7]] + [[0, 0]] * (values.shape.rank - 2)
            padded[name] = tf.pad(values, padding)
    results = []
    for b in (batch, padded):
        loss = model.compute_loss(b)
        model({"query": b["query"], "ad": b["ad"]}, training=True)
        results.append([float(loss), *map(float, model.losses)])
    assert len(results[0]) == 3  # The penalty of each side is a loss.
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5)
