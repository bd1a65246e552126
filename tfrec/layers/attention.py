"""Target attention: candidates attend to the tokens of their request, and to no other candidate.

Tokens are read, not updated, so their keys and values are computed once per request. A block has no
feed-forward layers: those that were tried cost more than half of a training step and gained nothing
(docs/experiments/0034-attention-to-fields.md).

Shapes: B requests, C candidates, T tokens, E width of a token, D model width.

References:
    Vaswani et al., Attention Is All You Need, 2017.
    Zhou et al., Deep Interest Network for Click-Through Rate Prediction, 2018 (the candidate is
    the query of the attention).
    Song et al., AutoInt: Automatic Feature Interaction Learning, 2019 (fields are tokens).
    Touvron et al., Going Deeper with Image Transformers, 2021 (learned scales of residuals).
"""

import numpy as np
import tensorflow as tf

from tfrec.config import RankerConfig
from tfrec.layers import dropout

# On CPUs, TensorFlow's softmax is slow for rows shorter than a vector register.
_MIN_ROW = 16


class LayerNorm(tf.keras.layers.LayerNormalization):
    """Layer normalization of [N, D].

    On CPUs, TensorFlow replaces the Keras layer with a fused operation that uses another epsilon.
    """

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Standardizes, scales and shifts x [N, D]."""
        centered = x - tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centered), axis=-1, keepdims=True)
        return centered * tf.math.rsqrt(variance + self.epsilon) * self.gamma + self.beta


class TokenAttention(tf.keras.layers.Layer):
    """`tf.keras.layers.MultiHeadAttention` with few and narrow keys: the same results, faster.

    In training, where lists are short, a head folds its projections of queries and keys into one,
    and its projections of values and outputs into another. So the tokens themselves are the keys
    and values of every head, and all products are of matrices, without transposing.

    Args:
        num_heads: Number of heads H.
        head_dim: Width K of the queries, keys and values of a head.
    """

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self._num_heads, self._head_dim = num_heads, head_dim

    def build(self, input_shape: tuple[tf.TensorShape, tf.TensorShape]) -> None:
        """Creates the weights, as Keras does, except two biases that would have no effect.

        A bias of keys adds the same to all scores of a query; the weights of the tokens sum to one,
        so a bias of values is one of outputs.
        """
        width, token_width = (shape[-1] for shape in input_shape)
        head_shape = self._num_heads, self._head_dim
        self.query_kernel = self.add_weight("query_kernel", (width, *head_shape))
        self.query_bias = self.add_weight("query_bias", head_shape, initializer="zeros")
        self.key_kernel = self.add_weight("key_kernel", (token_width, *head_shape))
        self.value_kernel = self.add_weight("value_kernel", (token_width, *head_shape))
        self.output_kernel = self.add_weight("output_kernel", (*head_shape, width))
        self.output_bias = self.add_weight("output_bias", (width,), initializer="zeros")
        super().build(input_shape)

    def call(
        self,
        inputs: tuple[tf.Tensor, tf.Tensor],
        attention_mask: tf.Tensor | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        """Returns the attention output of each query, [B, C, D].

        Args:
            inputs: Queries [B, C, D] and tokens [B, T, E].
            attention_mask: [B, 1, T] bool, tokens to attend to; None: all.
            training: Whether to compute it in the order that is faster for few queries.
        """
        queries, tokens = inputs
        if not training:
            return self._attend_head_by_head(queries, tokens, attention_mask)
        shape = tf.shape(queries)
        width, token_width = queries.shape[-1], tokens.shape[-1]
        total_width = self._num_heads * token_width
        keys = self._by_head(self.key_kernel * self._head_dim**-0.5)
        kernel = tf.matmul(tf.reshape(self.query_kernel, [width, -1]), keys, transpose_b=True)
        bias = tf.matmul(tf.reshape(self.query_bias, [1, -1]), keys, transpose_b=True)
        queries = tf.matmul(tf.reshape(queries, [-1, width]), kernel)
        queries = tf.nn.bias_add(queries, tf.reshape(bias, [total_width]))
        queries = tf.reshape(queries, [shape[0], -1, token_width])  # [B, C H, E]
        scores = tf.matmul(queries, tokens, transpose_b=True)  # [B, C H, T]
        if attention_mask is not None:
            scores = tf.where(attention_mask, scores, scores.dtype.min)
        attended = tf.matmul(tf.nn.softmax(scores), tokens)  # [B, C H, E]
        output_kernel = tf.reshape(self.output_kernel, [-1, width])
        kernel = tf.matmul(self._by_head(self.value_kernel), output_kernel)
        outputs = tf.matmul(tf.reshape(attended, [-1, total_width]), kernel)
        return tf.reshape(tf.nn.bias_add(outputs, self.output_bias), shape)

    def _attend_head_by_head(
        self, queries: tf.Tensor, tokens: tf.Tensor, attention_mask: tf.Tensor | None
    ) -> tf.Tensor:
        """Computes `call` with the keys and values of each head, as Keras does."""
        shape, width = tf.shape(queries), queries.shape[-1]
        total_width = self._num_heads * self._head_dim
        queries = tf.matmul(
            tf.reshape(queries, [-1, width]), tf.reshape(self.query_kernel, [width, total_width])
        )
        queries = tf.nn.bias_add(queries, tf.reshape(self.query_bias, [total_width]))
        queries = tf.reshape(queries, [shape[0], -1, self._num_heads, self._head_dim])
        queries = tf.transpose(queries, [0, 2, 1, 3])  # [B, H, C, K]
        keys = tf.einsum("bte,ehk->bhtk", tokens, self.key_kernel * self._head_dim**-0.5)
        values = tf.einsum("bte,ehk->bhtk", tokens, self.value_kernel)
        if (tokens.shape[1] or _MIN_ROW) < _MIN_ROW:
            scores = tf.matmul(keys, queries, transpose_b=True)  # [B, H, T, C]
            if attention_mask is not None:
                scores = tf.where(attention_mask[..., None], scores, scores.dtype.min)
            weights = tf.exp(scores - tf.reduce_max(scores, axis=2, keepdims=True))
            weights /= tf.reduce_sum(weights, axis=2, keepdims=True)
            attended = tf.matmul(weights, values, transpose_a=True)
        else:
            scores = tf.matmul(queries, keys, transpose_b=True)  # [B, H, C, T]
            if attention_mask is not None:
                scores = tf.where(attention_mask[:, None], scores, scores.dtype.min)
            attended = tf.matmul(tf.nn.softmax(scores), values)
        attended = tf.reshape(tf.transpose(attended, [0, 2, 1, 3]), [-1, total_width])
        outputs = tf.matmul(attended, tf.reshape(self.output_kernel, [total_width, width]))
        return tf.reshape(tf.nn.bias_add(outputs, self.output_bias), shape)

    def _by_head(self, kernel: tf.Tensor) -> tf.Tensor:
        """Returns a kernel [E, H, K] as a matrix [H E, H K] that keeps the heads apart.

        One product with it is faster than one for each head, which needs transposing.
        """
        rows = tf.tile(tf.reshape(kernel, [kernel.shape[0], -1]), [self._num_heads, 1])
        heads = np.eye(self._num_heads, dtype=np.float32)
        return rows * np.kron(heads, np.ones((kernel.shape[0], self._head_dim), np.float32))


class TargetAttention(tf.keras.layers.Layer):
    """A pre-norm block of multi-head attention, with a residual connection.

    Args:
        config: Sizes.
    """

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        self.norm = LayerNorm(epsilon=1e-6)
        self.attention = TokenAttention(config.num_heads, config.head_dim)
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
            absent: [B, T] bool, tokens that no candidate attends to; None: all are present.
            training: Whether dropout is on.

        Returns:
            [B, C, D].
        """
        mask = None if absent is None else ~absent[:, None]
        attended = self.attention(
            (self.norm(candidates), tokens), attention_mask=mask, training=training
        )
        return candidates + self._dropout(self.scale * attended, training=training)
