"""A plain Keras ranker with full attention over query tokens and candidates.

It is the baseline of `scripts/benchmarks/ranker.py`: our embeddings and encoder, followed by
pre-norm layers of full attention of the same width. Its scores are not used.

Shapes: B requests, C candidates, T query tokens, D model width.
"""

import tensorflow as tf

from tfrec.config import RankerConfig
from tfrec.layers import FieldEmbeddings, flatten
from tfrecords import encoding

_NUM_TOKENS = 4


class FullAttentionRanker(tf.keras.Model):
    """Scores candidates that attend to each other."""

    def __init__(self, fitted: encoding.FittedSchema, config: RankerConfig, num_heads: int) -> None:
        super().__init__()
        schema, width = fitted.schema, config.model_dim
        layers = tf.keras.layers
        self._num_tokens = _NUM_TOKENS
        self._query = FieldEmbeddings(fitted, schema.query_fields, config.field_dim)
        self._ad = FieldEmbeddings(fitted, schema.ad_fields, config.field_dim)
        self._tokens = layers.Dense(_NUM_TOKENS * width)
        self._candidates = layers.Dense(width)
        self._blocks = [
            (
                layers.LayerNormalization(),
                layers.MultiHeadAttention(config.num_heads, width // config.num_heads),
                layers.LayerNormalization(),
                layers.Dense(config.feed_forward_dim, activation="gelu"),
                layers.Dense(width),
            )
            for _ in range(config.num_blocks)
        ]
        self._heads = [layers.Dense(1) for _ in range(num_heads)]

    def call(self, query: tf.Tensor, ad: tf.Tensor) -> list[tf.Tensor]:
        """Returns a logit [B, C] of each head for ids [B, Wq] and [B, C, Wa]."""
        tokens = self._tokens(flatten(self._query(query)))
        candidates = self._candidates(flatten(self._ad(ad)))
        tokens = tf.reshape(tokens, [-1, self._num_tokens, candidates.shape[-1]])
        x = tf.concat([tokens, candidates], axis=1)
        for attention_norm, attention, norm, widen, narrow in self._blocks:
            normalized = attention_norm(x)
            x += attention(normalized, normalized)
            x += narrow(widen(norm(x)))
        x = x[:, self._num_tokens :]
        return [tf.squeeze(head(x), -1) for head in self._heads]


class Module(tf.Module):
    """Maps raw query fields and encoded ads to scores, with the ranker's signature."""

    def __init__(
        self,
        fitted: encoding.FittedSchema,
        config: RankerConfig,
        outputs: tuple[str, ...],
    ) -> None:
        super().__init__(name="full_attention")
        encoder = encoding.Encoder(fitted, fitted.schema.query_fields)
        self._model = FullAttentionRanker(fitted, config, len(outputs))

        def serve(ad_features: tf.Tensor, **columns: tf.Tensor) -> dict[str, tf.Tensor]:
            logits = self._model(encoder(columns), ad_features)
            return {
                name: tf.nn.sigmoid(values) for name, values in zip(outputs, logits, strict=True)
            }

        width = encoding.width(fitted.schema.ad_fields)
        self._model(
            tf.zeros([1, encoding.width(fitted.schema.query_fields)], tf.int32),
            tf.zeros([1, 1, width], tf.int32),
        )
        self.serve = tf.function(serve, autograph=False).get_concrete_function(
            ad_features=tf.TensorSpec([None, None, width], tf.int32, name="ad_features"),
            **encoding.input_signature(fitted.schema.query_fields),
        )
