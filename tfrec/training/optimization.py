"""One step of training: Adam for dense layers, Adagrad for embedding tables.

Adagrad updates only the rows of a batch, so the cost of a step does not grow with the tables.
Adam's moments decay in every row at every step.
The trained weights of the dense layers are their running average, without the noise of the last
batches. The rows of tables are updated rarely, and averaging them gained nothing.

References:
    Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992.
    Duchi, Hazan and Singer, Adaptive Subgradient Methods, 2011.
    Kingma and Ba, Adam, 2015.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tfrec.training import summaries
from tfrecords import reader

_WARM_UP_SHARE = 0.05


class WarmUpThenCosine(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly over the first share of the steps, then falls to a tenth."""

    def __init__(self, peak: float, steps: int) -> None:
        self._peak, self._steps = peak, max(steps, 1)

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        progress = tf.cast(step, tf.float32) / self._steps
        rise = tf.minimum(1.0, (progress + 1.0 / self._steps) / _WARM_UP_SHARE)
        fall = 0.55 + 0.45 * tf.cos(math.pi * tf.minimum(progress, 1.0))
        return self._peak * rise * fall

    def get_config(self) -> dict[str, Any]:
        return {"peak": self._peak, "steps": self._steps}


Losses = dict[str, tf.Tensor]
Compiled = Callable[[reader.Batch, bool], tuple[Losses, dict[str, tf.Tensor]]]


class TrainingStep:
    """Minimizes a loss with two optimizers.

    Args:
        model: A model with `sparse_variables` and built weights.
        losses: Maps a batch to losses; `loss` is minimized, the others are reported.
        learning_rate: Peak rate of the dense layers.
        embedding_learning_rate: Peak rate of the sparse variables.
        steps: Number of steps of the whole schedule.
        average_decay: Decay per step of the average of the dense weights; 0: no average.
        initial_accumulator: Initial sum of squared gradients of Adagrad; if far above the
            squared gradients, rare rows learn almost nothing.

    Attributes:
        dense_optimizer: Adam; part of checkpoints.
        sparse_optimizer: Adagrad; part of checkpoints.
        averages: Averages of the dense weights, part of checkpoints; empty without averaging.
    """

    def __init__(
        self,
        model: tf.keras.Model,
        losses: Callable[[reader.Batch], Losses],
        learning_rate: float,
        embedding_learning_rate: float,
        steps: int,
        average_decay: float = 0.0,
        initial_accumulator: float = 0.1,
    ) -> None:
        self._losses, self._average_decay = losses, average_decay
        sparse = {variable.ref() for variable in model.sparse_variables}
        self._sparse = model.sparse_variables
        self._dense = [v for v in model.trainable_variables if v.ref() not in sparse]
        self.dense_optimizer = tf.keras.optimizers.Adam(
            WarmUpThenCosine(learning_rate, steps), clipnorm=5.0
        )
        # On a GPU, XLA would compile the update again for each number of rows.
        self.sparse_optimizer = tf.keras.optimizers.Adagrad(
            WarmUpThenCosine(embedding_learning_rate, steps),
            initial_accumulator_value=initial_accumulator,
            jit_compile=False,
        )
        averaged = self._dense if average_decay else []
        self.averages = [tf.Variable(v, trainable=False) for v in averaged]
        self.dense_optimizer.build(self._dense)
        self.sparse_optimizer.build(self._sparse)
        self._compiled: Compiled | None = None

    def compiled(self, element_spec: dict[str, tf.TensorSpec]) -> Compiled:
        """Returns the step as a graph, traced once since passes have the same shapes.

        Args:
            element_spec: Spec of the batches.

        Returns:
            A function of a batch, and of whether the step is sampled, that returns the losses and
            the `summaries.gradient_norms`, which are zeros if it is not sampled.
        """
        if self._compiled is None:
            signature = [element_spec, tf.TensorSpec([], tf.bool)]
            # Without AutoGraph, which no part of it needs, training starts seconds sooner.
            self._compiled = tf.function(self._step, input_signature=signature, autograph=False)
        return self._compiled

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Uses the averages as the model's weights until the block ends."""
        if not self.averages:
            yield
            return
        own = [variable.numpy() for variable in self._dense]
        for variable, average in zip(self._dense, self.averages, strict=True):
            variable.assign(average)
        try:
            yield
        finally:
            for variable, value in zip(self._dense, own, strict=True):
                variable.assign(value)

    @property
    def done(self) -> int:
        """Number of steps taken."""
        return int(self.dense_optimizer.iterations.numpy())

    @property
    def learning_rates(self) -> dict[str, tf.Tensor]:
        """The rates of the latest step."""
        return {
            "learning_rate/dense": self.dense_optimizer.learning_rate,
            "learning_rate/sparse": self.sparse_optimizer.learning_rate,
        }

    def _step(self, batch: reader.Batch, sampled: tf.Tensor) -> tuple[Losses, dict[str, tf.Tensor]]:
        with tf.GradientTape() as tape:
            losses = self._losses(batch)
        gradients = tape.gradient(losses["loss"], self._dense + self._sparse)
        dense, sparse = gradients[: len(self._dense)], gradients[len(self._dense) :]
        self.dense_optimizer.apply_gradients(zip(dense, self._dense, strict=True))
        self.sparse_optimizer.apply_gradients(zip(sparse, self._sparse, strict=True))
        if self.averages:
            self._average()
        norms = tf.cond(
            sampled,
            lambda: summaries.gradient_norms(dense, sparse),
            summaries.no_gradient_norms,
        )
        return losses, norms

    def _average(self) -> None:
        # The average forgets the first steps faster, which are far from the result.
        step = tf.cast(self.dense_optimizer.iterations, tf.float32)
        decay = tf.minimum(self._average_decay, step / (step + 10.0))
        for average, variable in zip(self.averages, self._dense, strict=True):
            average.assign(decay * average + (1.0 - decay) * variable)
