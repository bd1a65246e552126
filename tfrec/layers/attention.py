"""Attention in which a candidate sees the query and itself, and no other candidate.

Query tokens and candidates are rows of one matrix, so each projection is one product. At serving
the weights are constants, and expressions of weights only (the scale of a norm times the matrix
after it) are computed once, at loading.

Shapes: B requests, C candidates, T query tokens, N = T + C rows, D model width, H heads.

References:
    Vaswani et al., Attention Is All You Need, 2017.
    Xiong et al., On Layer Normalization in the Transformer Architecture, 2020 (pre-norm).
"""

import numpy as np
import tensorflow as tf

from tfrec.config import RankerConfig
from tfrec.layers import dropout

# Added to a logit, gives a weight of zero.
_NEVER = -1e9


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


class IsolatedAttentionBlock(tf.keras.layers.Layer):
    """A pre-norm transformer block over query tokens and mutually isolated candidates.

    Args:
        config: Width D, number of heads, feed-forward width and dropout rate.
        num_tokens: Number T of query tokens.

    Raises:
        ValueError: The width is not a multiple of the number of heads.
    """

    def __init__(self, config: RankerConfig, num_tokens: int) -> None:
        super().__init__()
        if config.model_dim % config.num_heads:
            raise ValueError(
                f"model_dim ({config.model_dim}) must be a multiple of num_heads "
                f"({config.num_heads})."
            )
        self._dim = config.model_dim
        self._num_heads = config.num_heads
        self._num_tokens = num_tokens
        self._head_dim = config.model_dim // config.num_heads
        # [H, D]: 1 if the channel belongs to the head.
        self._channels = np.repeat(np.eye(config.num_heads, dtype=np.float32), self._head_dim, 1)
        self._attention_norm = LayerNorm(epsilon=1e-6)
        self._feed_forward_norm = LayerNorm(epsilon=1e-6)
        self._query_key_value = tf.keras.layers.Dense(3 * config.model_dim)
        # Blocks start as the identity.
        self._output = tf.keras.layers.Dense(config.model_dim, kernel_initializer="zeros")
        self._widen = tf.keras.layers.Dense(config.feed_forward_dim)
        self._narrow = tf.keras.layers.Dense(config.model_dim, kernel_initializer="zeros")
        self._dropout = dropout.Dropout(config.dropout)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the weights; called by Keras."""
        for layer in (self._attention_norm, self._query_key_value, self._output):
            layer.build([None, self._dim])
        for layer in (self._feed_forward_norm, self._widen):
            layer.build([None, self._dim])
        self._narrow.build([None, self._widen.units])
        super().build(input_shape)

    def call(
        self, rows: tf.Tensor, absent: tf.Tensor | None = None, training: bool = False
    ) -> tf.Tensor:
        """Updates rows.

        Args:
            rows: [B, N, D], of which the first T are query tokens.
            absent: [B, T] bool, tokens that no row attends to; None: no token is absent.
            training: Whether dropout is on.
        """
        shape = tf.shape(rows)
        x = tf.reshape(rows, [-1, self._dim])  # [B N, D]
        attended = self._output(self._attend(x, shape, absent))
        x += self._dropout(attended, training=training)
        hidden = self._narrow(_gelu(_norm_then(self._feed_forward_norm, self._widen, x)))
        x += self._dropout(hidden, training=training)
        return tf.reshape(x, shape)

    def _attend(self, x: tf.Tensor, shape: tf.Tensor, absent: tf.Tensor | None) -> tf.Tensor:
        """Returns the attention outputs [B N, D] of rows [B N, D] of shape [B, N, D]."""
        query, key, value = self._project(x)
        logits = tf.matmul(
            tf.reshape(query, shape), self._of_tokens(key, shape), transpose_b=True
        )  # [B, N, T H]
        if absent is not None:
            logits += tf.repeat(tf.where(absent, _NEVER, 0.0), self._num_heads, axis=1)[:, None]
        own_logits = tf.matmul(query * key, self._channels, transpose_b=True)  # [B N, H]
        own_logits = tf.reshape(own_logits, [shape[0], shape[1], self._num_heads])
        # Query tokens attend to themselves as tokens.
        is_token = tf.range(shape[1])[:, None] < self._num_tokens
        own_logits += tf.where(is_token, _NEVER, 0.0)
        weights = self._softmax(tf.concat([logits, own_logits], axis=-1))  # [B, N, (T + 1) H]
        # The padding zeroes the weight of the row itself here, and those of tokens below.
        token_values = tf.pad(self._of_tokens(value, shape), [[0, 0], [0, self._num_heads], [0, 0]])
        of_tokens = tf.reshape(tf.matmul(weights, token_values), [-1, self._dim])
        own_channels = np.pad(self._channels, [[self._num_tokens * self._num_heads, 0], [0, 0]])
        own = tf.matmul(tf.reshape(weights, [-1, len(own_channels)]), own_channels)
        return of_tokens + value * own

    def _project(self, x: tf.Tensor) -> list[tf.Tensor]:
        """Returns scaled queries, keys and values [B N, D] of rows [B N, D]."""
        x = self._attention_norm.standardized(x)
        kernel, bias = _folded(self._attention_norm, self._query_key_value)
        kernels, biases = tf.split(kernel, 3, axis=1), tf.split(bias, 3)
        kernels[0] *= self._head_dim**-0.5
        biases[0] *= self._head_dim**-0.5
        # Three products; splitting the result of one would copy it.
        return [
            tf.nn.bias_add(tf.matmul(x, kernel), bias)
            for kernel, bias in zip(kernels, biases, strict=True)
        ]

    def _of_tokens(self, rows: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
        """Returns a copy [B, T H, D] of the tokens of [B N, D] per head, zero in other heads.

        With few tokens this makes all heads one product of matrices, without transposes.
        """
        tokens = tf.reshape(rows, shape)[:, : self._num_tokens, None]
        heads = tokens * self._channels  # [B, T, H, D]
        return tf.reshape(heads, [shape[0], self._num_tokens * self._num_heads, self._dim])

    def _softmax(self, logits: tf.Tensor) -> tf.Tensor:
        """Applies the softmax over T + 1 to [B, N, (T + 1) H], for each head.

        `tf.nn.softmax` takes several times as long for so few values.
        """
        by_head = tf.reshape(logits, [-1, self._num_tokens + 1, self._num_heads])
        maximum = tf.stop_gradient(tf.reduce_max(by_head, axis=1, keepdims=True))
        weights = tf.exp(by_head - maximum)
        weights /= tf.reduce_sum(weights, axis=1, keepdims=True)
        return tf.reshape(weights, tf.shape(logits))


def _norm_then(norm: LayerNorm, dense: tf.keras.layers.Dense, x: tf.Tensor) -> tf.Tensor:
    """Returns dense(norm(x))."""
    kernel, bias = _folded(norm, dense)
    return tf.nn.bias_add(tf.matmul(norm.standardized(x), kernel), bias)


def _folded(norm: LayerNorm, dense: tf.keras.layers.Dense) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns kernel and bias of a dense layer with a norm's scale and offset folded in."""
    kernel = norm.gamma[:, None] * dense.kernel
    return kernel, tf.linalg.matvec(dense.kernel, norm.beta, transpose_a=True) + dense.bias


def _gelu(x: tf.Tensor) -> tf.Tensor:
    """Returns the exact GELU, in a form that TensorFlow fuses with the preceding product."""
    return 0.5 * x * (1.0 + tf.math.erf(x * 2**-0.5))
