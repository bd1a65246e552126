"""A stage trains as any Keras model does: other optimizers, several replicas, layers of a user."""

import dataclasses

import pytest
import scripts_in_forks
import tensorflow as tf

from tfrec import ranking, retrieval, training

pytestmark = pytest.mark.trains


class Linear(training.StageModel):
    """y = x · w, whose gradients are known."""

    def __init__(self):
        super().__init__()
        self.table = self.add_weight("table", (4, 1), initializer="ones")
        self.weight = self.add_weight("weight", (1,), initializer="ones")
        self.built = True

    @property
    def sparse_variables(self):
        return [self.table]

    def compute_loss(self, inputs, training=False):
        return tf.reduce_mean(self.weight * tf.gather(self.table, inputs["ad_row"])[:, 0]) * 6.0


def test_gradient_norms_are_those_of_the_latest_sampled_step(monkeypatch):
    monkeypatch.setattr("tfrec.training.summaries.STEPS_PER_SAMPLE", 2)
    model = Linear()
    model.compile(training.dense_and_sparse(model, 0.0, 0.0, 10))
    step = tf.function(model.train_step)
    norms = []
    for rows in ([1, 1], [1, 1], [1, 2]):
        step({"ad_row": tf.constant(rows)})
        norms.append({k: float(v) for k, v in model.gradient_norms.read().items()})
    # The loss is 6 w · the mean of the rows: 6 by the weight, and 3 + 3 by the one row.
    measured = {"norm_of_gradient/dense": 6.0, "norm_of_gradient/sparse": 6.0}
    assert norms == [dict.fromkeys(measured, 0.0), measured, measured]


def test_logs_are_means_over_the_epoch_and_regularization_counts():
    class Regularized(Linear):
        def compute_loss(self, inputs, training=False):
            return tf.reduce_mean(tf.cast(inputs["ad_row"], tf.float32)) + 0.0 * self.weight[0]

        @property
        def losses(self):
            return [tf.constant(10.0)]

    model = Regularized()
    model.compile("sgd")
    rows = tf.data.Dataset.from_tensor_slices({"ad_row": [1, 2, 3, 6]}).batch(2)
    # The means of the batches are 1.5 and 4.5.
    assert model.fit(rows, verbose=0).history["loss"] == [13.0]
    assert model.evaluate(rows, verbose=0, return_dict=True)["loss"] == 13.0


@pytest.mark.parametrize(
    ("args", "options", "unused"),
    [
        (("sgd", "mse"), {}, "loss"),
        (
            ("sgd",),
            {"metrics": ["AUC"], "loss_weights": {"click": 2.0}},
            "metrics and loss_weights",
        ),
    ],
)
def test_losses_and_metrics_that_would_not_be_used_are_refused(args, options, unused):
    with pytest.raises(ValueError, match=rf"Linear.compile: .* alone, got {unused}, which"):
        Linear().compile(*args, **options)


@pytest.fixture
def default_policy():
    yield
    tf.keras.mixed_precision.set_global_policy("float32")


def test_a_policy_of_mixed_precision_is_refused(default_policy):
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    with pytest.raises(ValueError, match=r"policy is 'mixed_bfloat16'; expected 'float32'"):
        Linear()


class WithMixedLayer(Linear):
    def __init__(self):
        super().__init__()
        self.mixed = tf.keras.layers.Dense(1, dtype="mixed_float16", name="mixed")


def test_a_layer_of_mixed_precision_is_refused_before_training():
    with pytest.raises(ValueError, match="WithMixedLayer: the layer 'mixed' computes in float16"):
        training.dense_and_sparse(WithMixedLayer(), 0.1, 0.1, steps=1)


class BuiltLate(Linear):
    def __init__(self):
        super().__init__()
        self.late = tf.keras.layers.Dense(1, name="late")

    def compute_loss(self, inputs, training=False):
        return super().compute_loss(inputs, training) + tf.reduce_sum(self.late(tf.ones([1, 1])))


def test_weights_that_a_training_step_creates_are_refused():
    model = BuiltLate()
    model.compile(training.dense_and_sparse(model, 0.1, 0.1, steps=1))
    rows = tf.data.Dataset.from_tensor_slices({"ad_row": [1, 2]}).batch(2)
    with pytest.raises(ValueError, match=r"BuiltLate has weights .*variable late/\S+ Call their"):
        model.fit(rows, verbose=0)


