"""Multi-gate mixture of experts: each head mixes shared experts by a gate of its own.

Heads that want different things of what they share pull a common trunk both ways; here they
may use different experts. A candidate's gates see that candidate alone.

Shapes: N candidates (any leading dimensions), W width of the input, E experts, D expert width.

References:
    Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate
    Mixture-of-Experts, 2018.
"""

from collections.abc import Sequence

import tensorflow as tf


class MultiGateMixture(tf.keras.layers.Layer):
    """Mixes experts for each head.

    Args:
        num_experts: E.
        width: D.
        heads: Names of the heads.
    """

    def __init__(self, num_experts: int, width: int, heads: Sequence[str]) -> None:
        super().__init__(name="mixture")
        self._num_experts, self._width = num_experts, width
        self._experts = tf.keras.layers.Dense(num_experts * width, activation="relu")
        self._gates = {head: tf.keras.layers.Dense(num_experts) for head in heads}

    def call(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Maps [N, W] to [N, D + W] for each head: its mixture, and what went in."""
        shape = tf.concat([tf.shape(x)[:-1], [self._num_experts, self._width]], axis=0)
        experts = tf.reshape(self._experts(x), shape)  # [N, E, D]
        mixed = {}
        for head, gate in self._gates.items():
            shares = tf.nn.softmax(gate(x))[..., None]  # [N, E, 1]
            mixed[head] = tf.concat([tf.reduce_sum(shares * experts, axis=-2), x], axis=-1)
        return mixed
