"""Target attention: candidates attend to the tokens of their request, and to no other candidate.

Tokens are read, not updated, so their keys and values are computed once per request. A block has no
feed-forward layers: those that were tried cost more than half of a training step and gained nothing
(docs/experiments/0033-attention-to-fields.md).

Shapes: B requests, C candidates, T tokens, E width of a token, D model width.

References:
    Vaswani et al., Attention Is All You Need, 2017.
    Zhou et al., Deep Interest Network for Click-Through Rate Prediction, 2018 (the candidate is
    the query of the attention).
    Song et al., AutoInt: Automatic Feature Interaction Learning, 2019 (fields are tokens).
    Touvron et al., Going Deeper with Image Transformers, 2021 (learned scales of residuals).
"""

import tensorflow as tf

from tfrec.config import RankerConfig
from tfrec.layers import dropout


class LayerNorm(tf.keras.layers.LayerNormalization):
    """Layer normalization of [N, D].

    On CPUs, TensorFlow replaces that of Keras with a fused operation that uses another epsilon.
    """

    def standardized(self, x: tf.Tensor) -> tf.Tensor:
        """Returns x [N, D] with mean 0 and variance 1 in each row."""
        centered = x - tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centered), axis=-1, keepdims=True)
        return centered * tf.math.rsqrt(variance + self.epsilon)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Standardizes, scales and shifts x [N, D]."""
        return self.standardized(x) * self.gamma + self.beta


class TargetAttention(tf.keras.layers.Layer):
    """A pre-norm block of multi-head attention, with a residual connection.

    Args:
        config: Sizes.
    """

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        self.norm = LayerNorm(epsilon=1e-6)
        self.attention = tf.keras.layers.MultiHeadAttention(config.num_heads, config.head_dim)
        self._dropout = dropout.Dropout(config.dropout)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the scale of the residual; called by Keras."""
        # Blocks start as the identity.
        self.scale = self.add_weight("scale", (input_shape[-1],), initializer="zeros")
        super().build(input_shape)

    def call(
        self,
        candidates: tf.Tensor,
        tokens: tf.Tensor,
        absent: tf.Tensor | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        """Updates candidates.

        Args:
            candidates: [B, C, D].
            tokens: [B, T, E].
            absent: [B, T] bool, tokens that no candidate attends to; None: no token is absent.
            training: Whether dropout is on.

        Returns:
            [B, C, D].
        """
        mask = None if absent is None else ~absent[:, None]
        attended = self.attention(self.norm(candidates), tokens, attention_mask=mask)
        return candidates + self._dropout(self.scale * attended, training=training)