ON_REPLICAS = """
import sys

import numpy as np
import tfrec
import tensorflow as tf

from tfrec import config, ranking, retrieval, training
from tfrecords import reader

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
data_set = reader.DataSet(sys.argv[1])
small = {"field_dim": 4, "dropout": 0.0, "id_dropout": 0.0}
ranker = config.RankerConfig(model_dim=16, num_blocks=0, num_cross_layers=1, **small)
towers = config.RetrievalConfig(embedding_dim=16, hidden_dim=16, uniform_negatives=8, **small)


def trained(strategy, stage):
    with strategy.scope():
        if stage == "ranker":
            model = ranking.build_ranker(data_set, ranker, [], [])
            read = lambda seed: data_set.batches("train", 64, seed)
            average_decay = 0.9
        else:
            model = retrieval.build_two_tower(data_set, towers, data_set.catalog())
            read = lambda seed: data_set.clicked("train", 64, seed)
            average_decay = 0.0
        model.compile(training.dense_and_sparse(model, 0.01, 0.1, 20, average_decay))
    history = model.fit(training.stream_epochs(read, 5, 2), steps_per_epoch=5, epochs=2, verbose=0)
    return history.history["loss"]


# Collective operations between two devices of one CPU are not reliably ordered.
replicas = tf.distribute.MirroredStrategy(
    tf.config.list_logical_devices("CPU"),
    cross_device_ops=tf.distribute.ReductionToOneDevice(),
)
for stage in ("ranker", "retrieval"):
    one, two = (trained(strategy, stage) for strategy in (tf.distribute.get_strategy(), replicas))
    assert two[1] < two[0], (stage, two)
    # The softmax of each replica is over its own candidates if they are a batch's.
    np.testing.assert_allclose(one, two, rtol=0.05)
# A user's own model embeds the batch as the base class does.
retrieval.TwoTower.embed_batch = retrieval.RetrievalModel.embed_batch
first, second = trained(replicas, "retrieval")
assert second < first, (first, second)
"""


@pytest.mark.process
def test_two_replicas_learn_what_one_does(data_set, tmp_path):
    """Both stages on a mirrored strategy, in a process that has two devices."""
    (tmp_path / "on_replicas.py").write_text(ON_REPLICAS)
    done = scripts_in_forks.run(tmp_path / "on_replicas.py", data_set.directory)
    assert done.returncode == 0, done.stderr


def with_control_flow(base):
    """A layer with Python control flow over tensors, as a user may write it."""

    class Custom(base):
        def call(self, x):
            if tf.reduce_sum(x) > 0.0:
                x = 2.0 * x
            return super().call(x)

    return Custom


def built(optimizer, model, batches):
    """An optimizer with its variables: otherwise Keras traces the first step twice."""
    model.compute_loss(next(iter(batches)))
    optimizer.build(model.trainable_variables)
    return optimizer


def test_a_ranker_with_another_layer_trains_and_scores(data_set, ranker_config):
    class MyRanker(ranking.Ranker):
        def __init__(self, *args):
            super().__init__(*args)
            self.deep = with_control_flow(tf.keras.layers.Dense)(ranker_config.model_dim)

    without_blocks = dataclasses.replace(ranker_config, num_blocks=0)
    model = MyRanker(data_set.fitted, without_blocks, ["click"])
    batches = data_set.batches_of_like_lists("train", 64, seed=1).take(20)
    model.compile(built(tf.keras.optimizers.Adam(0.01), model, batches))
    losses = model.fit(batches, epochs=3, verbose=0).history["click_loss"]
    assert losses[-1] < losses[0]
    batch = next(iter(batches))
    assert model.score(batch["query"], batch["ad"])["click"].shape == batch["click"].shape


def test_a_two_tower_model_with_another_layer_trains(data_set, retrieval_config):
    class MyTwoTower(retrieval.TwoTower):
        def __init__(self, *args):
            super().__init__(*args)
            self.ad_tower.hidden_layer = with_control_flow(tf.keras.layers.Dense)(
                retrieval_config.hidden_dim, activation="relu"
            )

    model = MyTwoTower(data_set.fitted, retrieval_config, data_set.catalog())
    batches = data_set.clicked("train", 64, seed=1)
    model.compile(built(tf.keras.optimizers.Adagrad(0.1), model, batches))
    losses = model.fit(batches, epochs=3, verbose=0).history["softmax_loss"]
    assert losses[-1] < losses[0]
