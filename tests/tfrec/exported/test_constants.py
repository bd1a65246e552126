"""Weights become constants, and what a call updates does not."""

from tfrec.exported import constants  # First: it selects Keras 2.

import tensorflow as tf  # isort: skip


class Measured(tf.keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = tf.keras.layers.Dense(1, kernel_initializer="ones")

    def call(self, inputs):
        outputs = self.dense(inputs)
        self.add_metric(outputs, name="mean_output", aggregation="mean")
        return outputs


def test_a_model_with_a_metric_of_its_own_is_traced_with_constant_weights():
    model = Measured()
    model(tf.ones([2, 3]))
    with constants.as_constants(model):
        traced = tf.function(model.__call__).get_concrete_function(tf.TensorSpec([None, 3]))
    names = {variable.name for variable in traced.variables}
    assert not any("kernel" in name for name in names)
    assert traced(tf.ones([1, 3])).numpy() == 3.0  # 1 · 1 + 1 · 1 + 1 · 1
    assert isinstance(model.dense.kernel, tf.Variable)


def test_a_large_variable_stays_a_variable_even_if_keras_does_not_track_it(monkeypatch):
    monkeypatch.setattr(constants, "_MAX_CONSTANT_BYTES", 11)  # the kernel's bytes are 12
    model = Measured()
    model(tf.ones([2, 3]))
    object.__setattr__(model.dense, "table", tf.Variable([1, 2, 3], trainable=False))
    with constants.as_constants(model):
        assert isinstance(model.dense.kernel, tf.Variable)
        assert isinstance(model.dense.table, tf.Variable)
        assert not isinstance(model.dense.bias, tf.Variable)
