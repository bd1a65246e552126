"""The optimizers of both stages: Adam for dense layers, Adagrad for embedding tables.

Adagrad updates only the rows of a batch, so the cost of a step does not grow with the tables.
Adam's moments decay in every row at every step.
The trained weights of the dense layers are their running average, without the noise of the last
batches. The rows of tables are updated rarely, and averaging them gained nothing.

References:
    Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992.
    Duchi, Hazan and Singer, Adaptive Subgradient Methods, 2011.
    Kingma and Ba, Adam, 2015.
"""

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tensorflow_recommenders as tfrs

from tfrec.training import stage_model

_WARM_UP_SHARE = 0.05
# With fewer, towers hardly learned in short trainings (docs/experiments/0039-distillation.md).
_MIN_WARM_UP_STEPS, _MAX_WARM_UP_SHARE = 32, 1 / 3


class WarmUpThenCosine(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly over the first steps, then falls to a tenth.

    The first twentieth of the steps rises, but at least 32 steps, or a third of them all.
    """

    def __init__(self, peak: float, steps: int) -> None:
        self._peak, self._steps = peak, max(steps, 1)
        at_least = min(_MIN_WARM_UP_STEPS / self._steps, _MAX_WARM_UP_SHARE)
        self._rising = max(_WARM_UP_SHARE, at_least)

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        progress = tf.cast(step, tf.float32) / self._steps
        rise = tf.minimum(1.0, (progress + 1.0 / self._steps) / self._rising)
        fall = 0.55 + 0.45 * tf.cos(math.pi * tf.minimum(progress, 1.0))
        return self._peak * rise * fall

    def get_config(self) -> dict[str, Any]:
        return {"peak": self._peak, "steps": self._steps}


class AveragedAdam(tf.keras.optimizers.Adam):
    """Adam whose `use_ema` average forgets the first steps faster, which are far from the result.

    The momentum of the average is `ema_momentum`, but at most n / (n + 10) in step n. The update of
    a variable uses one TensorFlow operation instead of Keras's fourteen. Values that all variables
    share are computed once per step, and the scales of clipped gradients as one vector.
    """

    def _clip_gradients(
        self, grads: Sequence[tf.Tensor | tf.IndexedSlices | None]
    ) -> list[tf.Tensor | tf.IndexedSlices | None]:
        given = [gradient for gradient in grads if gradient is not None]
        if not given or self.clipnorm is None:
            return super()._clip_gradients(grads)
        halved_squares = [
            tf.nn.l2_loss(gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient)
            for gradient in given
        ]
        limit = self.clipnorm**2 / 2.0
        scales = tf.unstack(tf.sqrt(limit / tf.maximum(tf.stack(halved_squares), limit)))
        clipped = iter(map(tf.math.scalar_mul, scales, given))
        return [None if gradient is None else next(clipped) for gradient in grads]

    def _internal_apply_gradients(
        self, grads_and_vars: Sequence[tuple[tf.Tensor | tf.IndexedSlices, tf.Variable]]
    ) -> tf.Tensor:
        step = tf.cast(self.iterations + 1, tf.float32)
        options = {
            "beta1_power": tf.pow(self.beta_1, step),
            "beta2_power": tf.pow(self.beta_2, step),
            "lr": tf.cast(self.learning_rate, tf.float32),
            "beta1": tf.constant(self.beta_1),
            "beta2": tf.constant(self.beta_2),
            "epsilon": tf.constant(self.epsilon),
        }
        # For all variables of this step; no attribute that a checkpoint would look for.
        object.__setattr__(self, "_options_of_step", options)
        return super()._internal_apply_gradients(grads_and_vars)

    def update_step(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        """Updates a variable."""
        if isinstance(gradient, tf.IndexedSlices) or tf.distribute.has_strategy():
            super().update_step(gradient, variable)
            return
        index = self._index_dict[self._var_key(variable)]
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].handle,
            v=self._velocities[index].handle,
            grad=gradient,
            **{
                name: tf.cast(value, variable.dtype)
                for name, value in self._options_of_step.items()
            },
        )

    def _update_model_variables_moving_average(self, var_list: Sequence[tf.Variable]) -> None:
        if not self.use_ema or tf.distribute.has_strategy():
            super()._update_model_variables_moving_average(var_list)
            return
        forgotten = 1.0 - self.ema_momentum
        for variable in var_list:
            average = self._model_variables_moving_average[
                self._index_dict[self._var_key(variable)]
            ]
            tf.raw_ops.ResourceApplyGradientDescent(
                var=average.handle, alpha=forgotten, delta=average - variable
            )

    @property
    def ema_momentum(self) -> tf.Tensor:
        """Momentum of the average in the current step."""
        step = tf.cast(self.iterations + 1, tf.float32)
        return tf.minimum(self._ema_momentum, step / (step + 10.0))

    @ema_momentum.setter
    def ema_momentum(self, value: float) -> None:
        self._ema_momentum = value


def dense_and_sparse(
    model: stage_model.StageModel,
    learning_rate: float,
    embedding_learning_rate: float,
    steps: int,
    average_decay: float = 0.0,
    initial_accumulator: float = 0.1,
) -> tfrs.experimental.optimizers.CompositeOptimizer:
    """Returns Adam for the dense layers and Adagrad for the tables, for `Model.compile`.

    Args:
        model: A model with built weights.
        learning_rate: Peak rate of the dense layers.
        embedding_learning_rate: Peak rate of `model.sparse_variables`.
        steps: Number of steps of the whole schedule.
        average_decay: Decay per step of the average of the dense weights; 0: no average.
        initial_accumulator: Initial sum of squared gradients of Adagrad; if far above the
            squared gradients, rare rows learn almost nothing.
    """
    # On a GPU, Keras would compile the updates with XLA: the sparse ones again for each number of
    # rows, and the dense ones with the rates of the first trace.
    dense = AveragedAdam(
        WarmUpThenCosine(learning_rate, steps),
        jit_compile=False,
        clipnorm=5.0,
        use_ema=average_decay > 0,
        ema_momentum=average_decay,
    )
    sparse = tf.keras.optimizers.Adagrad(
        WarmUpThenCosine(embedding_learning_rate, steps),
        initial_accumulator_value=initial_accumulator,
        jit_compile=False,
    )
    # Built, so that a backup is restored into them.
    dense.build(model.dense_variables)
    sparse.build(model.sparse_variables)
    return tfrs.experimental.optimizers.CompositeOptimizer(
        [(dense, lambda: model.dense_variables), (sparse, lambda: model.sparse_variables)]
    )
