"""A custom ranker has the losses, biases and id dropout of `Ranker`; mistakes are explained."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_recommenders as tfrs

from tfrec import heads, layers, ranking, training
from tfrecords import encoding
from tfrecords import schema as schema_lib
from tfrecords.encoding import FieldStatistics
from tfrecords.schema import Field, Schema

HEADS = ("click", "revenue")


def fitted(with_user=True):
    fields = (
        Field("user", "categorical", "query", num_oov_buckets=1),
        Field("ad", "categorical", "ad", num_oov_buckets=1),
    )
    schema = Schema(
        "own", fields, ad_key=("ad",), click="click", user_key="user" if with_user else None
    )
    # Ids 1 and 2 are known, 3 is out of the vocabulary.
    return encoding.FittedSchema(
        schema,
        {
            "user": FieldStatistics(vocabulary=("u", "v")),
            "ad": FieldStatistics(vocabulary=("a", "b")),
        },
    )


class OnlyCall(ranking.RankingModel):
    """The id of the ad, plus ten times that of the user, as every logit."""

    def call(self, inputs, training=False):
        logit = tf.cast(inputs["ad"][..., 0] + 10 * inputs["query"], tf.float32)
        return {"click": logit, "revenue": tf.stack([logit] * 3, axis=-1)}


INPUTS = {"query": tf.constant([[1], [2]]), "ad": tf.constant([[[1], [2], [0]], [[2], [1], [1]]])}


def test_a_ranker_needs_only_call(ranker_config):
    model = OnlyCall(fitted(with_user=False), ranker_config, HEADS)
    scored = model.score(INPUTS["query"], INPUTS["ad"])
    np.testing.assert_allclose(scored["click"], [[11, 12, 10], [22, 21, 21]])
    assert scored["revenue"].shape == (2, 3, 3)
    assert model.sparse_variables == []
    model.set_head_biases({"click": [1.0], "revenue": [1.0, 2.0, 3.0]})  # It uses no head layers.


def test_only_an_amount_that_follows_a_label_after_the_click_can_follow_its_logits(
    ranker_config, monkeypatch
):
    data = fitted(with_user=False)
    for label in (
        schema_lib.Label("saved", after="click"),
        schema_lib.Label("dwell", is_amount=True, after="click"),
        schema_lib.Label("deposit", is_amount=True, after="saved"),
    ):
        monkeypatch.setitem(schema_lib.LABELS, label.name, label)
        monkeypatch.setitem(heads.HEADS, label.name, heads.Head.of(label))
    built = ("click", "engagement", "revenue", "saved", "dwell", "deposit")
    model = OnlyCall(data, ranker_config, built)
    assert model.amount_heads == {"revenue": "engagement", "deposit": "saved"}
    without = OnlyCall(data, ranker_config, ("click", "revenue", "dwell"))
    assert without.amount_heads == {}


@pytest.mark.parametrize(
    ("batch", "got"),
    [
        (
            {"country": tf.constant(["CH"]), "clicked": tf.ones(1)},
            r"got {'country': \(1,\), 'clicked': \(1,\)}",
        ),
        ({"query": tf.ones((1, 2)), "ad": tf.ones((1, 3))}, r"rank 3\), got .*'ad': \(1, 3\)}"),
        ((tf.ones(1), tf.ones(1)), "got tuple"),
    ],
)
def test_a_batch_that_is_not_of_a_data_set_is_refused(batch, got, ranker_config):
    model = OnlyCall(fitted(), ranker_config, HEADS)
    with pytest.raises(ValueError, match=f"OnlyCall: .* DataSet.batches_of_like_lists.*{got}"):
        model.compute_loss(batch)


def test_a_batch_of_a_data_set_with_other_fields_is_refused(ranker_config):
    model = OnlyCall(fitted(), ranker_config, HEADS)
    said = r"'query': 1, 'ad': 1} columns of ids, .*, got {'query': 2, 'ad': 1}\. Build a model"
    with pytest.raises(ValueError, match=said):
        model.compute_loss({**INPUTS, "query": tf.ones((2, 2), tf.int32)})


def test_user_biases_are_added_and_position_biases_are_not_served(ranker_config):
    model = OnlyCall(fitted(), ranker_config, HEADS)
    model.learn_positions(2)
    model.user_bias.table.assign([[0, 0], [0.5, 0.25], [0, 0], [0, 0]])
    model.position_bias.steps.assign([[-0.1, -0.2]])
    scored = model.logits(INPUTS)
    np.testing.assert_allclose(scored["click"], [[11.5, 12.5, 10.5], [22, 21, 21]])
    np.testing.assert_allclose(scored["revenue"][0, 0], [11.25, 11, 11])
    logged = model.as_logged(scored, tf.constant([[0, 1, 1], [0, 0, 0]]))
    # A step counts three times (`biases.POSITION_SPEED`).
    np.testing.assert_allclose(logged["click"][0], [11.5, 12.2, 10.2], rtol=1e-6)
    assert [v.shape.as_list() for v in model.sparse_variables] == [[4, 2], [1, 2]]


def test_ids_are_hidden_from_call_in_training_only(ranker_config):
    config = dataclasses.replace(ranker_config, id_dropout=1.0)
    model = OnlyCall(fitted(), config, HEADS)
    np.testing.assert_allclose(model.logits(INPUTS)["click"][0], [11, 12, 10])
    # The user is out of the vocabulary, 3; the only ad field is never hidden.
    hidden = model.logits(INPUTS, training=True)["click"]
    np.testing.assert_allclose(hidden, [[31, 32, 30], [32, 31, 31]])


def test_tables_of_embedding_layers_take_sparse_updates_unless_they_are_frozen(ranker_config):
    class Tables(ranking.RankingModel):
        def __init__(self, *args):
            super().__init__(*args)
            self.ad_embeddings = layers.FieldEmbeddings(fitted(), fitted().schema.ad_fields, 2)
            self.learned = tf.keras.layers.Embedding(4, 2)
            self.frozen = tf.keras.layers.Embedding(4, 2, trainable=False)

        def call(self, inputs, training=False):
            ids = inputs["ad"][..., 0]
            return self.head_logits(
                self.learned(ids) + self.frozen(ids) + self.ad_embeddings(inputs["ad"])[..., 0, :]
            )

    model = Tables(fitted(with_user=False), ranker_config, HEADS)
    assert model.logits(INPUTS)["revenue"].shape == (2, 3, 3)
    tables = {variable.ref() for variable in model.sparse_variables}
    assert tables == {model.learned.embeddings.ref(), model.ad_embeddings.table.ref()}
    model.set_head_biases({"click": [1.5], "revenue": [1.0, 2.0, 3.0]})
    np.testing.assert_allclose(model.head_layers["click"].bias, [1.5])


class Wrong(ranking.RankingModel):
    def call(self, inputs, training=False):
        return self.make(tf.cast(inputs["ad"][..., 0], tf.float32))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda x: x, r"Wrong.call: expected a dict with the logits of \['click'\], got EagerT"),
        (lambda x: {"clicks": x}, r"expected a dict .* got \['clicks'\]. Return self.head_log"),
        (lambda x: {"click": x[..., None]}, r"of click of shape \[3, 3\] .* got \[3, 3, 1\]"),
        (
            lambda x: {"click": x - tf.reduce_mean(x, axis=1, keepdims=True)},
            r"the click logit of a candidate changes by .* if other candidates are scored with it",
        ),
        (
            lambda x: {"click": tf.cumsum(x, axis=1) - tf.cumsum(x, axis=1, reverse=True)},
            r"the click logit of a candidate changes by .* candidates",
        ),
        (
            lambda x: {"click": x + tf.range(3.0)[: tf.shape(x)[1]]},
            r"the click logit of a candidate changes by .* candidates",
        ),
        (
            lambda x: {"click": x * tf.cast(tf.shape(x)[0], tf.float32)},
            r"changes by .* if other requests are in the batch",
        ),
        (
            lambda x: {"click": x + tf.random.uniform([])},
            r"changes by .* between two calls with the same ids",
        ),
        (lambda x: {"click": tf.cast(x, tf.float64)}, r"of click of type float32, got float64"),
        (lambda x: {"click": x / x}, r"expected finite logits of click, got NaN or infinity"),
        (
            lambda x: {"click": tf.sigmoid(x[..., None])[..., 0]},
            r"Wrong.call: expected logits of click, got the output of a sigmoid, a probability",
        ),
        (
            lambda x: {"click": tf.unstack(tf.nn.softmax(tf.stack([x, -x], axis=-1)), axis=-1)[1]},
            r"expected logits of click, got the output of a softmax, a probability. Return its",
        ),
        (
            lambda x: {"click": tf.ensure_shape(tf.numpy_function(np.copy, [x], x.dtype), x.shape)},
            r"Wrong.call calls Python, which a model server cannot run. Replace tf.py_function",
        ),
        (
            lambda x: {"click": tf.gather(tf.ones([2]), tf.cast(x, tf.int32))},
            r"fails for ids from 0 to the last one of each field: .*indices.* are below fitted",
        ),
    ],
)
def test_wrong_logits_are_refused_before_training(data_set, ranker_config, make, said, monkeypatch):
    monkeypatch.setattr(Wrong, "make", staticmethod(make), raising=False)
    monkeypatch.setattr("tfrec.ranking.ranker_training._heads", lambda data_set: ["click"])
    with pytest.raises(ValueError, match=said):
        ranking.build_ranker(data_set, dataclasses.replace(ranker_config, ranker=Wrong))


class OfOneArgument(ranking.RankingModel):
    def __init__(self, fitted):
        super().__init__(fitted, None, ("click",))


class WithoutSuper(ranking.RankingModel):
    def __init__(self, fitted, config, heads):
        self.size = 1


class OfTexts(ranking.RankingModel):
    def __init__(self, *args):
        super().__init__(*args)
        self.units = "64" / 2


def test_an_error_inside_a_constructor_is_not_converted(data_set, ranker_config):
    with pytest.raises(TypeError, match="unsupported operand"):
        ranking.build_ranker(data_set, dataclasses.replace(ranker_config, ranker=OfTexts))


class WithKeras3(ranking.RankingModel):
    def __init__(self, *args):
        super().__init__(*args)
        self.dense = keras.layers.Dense(4)

    def call(self, inputs, training=False):
        return self.head_logits(self.dense(tf.cast(inputs["ad"], tf.float32)))


class WithLayerInCall(ranking.RankingModel):
    def call(self, inputs, training=False):
        features = tf.cast(inputs["ad"], tf.float32)
        return self.head_logits(tf.keras.layers.Dense(4)(features))


@pytest.mark.parametrize("kind", [WithKeras3, WithLayerInCall])
def test_a_variable_that_would_not_be_trained_is_refused(data_set, ranker_config, kind):
    with pytest.raises(
        ValueError, match=r"call reads the variable '.*/kernel.*neither trained nor"
    ):
        ranking.build_ranker(data_set, dataclasses.replace(ranker_config, ranker=kind))


class WithLoss(ranking.RankingModel):
    made: object = None

    def __init__(self, *args):
        super().__init__(*args)
        self.tasks = {**self.tasks, "click": self.made}

    def call(self, inputs, training=False):
        return self.head_logits(tf.cast(inputs["ad"], tf.float32))


class WithoutTies(ranking.Ranker):
    def __init__(self, fitted, config, heads):
        super().__init__(fitted, config, heads)


class WithoutCall(ranking.RankingModel):
    pass


class WithoutTask(WithLoss):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.tasks = {head: task for head, task in self.tasks.items() if head != "click"}


@pytest.mark.parametrize(
    ("kind", "made", "said"),
    [
        (OfOneArgument, None, r"OfOneArgument cannot be built: .* arguments fitted, config and he"),
        (WithoutCall, None, r"WithoutCall: expected a method `call` that returns logits, got none"),
        (WithoutTies, None, r"WithoutTies cannot be built: .* \*\*kwargs\) that passes both on"),
        (
            WithoutSuper,
            None,
            r"WithoutSuper.__init__ does not call super\(\).__init__ with the arg",
        ),
        (WithLoss, tf.keras.losses.MeanSquaredError(), r"expected a tfrs.tasks.Ranking, got MeanS"),
        (
            WithLoss,
            tfrs.tasks.Ranking(tf.keras.losses.BinaryCrossentropy(from_logits=True)),
            r"WithLoss.tasks\['click'\]: expected a loss per row, got one with the reduction",
        ),
        (
            WithLoss,
            tfrs.tasks.Ranking(lambda y_true, y_pred, sample_weight=None: tf.reduce_mean(y_pred)),
            r"WithLoss.tasks\['click'\]: expected a loss per row, got losses of shape \[\] for",
        ),
        (
            WithLoss,
            tfrs.tasks.Ranking(lambda labels, logits: tf.square(labels - logits)),
            r"WithLoss.tasks\['click'\]: the loss cannot be called with y_true, y_pred and sample_",
        ),
        (
            WithLoss,
            # Every prediction minus every label.
            tfrs.tasks.Ranking(
                lambda y_true, y_pred, sample_weight=None: tf.square(y_true - y_pred[:, 0])
            ),
            r"WithLoss.tasks\['click'\]: expected a loss per row, got losses of shape \[2, 2\]",
        ),
        (
            WithoutTask,
            None,
            r"WithoutTask.tasks: expected tasks of \['click', .*\], got \[(?!'click)",
        ),
    ],
)
def test_rankers_that_cannot_be_built_or_trained_are_refused(
    data_set, ranker_config, kind, made, said, monkeypatch
):
    monkeypatch.setattr(WithLoss, "made", made)
    monkeypatch.setattr("tfrec.ranking.ranker_training._heads", lambda data_set: list(HEADS))
    with pytest.raises(ValueError, match=said):
        ranking.build_ranker(data_set, dataclasses.replace(ranker_config, ranker=kind))


class ReZero(ranking.RankingModel):
    """Adds the mean of the list through a gate that starts at 0."""

    def __init__(self, *args):
        super().__init__(*args)
        self.gate = self.add_weight("gate", (), initializer="zeros")

    def call(self, inputs, training=False):
        ids = tf.cast(inputs["ad"], tf.float32)
        return self.head_logits(ids + self.gate * tf.reduce_mean(ids, axis=1, keepdims=True))


def test_a_ranker_that_depends_on_the_list_only_after_training_is_refused(
    data_set, ranker_config, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "fit", lambda model, *_, **__: model.gate.assign(0.1))
    config = dataclasses.replace(ranker_config, ranker=ReZero)
    with pytest.raises(ValueError, match=r"ReZero.call: the click logit .* candidates are scored"):
        ranking.train_ranker(data_set, config, tmp_path)


def test_a_class_that_is_not_a_ranker_is_refused(data_set, ranker_config):
    config = dataclasses.replace(ranker_config, ranker="tfrec.retrieval:TwoTower")
    with pytest.raises(ValueError, match=r"expected a subclass of tfrec.ranking.RankingModel, got"):
        ranking.build_ranker(data_set, config)
