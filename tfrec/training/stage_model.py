"""The base class of both stages: a `tfrs.Model` whose logs are means over a pass.

A subclass implements `compute_loss`, as for `tfrs.Model`. It trains by
`compile` and `fit`, under any optimizer and any `tf.distribute` strategy.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_recommenders as tfrs

from tfrec import layers
from tfrec.training import summaries
from tfrecords import reader


class StageModel(tfrs.Model):
    """A model with embedding tables.

    Differs from `tfrs.Model` in three ways. `loss` in logs is the mean over the pass, not that of
    the last batch. On several replicas, losses are means over all of them. And the norms of the
    gradients are measured in every `summaries.STEPS_PER_SAMPLE`th step.

    Attributes:
        gradient_norms: Norms of the latest measured step.
    """

    train_function: Any

    def __init__(self) -> None:
        super().__init__()
        self._mean_loss = tf.keras.metrics.Mean(name="loss")
        self.gradient_norms = summaries.GradientNorms()

    @property
    def sparse_variables(self) -> list[tf.Variable]:
        """The trainable variables that take sparse updates: the tables of embedding layers."""
        return layers.embedding_tables(self)

    @property
    def dense_variables(self) -> list[tf.Variable]:
        """The other trainable variables."""
        sparse = {variable.ref() for variable in self.sparse_variables}
        return [v for v in self.trainable_variables if v.ref() not in sparse]

    def train_step(self, inputs: reader.Batch) -> dict[str, tf.Tensor]:
        """Takes a step of the optimizer, and returns the metrics, scalars by name."""
        with tf.GradientTape() as tape:
            loss = self._total_loss(inputs, training=True)
            # The optimizer sums the gradients of all replicas.
            own_part = loss / self.distribute_strategy.num_replicas_in_sync
        variables = self.trainable_variables
        gradients = tape.gradient(own_part, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        sparse = {variable.ref() for variable in self.sparse_variables}
        of_variable = list(zip(gradients, variables, strict=True))
        self.gradient_norms.update(
            self.optimizer.iterations,
            [gradient for gradient, v in of_variable if v.ref() not in sparse],
            [gradient for gradient, v in of_variable if v.ref() in sparse],
        )
        return self._updated_metrics(loss)

    def test_step(self, inputs: reader.Batch) -> dict[str, tf.Tensor]:
        """Returns the metrics of a batch, scalars by name, without training."""
        return self._updated_metrics(self._total_loss(inputs, training=False))

    def _total_loss(self, inputs: reader.Batch, training: bool) -> tf.Tensor:
        """Returns the loss with the regularization losses of layers."""
        return tf.add_n([self.compute_loss(inputs, training=training), *self.losses])

    def _updated_metrics(self, loss: tf.Tensor) -> dict[str, tf.Tensor]:
        self._mean_loss.update_state(loss)
        return {metric.name: metric.result() for metric in self.metrics}

    def make_train_function(self, force: bool = False) -> Callable[..., Any]:
        """Returns Keras's function that takes a step, without AutoGraph where nothing needs it."""
        if force or self.train_function is None:
            function = super().make_train_function(force=True)
            # Keras's own loop over several steps of an execution needs AutoGraph.
            steps = self._steps_per_execution
            one_step = steps is None or steps.numpy() == 1
            if one_step and not self.run_eagerly and not layers.needs_autograph(self):
                self.train_function = self.train_tf_function = tf.function(
                    function.python_function, reduce_retracing=True, autograph=False
                )
        return self.train_function
