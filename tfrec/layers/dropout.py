"""Dropout whose random state is part of checkpoints, so that training resumes exactly.

That of `tf.keras.layers.Dropout` is in none.
"""

import random

import tensorflow as tf


def new_generator() -> tf.random.Generator:
    """Returns a generator seeded by `tf.keras.utils.set_random_seed`.

    As an attribute of a layer, a model or a `tf.Module` it is part of checkpoints.
    """
    return tf.random.Generator.from_seed(random.randint(1, 10**9))


class Dropout(tf.keras.layers.Layer):
    """Sets a share of the inputs to zero in training, and scales up the others.

    Args:
        rate: The share, in [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self._rate = rate
        self._generator = new_generator()

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns x of any shape, with dropout in training."""
        if not training or not self._rate:
            return x
        return tf.nn.experimental.general_dropout(
            x, rate=self._rate, uniform_sampler=self._generator.uniform
        )
