"""Dropout whose random state is part of checkpoints, so that training resumes exactly.

That of `tf.keras.layers.Dropout` is in none.
"""

import random
from typing import Any

import tensorflow as tf

from tfrec.layers import replicas


class Generator(tf.random.Generator):
    """A generator whose state is the same on all replicas, so that one checkpoint holds it.

    The state advances by the number of values drawn, and shares of a batch differ in size. So
    each of several replicas takes its own seed from it, and draws from the seed.
    """

    def uniform(self, shape: Any, *args: Any, **kwargs: Any) -> tf.Tensor:
        """Draws numbers, different ones on each replica; see `tf.random.Generator`."""
        if not replicas.several_replicas():
            return super().uniform(shape, *args, **kwargs)
        seed = self.make_seeds()[:, 0]
        return tf.random.stateless_uniform(shape, seed, *args, **kwargs)

    def same_integers(self, count: int, limit: int) -> tf.Tensor:
        """Returns [count] int32 below `limit`, the same on all replicas as on one."""
        if not replicas.several_replicas():
            return self.uniform([count], 0, limit, tf.int32)
        return tf.raw_ops.StatelessRandomUniformIntV2(
            shape=[count], minval=0, maxval=limit, **self._same_on_all(count)
        )

    def same_uniform(self, count: tf.Tensor) -> tf.Tensor:
        """Returns [count] float32 in [0, 1), the same on all replicas as on one."""
        if not replicas.several_replicas():
            return self.uniform(count[None])
        return tf.raw_ops.StatelessRandomUniformV2(shape=count[None], **self._same_on_all(count))

    def _same_on_all(self, count: tf.Tensor | int) -> dict[str, Any]:
        """Moves the state on by `count`; returns the key and the counter that it had."""
        state = self.skip(count)
        key, counter = (tf.bitcast(part, tf.uint64) for part in (state[2:3], state[:2]))
        return {"key": key, "counter": counter, "alg": self.algorithm}


def new_generator() -> Generator:
    """Returns a generator seeded by `tf.keras.utils.set_random_seed`.

    As an attribute of a layer, a model or a `tf.Module` it is part of checkpoints.
    """
    return Generator.from_seed(random.randint(1, 10**9))


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
