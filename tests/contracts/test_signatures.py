"""The ranker as it is exported: its weights constants, its scores those of the model."""

import dataclasses

import history_logs
import numpy as np
import pytest
import tensorflow as tf
from loud_models import loud

from serving import model_server
from serving.requests import query_fields
from tfrec import calibration, exported, layers, ranking, retrieval
from tfrec.calibration import curves
from tfrec.exported import constants
from tfrecords import encoding

pytestmark = pytest.mark.slow

CALIBRATORS = calibration.Calibrators(
    {"click": curves.Platt(0.9, -0.3), "engagement": curves.Platt(1.1, 0.2)}
)


@pytest.fixture(scope="module")
def model(data_set, ranker_config):
    """Every weight is moved well away from its start, so that scores differ visibly."""
    return loud(ranking.build_ranker(data_set, ranker_config))


@pytest.fixture(scope="module")
def directory(data_set, model, tmp_path_factory):
    module = exported.RankerModule(data_set.fitted, model, CALIBRATORS)
    path = tmp_path_factory.mktemp("ranker")
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.serve})
    return path


@pytest.fixture(scope="module")
def served(directory):
    return model_server.Servable("ranker", 1, directory)


def columns(data_set, requests):
    schema = data_set.schema
    fields = query_fields.QueryFields(
        [{"name": f.name, "kind": f.kind} for f in schema.query_fields],
        [f.name for f in schema.ad_fields],
    )
    raw = fields.columns([fields.merge({}, request) for request in requests])
    return {k: v if isinstance(v, np.ndarray) else np.array(v, object) for k, v in raw.items()}


def ads(data_set, num_requests, num_candidates):
    features = np.asarray(data_set.catalog().features)
    rows = np.random.default_rng(1).integers(0, len(features), (num_requests, num_candidates))
    return features[rows]


@pytest.mark.parametrize(("num_requests", "num_candidates"), [(1, 500), (3, 20), (2, 1), (1, 0)])
def test_the_exported_ranker_scores_as_the_model(
    data_set, model, served, num_requests, num_candidates
):
    raw = columns(data_set, data_set.sample_requests()[:num_requests])
    ad_features = ads(data_set, num_requests, num_candidates)
    encoder = encoding.Encoder(data_set.fitted, data_set.schema.query_fields)
    query = encoder({name: tf.constant(values) for name, values in raw.items()})
    expected = CALIBRATORS.apply(model({"query": query, "ad": ad_features}))
    found = served.predict("", {**raw, "ad_features": ad_features})
    assert found.keys() == expected.keys()
    for name, values in found.items():
        assert values.shape == (num_requests, num_candidates)
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_blocks", [0, 1])
def test_the_exported_ranker_reads_ages_and_events_as_the_model_does_the_data_set(
    ranker_config, tmp_path, num_blocks
):
    converted = history_logs.converted(
        history_logs.log(), history_logs.schema_of(), tmp_path / "log"
    )
    config = dataclasses.replace(ranker_config, num_blocks=num_blocks)
    model = ranking.Ranker.for_data_set(converted, config, ["click", "engagement"])
    model(next(iter(converted.batches("test", 1))))
    loud(model, scale=0.3)
    module = exported.RankerModule(converted.fitted, model, calibration.Calibrators())
    raw = longest_sample(converted)
    fields = converted.schema.query_fields
    features = tf.constant(ads(converted, 1, 30))
    encoder = encoding.Encoder(converted.fitted, fields)
    expected = model({"query": encoder(raw), "ad": features})
    found = module.serve(**raw, ad_features=features)["click_probability"]
    np.testing.assert_allclose(found, tf.sigmoid(expected["click"]), rtol=1e-4, atol=1e-6)
    for changed in (
        {"all__age_seconds": 30.0 * raw["all__age_seconds"]},
        {"all__events": tf.fill(raw["all__events"].shape, "engagement")},
    ):
        other = module.serve(**{**raw, **changed}, ad_features=features)["click_probability"]
        assert np.abs(other - found).max() > 1e-4


def longest_sample(converted):
    """Returns the inputs of the held-out request with most events."""
    sample = max(converted.sample_requests(), key=lambda request: len(request["all"] or ()))
    assert len(sample["all"]) > 3
    inputs = {}
    for name, spec in encoding.input_signature(converted.schema.query_fields).items():
        value = sample[name] or [] if spec.shape.rank > 1 else sample[name]
        missing = "" if spec.dtype == tf.string else np.nan
        inputs[name] = tf.constant([missing if value is None else value], spec.dtype)
    return inputs


def test_only_the_tables_stay_variables(model, directory):
    assert num_variables(directory) == len(layers.embedding_tables(model)) == 2


def test_only_the_table_of_a_query_tower_stays_a_variable(data_set, retrieval_config, tmp_path):
    built = retrieval.build_two_tower(data_set, retrieval_config, data_set.catalog())
    tower = retrieval.WeightedQueryTower(
        built.query_tower, ("click", "engagement"), retrieval_config.embedding_dim
    )
    module = exported.QueryTowerModule(data_set.fitted, tower)
    tf.saved_model.save(module, str(tmp_path), signatures=module.by_signature)
    # It also has the table of the ads, for histories, which these requests do not have.
    assert num_variables(tmp_path) == 1


def num_variables(directory):
    names = [name for name, _ in tf.train.list_variables(str(directory / "variables/variables"))]
    return sum(name.endswith("VARIABLE_VALUE") for name in names)


def test_later_training_does_not_change_the_exported_weights(data_set, model, served):
    raw = columns(data_set, data_set.sample_requests()[:1])
    inputs = {**raw, "ad_features": ads(data_set, 1, 5)}
    before = served.predict("", inputs)["click_probability"]
    bias = model.head_layers["click"].bias
    bias.assign_add([3.0])
    np.testing.assert_array_equal(served.predict("", inputs)["click_probability"], before)
    bias.assign_sub([3.0])


class Scaled(tf.Module):
    def __init__(self):
        super().__init__()
        self.factor = tf.Variable(2.0)
        self.table = tf.Variable([5.0])
        self.inner = Inner()


class Inner(tf.Module):
    def __init__(self):
        super().__init__()
        self.offset = tf.Variable(3.0)


def test_weights_are_constants_inside_and_variables_again_after():
    module = Scaled()
    with constants.as_constants(module, but=[module.table]):
        assert not isinstance(module.factor, tf.Variable)
        assert not isinstance(module.inner.offset, tf.Variable)
        assert isinstance(module.table, tf.Variable)
        assert float(module.factor * module.inner.offset) == 6.0
    module.factor.assign(4.0)
    assert float(module.factor * module.inner.offset) == 12.0
    assert len(module.variables) == 3


def test_weights_are_variables_again_after_an_error():
    module = Scaled()
    with pytest.raises(RuntimeError, match="no trace"), constants.as_constants(module):
        raise RuntimeError("no trace")
    assert len(module.variables) == 3


def test_a_machine_that_no_head_uses_is_not_exported(data_set, ranker_config, monkeypatch):
    config = dataclasses.replace(ranker_config, num_blocks=0)
    model = ranking.Ranker(data_set.fitted, config, ("click", "engagement"))
    model(next(iter(data_set.batches("test", 1))))
    (machine,) = model.machines.values()
    called = []
    score = machine.call

    def call(query, ad):
        called.append(machine)
        return score(query, ad)

    monkeypatch.setattr(machine, "call", call)
    exported.RankerModule(data_set.fitted, model, CALIBRATORS)
    assert not called
    machine.share.assign(0.5)
    exported.RankerModule(data_set.fitted, model, CALIBRATORS)
    assert called
