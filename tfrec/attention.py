"""Attention in which a candidate sees the query and itself, and no other candidate.

Shapes: B requests, C candidates, T query tokens, D model width, H heads.

References:
    Vaswani et al., Attention Is All You Need, 2017.
    Xiong et al., On Layer Normalization in the Transformer Architecture, 2020 (pre-norm).
"""

import numpy as np
import tensorflow as tf

from tfrec import config as config_lib


class IsolatedAttentionBlock(tf.keras.layers.Layer):
    """A pre-norm transformer block over query tokens and mutually isolated candidates."""

    def __init__(self, config: config_lib.RankerConfig) -> None:
        super().__init__()
        if config.model_dim % config.num_heads:
            raise ValueError(
                f"model_dim ({config.model_dim}) must be a multiple of num_heads "
                f"({config.num_heads})."
            )
        self._num_heads = config.num_heads
        self._num_tokens = config.num_query_tokens
        self._head_dim = config.model_dim // config.num_heads
        # [D, H]: one where a channel belongs to a head.
        self._head_of = np.repeat(np.eye(config.num_heads, dtype=np.float32), self._head_dim, 0)
        self._attention_norm = tf.keras.layers.LayerNormalization(epsilon=1e-6)
        self._feed_forward_norm = tf.keras.layers.LayerNormalization(epsilon=1e-6)
        self._query_key_value = tf.keras.layers.Dense(3 * config.model_dim)
        # Blocks start as the identity: attention only adds what it is found to be good for.
        self._output = tf.keras.layers.Dense(config.model_dim, kernel_initializer="zeros")
        self._widen = tf.keras.layers.Dense(config.feed_forward_dim, activation="gelu")
        self._narrow = tf.keras.layers.Dense(config.model_dim, kernel_initializer="zeros")
        self._dropout = tf.keras.layers.Dropout(config.dropout)

    def call(
        self, tokens: tf.Tensor, candidates: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Updates query tokens [B, T, D] and candidates [B, C, D]."""
        token_q, token_k, token_v = self._project(tokens)
        own_q, own_k, own_v = self._project(candidates)
        keys, values = self._spread(token_k), self._spread(token_v)  # [B, H T, D]
        token_logits = self._by_head(tf.matmul(token_q, keys, transpose_b=True))
        token_values = tf.matmul(self._joined(self._softmax(token_logits)), values)
        query_logits = self._by_head(tf.matmul(own_q, keys, transpose_b=True))  # [B, C, H, T]
        own_logits = tf.matmul(own_q * own_k, self._head_of)[..., None]  # [B, C, H, 1]
        weights = self._softmax(tf.concat([query_logits, own_logits], axis=-1))
        own_values = tf.matmul(self._joined(weights[..., :-1]), values)
        own_values += own_v * tf.matmul(weights[..., -1], self._head_of, transpose_b=True)
        return (
            self._feed_forward(tokens, token_values, training),
            self._feed_forward(candidates, own_values, training),
        )

    def _project(self, x: tf.Tensor) -> list[tf.Tensor]:
        return tf.split(self._query_key_value(self._attention_norm(x)), 3, axis=-1)

    def _spread(self, tokens: tf.Tensor) -> tf.Tensor:
        """Gives each head its own copy [B, H T, D] of tokens [B, T, D], zero outside the head.

        With few tokens this makes all heads one plain product of matrices, without transposes.
        """
        heads = tokens[:, None] * tf.transpose(self._head_of)[:, None]  # [B, H, T, D]
        return tf.reshape(heads, [-1, self._num_heads * tokens.shape[1], tokens.shape[2]])

    def _by_head(self, logits: tf.Tensor) -> tf.Tensor:
        """Reshapes [B, N, H T] to [B, N, H, T]."""
        shape = tf.shape(logits)
        return tf.reshape(logits, [shape[0], shape[1], self._num_heads, self._num_tokens])

    def _joined(self, weights: tf.Tensor) -> tf.Tensor:
        """Reshapes [B, N, H, T] to [B, N, H T]."""
        shape = tf.shape(weights)
        return tf.reshape(weights, [shape[0], shape[1], self._num_heads * self._num_tokens])

    def _softmax(self, logits: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(logits * self._head_dim**-0.5)

    def _feed_forward(self, x: tf.Tensor, values: tf.Tensor, training: bool) -> tf.Tensor:
        attended = self._output(values)
        x += self._dropout(attended, training=training)
        hidden = self._narrow(self._widen(self._feed_forward_norm(x)))
        return x + self._dropout(hidden, training=training)
