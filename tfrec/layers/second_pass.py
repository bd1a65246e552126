"""A second look at the short list: full attention among the candidates that score best.

The first pass scores each candidate as if it were alone. What people do may depend on what stands
beside: of two offers, the dearer loses. Here the best few candidates of a request attend to
each other, and their logits are corrected; the others keep theirs. So scores of the short list
depend on the list: candidate isolation holds only without it, and it is off by default.

Shapes: B requests, C candidates, K of the short list, D model width.

References:
    Pei et al., Personalized Re-ranking for Recommendation, 2019.
    Xiong et al., On Layer Normalization in the Transformer Architecture, 2020 (pre-norm).
"""

from collections.abc import Mapping

import tensorflow as tf

from tfrec.config import RankerConfig
from tfrec.layers import attention


class SecondPass(tf.keras.layers.Layer):
    """Corrects the logits of the candidates that score best.

    Args:
        config: Sizes; `rerank_candidates` is the most that K can be.
        sizes: Numbers of each head's logits.
    """

    def __init__(self, config: RankerConfig, sizes: Mapping[str, int]) -> None:
        super().__init__()
        self._most = config.rerank_candidates
        self._attention_norm = attention.LayerNorm(epsilon=1e-6)
        self._feed_forward_norm = attention.LayerNorm(epsilon=1e-6)
        self._attention = tf.keras.layers.MultiHeadAttention(
            config.num_heads, config.model_dim // config.num_heads, dropout=config.dropout
        )
        self._widen = tf.keras.layers.Dense(config.feed_forward_dim, activation="gelu")
        self._narrow = tf.keras.layers.Dense(config.model_dim)
        # It starts as no correction, and adds only what it is found to be good for.
        self._corrections = {
            head: tf.keras.layers.Dense(size, kernel_initializer="zeros")
            for head, size in sizes.items()
        }

    def call(
        self,
        candidates: tf.Tensor,
        clicks: tf.Tensor,
        shown: tf.Tensor,
        training: bool = False,
    ) -> dict[str, tf.Tensor]:
        """Returns what is added to the logits.

        Args:
            candidates: [B, C, D], as the first pass leaves them.
            clicks: [B, C] click logits of the first pass.
            shown: [B, C] bool, false where a list is filled up.
            training: Whether dropout is on.

        Returns:
            [B, C, size] of each head, zero beyond the short list.
        """
        count = tf.minimum(tf.shape(candidates)[1], self._most)
        lowest = tf.fill(tf.shape(clicks), clicks.dtype.min)
        short = tf.math.top_k(tf.where(shown, clicks, lowest), count).indices  # [B, K]
        x = tf.gather(candidates, short, batch_dims=1)
        present = tf.gather(shown, short, batch_dims=1)
        normed = self._attention_norm(x)
        x += self._attention(normed, normed, attention_mask=present[:, None, :], training=training)
        x += self._narrow(self._widen(self._feed_forward_norm(x)))
        return {
            head: _spread(layer(x), short, tf.shape(clicks))
            for head, layer in self._corrections.items()
        }


def _spread(values: tf.Tensor, places: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Puts values [B, K, n] to their places [B, K] among zeros [B, C, n]."""
    requests = tf.broadcast_to(tf.range(shape[0])[:, None], tf.shape(places))
    indices = tf.stack([requests, places], axis=-1)
    return tf.scatter_nd(indices, values, tf.concat([shape, [values.shape[-1]]], axis=0))
