"""The mixture of experts: its numbers, what it can do that a shared layer cannot, and serving."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tfrec import calibration, exported, layers, ranking
from tfrec import config as config_lib


def test_a_head_is_its_gates_mean_of_the_experts_beside_what_went_in():
    layer = layers.MultiGateMixture(num_experts=2, width=1, heads=("click", "revenue"))
    layer(tf.zeros([1, 1]))
    # Experts x and 2 x; click's gate is (0, x ln 3), so shares (1/4, 3/4) at x = 1.
    layer._experts.set_weights([np.array([[1.0, 2.0]]), np.zeros(2)])
    layer._gates["click"].set_weights([np.array([[0.0, np.log(3.0)]]), np.zeros(2)])
    layer._gates["revenue"].set_weights([np.zeros((1, 2)), np.zeros(2)])
    mixed = layer(tf.constant([[[1.0]]]))
    np.testing.assert_allclose(mixed["click"], [[[1 / 4 + 2 * 3 / 4, 1.0]]], rtol=1e-6)
    np.testing.assert_allclose(mixed["revenue"], [[[1.5, 1.0]]], rtol=1e-6)


@pytest.fixture(scope="module")
def model(data_set, ranker_config, tmp_path_factory):
    directory = tmp_path_factory.mktemp("mmoe")
    config = dataclasses.replace(ranker_config, num_blocks=1, trunk="mmoe", num_experts=3, epochs=1)
    ranking.train_ranker(data_set, config, directory)
    return ranking.load_ranker(data_set, directory)[0]


@pytest.fixture(scope="module")
def requests(data_set):
    query = next(iter(data_set.batches("test", 64)))["query"][:2]
    rows = np.random.default_rng(1).integers(0, len(data_set.catalogue()), (2, 50))
    return query, np.asarray(data_set.catalogue().features)[rows]


@pytest.mark.trains
def test_a_candidate_scores_alone_what_it_scores_among_others(model, requests):
    query, ads = requests
    among = model.score(query, ads)
    alone = model.score(query, ads[:, 7:8])
    for head, values in alone.items():
        np.testing.assert_allclose(values, among[head][:, 7:8], rtol=1e-5, atol=1e-5)


@pytest.mark.trains
def test_the_exported_model_serves_equal_scores(model, data_set, tmp_path):
    module = exported.RankerModule(data_set.fitted, model, calibration.Calibrators())
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": module.serve})
    served = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    ads = np.asarray(data_set.catalogue().features)[None, :20]
    raw = data_set.sample_requests()[0]
    inputs = {}
    for field in data_set.schema.query_fields:
        value = raw[field.name]
        if field.kind == "numeric":
            inputs[field.name] = tf.constant([np.nan if value is None else value], tf.float32)
        else:
            inputs[field.name] = tf.constant([value or ""])
    answer = served(ad_features=tf.constant(ads), **inputs)
    query = next(iter(data_set.batches("test", 64)))["query"][:1]
    expected = calibration.Calibrators().apply(model.score(query, ads))
    for name, values in expected.items():
        np.testing.assert_allclose(answer[name], values, rtol=1e-4)


@pytest.mark.trains
def test_training_moves_the_gates_apart(model):
    click, engagement = (model._mixture._gates[h].get_weights()[1] for h in ("click", "engagement"))
    # The biases of both begin at 0.
    assert np.abs(click).max() > 0
    assert np.abs(click - engagement).max() > 1e-4


def test_heads_that_want_opposite_things_are_learnt_together():
    # In one half of the inputs click rises and engagement falls, in the other the other way
    # round: heads that are linear in what went in explain nothing of it.
    rng = np.random.default_rng(0)
    x = rng.normal(size=(512, 2)).astype(np.float32)
    crossed = np.sign(x[:, 1:]) * x[:, :1]
    targets = {"click": crossed, "engagement": -crossed}
    tf.keras.utils.set_random_seed(1)
    trunk = layers.MultiGateMixture(2, 2, tuple(targets))
    heads = {name: tf.keras.layers.Dense(1) for name in targets}
    optimizer = tf.keras.optimizers.Adam(0.02)

    def errors():
        mixed = trunk(x)
        return [tf.reduce_mean((heads[n](mixed[n]) - target) ** 2) for n, target in targets.items()]

    errors()
    variables = [v for layer in (trunk, *heads.values()) for v in layer.trainable_variables]
    optimizer.build(variables)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.add_n(errors())
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    for _ in range(600):
        step()
    # The targets have variance 1.
    assert max(float(error) for error in errors()) < 0.15


def test_an_unknown_trunk_is_refused():
    with pytest.raises(ValueError, match="trunk: expected shared or mmoe, got 'deep'"):
        config_lib.RankerConfig(trunk="deep")
