"""The optimizers: the schedule, the average of the dense weights, and the sparse updates."""

import numpy as np
import pytest
import tensorflow as tf

from tfrec import training
from tfrec.training import callbacks, optimizers


def test_the_learning_rate_rises_then_falls_to_a_tenth():
    rate = optimizers.WarmUpThenCosine(2.0, 1000)
    # After step 0, one of the fifty steps that warm up is done: 1/50 of the peak.
    assert float(rate(0)) == pytest.approx(0.04)
    assert float(rate(49)) == pytest.approx(2.0, rel=0.01)
    assert float(rate(500)) == pytest.approx(1.1)
    assert float(rate(1000)) == float(rate(2000)) == pytest.approx(0.2)


@pytest.mark.parametrize(("steps", "rising"), [(1000, 50), (100, 32), (60, 20), (3, 1), (1, 1)])
def test_a_short_training_warms_up_for_32_steps_or_a_third(steps, rising):
    rate = optimizers.WarmUpThenCosine(1.0, steps)
    falls = [0.55 + 0.45 * np.cos(np.pi * step / steps) for step in range(rising)]
    rises = [float(rate(step)) / fall for step, fall in enumerate(falls)]
    np.testing.assert_allclose(rises, np.arange(1, rising + 1) / rising, rtol=1e-4)


class Product(training.StageModel):
    """The loss is the sum of some rows of a table times a weight."""

    def __init__(self, num_rows=4):
        super().__init__()
        self.table = self.add_weight("table", (num_rows, 2), initializer="ones")
        self.weight = self.add_weight("weight", (2,), initializer="ones")
        self.built = True

    @property
    def sparse_variables(self):
        return [self.table]

    def compute_loss(self, inputs, training=False):
        return 3.0 * tf.reduce_sum(self.weight * tf.gather(self.table, inputs["ad_row"]))


def trained(model, rows, steps=1, schedule=20, **options):
    model.compile(training.dense_and_sparse(model, steps=schedule, **options))
    data = tf.data.Dataset.from_tensors({"ad_row": tf.constant(rows)}).repeat(steps)
    return model.fit(data, verbose=0)


def test_a_row_seen_for_the_first_time_moves_by_the_first_accumulator():
    model = Product()
    # The gradient is 3 in every entry of row 2, and the first step of one has the full rate.
    rates = {"learning_rate": 0.0, "embedding_learning_rate": 0.5}
    trained(model, [2], schedule=1, initial_accumulator=16.0, **rates)
    moved = model.table.numpy() - 1.0
    # Adagrad: 0.5 · 3 / √(16 + 3²) = 0.3.
    np.testing.assert_allclose(moved[2], -0.3, rtol=1e-5)
    np.testing.assert_array_equal(np.delete(moved, 2, axis=0), 0.0)


@pytest.mark.parametrize("clipnorm", [None, 1.5])
def test_an_update_equals_that_of_keras_adam(clipnorm):
    start = [[1.0, -2.0, 0.5], [[1.0], [3.0]]]
    variables_of_both = [[tf.Variable(value) for value in start] for _ in range(2)]
    both = [
        kind(0.1, clipnorm=clipnorm) for kind in (optimizers.AveragedAdam, tf.keras.optimizers.Adam)
    ]
    rows = tf.IndexedSlices(tf.constant([[3.0]]), tf.constant([1]), tf.constant([2, 1]))
    for gradient in ([0.3, -0.1, 0.0], [-1.0, 2.0, 1e-6], [0.0, 0.0, 0.0], [0.2, 0.2, 0.2]):
        for optimizer, variables in zip(both, variables_of_both, strict=True):
            optimizer.apply_gradients(zip([tf.constant(gradient), rows], variables, strict=True))
        for first, second in zip(*variables_of_both, strict=True):
            np.testing.assert_allclose(first, second, rtol=1e-5)
    assert not np.array_equal(variables_of_both[0][0], start[0])


def test_the_average_of_the_weights_forgets_the_start_and_is_lent_to_the_model():
    model, weights = Product(), []
    rates = {"learning_rate": 0.1, "embedding_learning_rate": 0.1}
    model.compile(training.dense_and_sparse(model, steps=20, average_decay=0.15, **rates))
    for _ in range(3):
        weights.append(model.weight.numpy())
        if len(weights) < 3:
            model.train_step({"ad_row": tf.constant([1])})
    # The past weighs 1 / 11 after the first step, then 0.15, which is less than 2 / 12.
    first = weights[0] / 11 + weights[1] * 10 / 11
    expected = 0.15 * first + 0.85 * weights[2]
    swap = callbacks.SwapEMAWeights()
    swap.set_model(model)
    swap.swap()
    np.testing.assert_allclose(model.weight, expected, rtol=1e-5)
    swap.swap()
    np.testing.assert_array_equal(model.weight, weights[2])


def test_no_operation_of_a_step_makes_a_tensor_as_large_as_a_table():
    """The cost of a step does not grow with the tables: no part of its graph has their size."""
    num_rows = 1_234_577
    model = Product(num_rows)
    trained(model, [5], learning_rate=0.1, embedding_learning_rate=0.1)
    spec = {"ad_row": tf.TensorSpec([None], tf.int32)}
    graph = tf.function(model.train_step, autograph=False).get_concrete_function(spec).graph
    shapes = [
        output.shape for op in graph.get_operations() for output in op.outputs if output.shape.rank
    ]
    assert shapes
    assert not [shape for shape in shapes if num_rows in shape.as_list()]
