"""The learning rate over the steps of a training run."""

import math
from typing import Any

import tensorflow as tf

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
