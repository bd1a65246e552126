"""A custom retrieval model: two towers; mistakes are explained before training."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_recommenders as tfrs

from tfrec import ranking, retrieval
from tfrec.retrieval import click_factors


class Hashed(tf.keras.layers.Layer):
    """Embeds ids without weights, and without `training`."""

    def __init__(self, finish=lambda x: tf.math.l2_normalize(x, axis=-1), dim=4):
        super().__init__()
        self._finish, self._dim = finish, dim

    def call(self, ids):
        total = tf.cast(tf.reduce_sum(ids, axis=-1, keepdims=True), tf.float32)
        return self._finish(tf.sin(total * tf.range(1.0, self._dim + 1.0)) + 0.5)


class TwoLayers(retrieval.RetrievalModel):
    towers = (Hashed, Hashed)

    def __init__(self, fitted, config, catalog):
        query_tower, ad_tower = (make() for make in self.towers)
        super().__init__(fitted, config, catalog, query_tower, ad_tower)


class OfOtherSizes(TwoLayers):
    towers = (Hashed, lambda: Hashed(dim=5))


class TooLong(TwoLayers):
    towers = (lambda: Hashed(lambda x: 9.0 * tf.math.l2_normalize(x, axis=-1)), Hashed)


class OfAnotherShape(TwoLayers):
    towers = (Hashed, lambda: Hashed(lambda x: x[:, None]))


class OfTheBatch(TwoLayers):
    towers = (
        lambda: Hashed(lambda x: tf.math.l2_normalize(x - tf.reduce_mean(x, axis=0), axis=-1)),
        Hashed,
    )


class OfDoubles(TwoLayers):
    towers = (lambda: Hashed(lambda x: tf.cast(x, tf.float64)), Hashed)


class OfNames(TwoLayers):
    towers = (Hashed, lambda: Hashed(lambda x: {"embedding": x}))


class OfFunctions(TwoLayers):
    towers = (lambda: lambda ids: tf.cast(ids, tf.float32), Hashed)


class OfTooFewIds(TwoLayers):
    towers = (lambda: Hashed(lambda x: tf.gather(x, [99])), Hashed)


class Counting(Hashed):
    def __init__(self):
        super().__init__()
        self.calls = self.add_weight("calls", (), initializer="zeros", trainable=False)

    def call(self, ids):
        self.calls.assign_add(1.0)
        return super().call(ids)


class WithNames(Hashed):
    """Has a variable of strings, and one of any shape."""

    def __init__(self):
        super().__init__()
        self.names = tf.Variable(["a"], trainable=False)
        self.some = tf.Variable([1.0], trainable=False, shape=tf.TensorShape(None))


class OfVariables(TwoLayers):
    towers = (WithNames, Hashed)


def test_variables_that_are_not_numbers_of_a_known_shape_are_accepted(data_set, retrieval_config):
    assert build(OfVariables, data_set, retrieval_config).built


class OfState(TwoLayers):
    towers = (Counting, Hashed)


class WithHiddenVariable(Hashed):
    def __init__(self):
        super().__init__()
        held = tf.Variable(0.5)
        self.scale = lambda: held

    def call(self, ids):
        return self.scale() * super().call(ids)


class OfHiddenVariable(TwoLayers):
    towers = (WithHiddenVariable, Hashed)


class OfPython(TwoLayers):
    towers = (
        lambda: Hashed(lambda x: tf.py_function(tf.math.l2_normalize, [x, -1], x.dtype)),
        Hashed,
    )


class WithRankingTask(TwoLayers):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.task = tfrs.tasks.Ranking(tf.keras.losses.MeanSquaredError())


class WithoutSuper(retrieval.RetrievalModel):
    def __init__(self, fitted, config, catalog):
        self.size = 1


class WithoutTowers(retrieval.RetrievalModel):
    pass


class WithEmptySuper(TwoLayers):
    def __init__(self, fitted, config, catalog):
        retrieval.RetrievalModel.__init__(self)


class WithoutReturn(TwoLayers):
    @classmethod
    def for_data_set(cls, data_set, config, catalog):
        cls(data_set.fitted, config, catalog)


def build(kind, data_set, config):
    config = dataclasses.replace(config, retrieval_model=kind)
    return retrieval.build_two_tower(data_set, config, data_set.catalog())


def test_two_keras_layers_are_a_retrieval_model(data_set, retrieval_config):
    model = build(TwoLayers, data_set, retrieval_config)
    assert model.sparse_variables == []
    clicks = next(iter(data_set.clicked("train", 16)))
    loss = model.compute_loss(clicks, training=True)
    assert loss.shape == ()
    embedded = retrieval.embed_in_batches(model.query_tower, clicks["query"].numpy(), 7)
    tf.debugging.assert_near(embedded, model.query_tower(clicks["query"]))


class Dropping(Hashed):
    """Has no argument `training`."""

    def __init__(self):
        super().__init__()
        self.dropout = tf.keras.layers.Dropout(0.9)

    def call(self, ids):
        return self.dropout(super().call(ids))


class OfDropout(TwoLayers):
    towers = (Dropping, Hashed)


def test_dropout_of_a_tower_without_the_argument_training_is_on_in_training(
    data_set, retrieval_config
):
    model = build(OfDropout, data_set, retrieval_config)
    ids, ads = tf.constant(np.ones((32, 3), np.int32)), tf.ones([1, 2], tf.int32)
    for training in (False, True):
        queries = model.embed_batch({}, ids, ads, tf.zeros([32], tf.int32), training).queries
        assert bool(tf.reduce_any(queries == 0.0)) == training


def test_towers_of_many_models_are_traced_without_a_warning(caplog, monkeypatch):
    class Double(tf.keras.layers.Layer):
        def call(self, ids):
            return 2.0 * tf.cast(ids, tf.float32)

    monkeypatch.setattr(tf.get_logger(), "handlers", [caplog.handler])
    for _ in range(8):  # TensorFlow warns of the fifth.
        embedded = retrieval.embed_in_batches(Double(), np.ones((3, 2), np.int32))
        np.testing.assert_array_equal(embedded, np.full((3, 2), 2.0))
    assert not [record for record in caplog.records if "retracing" in record.message]


def test_weights_are_saved_without_a_warning(
    data_set, retrieval_config, ranker_config, tmp_path, caplog, monkeypatch
):
    def towers():
        model = retrieval.build_two_tower(data_set, retrieval_config, data_set.catalog())
        model.learn_weights({"click": 1.0})
        return model

    def with_factors():
        model, rows = towers(), np.ones((200, 3), np.float32)
        click_factors.append(model, click_factors.ClickFactors(rows, rows, (0, 0)))
        return model

    def ranker():
        return ranking.build_ranker(data_set, ranker_config, [], [])

    monkeypatch.setattr(tf.get_logger(), "handlers", [caplog.handler])
    for made in (towers, with_factors, ranker):
        saved, loaded = made(), made()
        saved.save_weights(tmp_path / "model.weights.h5")
        loaded.load_weights(tmp_path / "model.weights.h5")
        for ours, theirs in zip(loaded.weights, saved.weights, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert caplog.messages == []


def test_batches_for_a_ranker_are_refused(data_set, retrieval_config):
    model = build(TwoLayers, data_set, retrieval_config)
    model.compile("sgd")
    with pytest.raises(ValueError, match=r"TwoLayers: expected batches of DataSet.clicked, .*got"):
        model.fit(data_set.batches("train", 16), verbose=0)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            WithoutSuper,
            r"WithoutSuper.__init__ does not call super\(\).__init__ with the arguments",
        ),
        (WithoutTowers, r"WithoutTowers cannot be built: .* 'query_tower' and .* Expected a const"),
        (WithEmptySuper, r"cannot be built: RetrievalModel.* and 'ad_tower'. Expected .* to super"),
        (WithoutReturn, r"WithoutReturn.for_data_set: expected a .*, got NoneType\. Return"),
        (OfOtherSizes, r"expected towers with embeddings of the same size, got {.*: 4, .*: 5}"),
        (TooLong, r"TooLong.query_tower: expected finite embeddings of length one, got 9\. Return"),
        (OfAnotherShape, r"ad_tower: expected embeddings of shape \[3, D\] .* got \[3, 1, 4\]"),
        (OfTheBatch, r"query_tower: the embedding of a row changes by .* if other rows are in the"),
        (OfNames, r"ad_tower: expected a tensor of embeddings, got dict\. Return one vector"),
        (
            OfFunctions,
            r"query_tower: expected a tf.keras.layers.Layer, got function\. Make a layer",
        ),
        (
            OfTooFewIds,
            r"query_tower fails for ids from 0 to .*indices\[0\] = 99 is not in \[0, 3\)",
        ),
        (OfState, r"query_tower changes the variable 'calls:0' outside of training"),
        (OfHiddenVariable, r"query_tower reads the variable 'Variable:0', which is none of its"),
        (OfPython, r"query_tower calls Python, which a model server cannot run\. Replace tf.py_"),
        (WithRankingTask, r"task: expected a tfrs.tasks.Retrieval, got Ranking\."),
        (OfDoubles, r"query_tower: expected embeddings of type float32, got float64"),
    ],
)
def test_wrong_towers_are_refused_before_training(data_set, retrieval_config, kind, said):
    with pytest.raises(ValueError, match=said):
        build(kind, data_set, retrieval_config)


def test_a_frozen_encoder_that_was_loaded_is_accepted(data_set, retrieval_config, tmp_path):
    encoder = tf.Module()
    encoder.scale = tf.Variable(2.0)
    encoder.call = tf.function(lambda x: encoder.scale * x)
    encoder.call.get_concrete_function(tf.TensorSpec([None, 4], tf.float32))
    tf.saved_model.save(encoder, tmp_path)

    class Encoded(Hashed):
        def __init__(self):
            super().__init__(finish=lambda x: tf.math.l2_normalize(self.loaded.call(x), axis=-1))
            self.loaded = tf.saved_model.load(tmp_path)

    class OfEncoders(TwoLayers):
        towers = (Encoded, Hashed)

    OfEncoders(data_set.fitted, retrieval_config, data_set.catalog()).build_weights()
