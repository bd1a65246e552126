"""Stage two: a multi-head-attention ranker with the heads of `tfrec.heads`.

A candidate is one token: its ad fields crossed with the query fields, by the inner product
of each query field's embedding with each ad field's, by comparisons of fields of both sides, by
DCN-V2 and by an MLP.
Each field of the query side is a token, and so is each value of its lists; candidates attend to
them. Candidates are isolated: a candidate attends to no other. Its score depends on no other
candidate and not on the length of the list, so training on short lists matches serving 500
candidates, and the query side is computed once per request.

Shapes: B requests, C candidates, T query tokens, D model width, W hidden width,
Fq and Fa embeddings of fields of the query and the ad side, Wq and Wa their columns, E embedding,
P comparisons.

References:
    Vaswani et al., Attention Is All You Need, 2017.
    Wang et al., DCN V2, 2021, and Naumov et al., Deep Learning Recommendation Model, 2019
    (crosses and pairwise inner products in the candidate encoder).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import tensorflow as tf

from tfrec import layers
from tfrec.config import RankerConfig
from tfrec.heads import HEADS
from tfrec.layers import Logits
from tfrec.ranking import ranking_model
from tfrecords import encoding, reader


class QuerySide(NamedTuple):
    """The encoded query, which the candidates of a request share.

    Attributes:
        ids: [B, Wq] encoded query fields.
        embeddings: [B, Fq, E] field embeddings.
        flat: [B, Fq E] field embeddings, with dropout in training.
        tokens: [B, T, E] query tokens.
        absent: [B, T] bool, tokens that do not exist; None: all exist.
    """

    ids: tf.Tensor
    embeddings: tf.Tensor
    flat: tf.Tensor
    tokens: tf.Tensor
    absent: tf.Tensor | None


class Ranker(ranking_model.RankingModel):
    """The ranker of this package.

    Args:
        fitted: The fitted schema.
        config: Sizes, and weights of the losses.
        heads: Heads to build: the labels of the log.
        ties: Query-side lists whose values are ads, from `layers.find_histories`.

    Attributes:
        query_embeddings, ad_embeddings: Embeddings of the fields.
        ties: The ties given.
        comparisons: Compares query fields with ad fields; see `compare`.
        query_input, ad_input, pair_input: First layers, of query fields, ad fields, and products
            and comparisons of fields.
        crosses, deep, crossed: Layers of the candidate encoder.
        field_names: [Fq, E] what identifies the field of a token.
        history_tokens: Makes tokens of the values of lists; None without lists or blocks.
        blocks: Attention blocks.
    """

    query_embeddings: layers.FieldEmbeddings
    ad_embeddings: layers.FieldEmbeddings

    def __init__(
        self,
        fitted: encoding.FittedSchema,
        config: RankerConfig,
        heads: Sequence[str],
        ties: layers.Ties | None = None,
    ) -> None:
        super().__init__(fitted, config, heads)
        schema, width, hidden = fitted.schema, config.model_dim, config.feed_forward_dim
        dim, l2 = config.field_dim, config.embedding_l2
        self.ad_embeddings = layers.FieldEmbeddings(fitted, schema.ad_fields, dim, l2=l2)
        self.query_embeddings = layers.FieldEmbeddings(
            fitted, schema.query_fields, dim, ties, self.ad_embeddings, l2=l2
        )
        self.ties = ties or {}
        self.comparisons = layers.Comparisons(fitted, [])
        self.history_tokens = None
        if config.num_blocks and self.query_embeddings.list_widths:
            self.history_tokens = layers.HistoryTokens(
                self.query_embeddings, schema.query_fields, config.field_dim
            )
        self.field_names = self.add_weight(
            "field_names",
            (self.query_embeddings.num_fields, config.field_dim),
            initializer=tf.keras.initializers.RandomNormal(stddev=0.1),
            trainable=config.num_blocks > 0,  # Only blocks use it.
        )
        self.query_input = tf.keras.layers.Dense(hidden)
        self.ad_input = tf.keras.layers.Dense(hidden, use_bias=False)
        self.pair_input = tf.keras.layers.Dense(hidden, use_bias=False)
        self.crosses = [layers.CrossLayer() for _ in range(config.num_cross_layers)]
        self.deep = tf.keras.layers.Dense(width, activation="relu")
        self.crossed = tf.keras.layers.Dense(width)
        self.dropout = layers.Dropout(config.dropout)
        self.blocks = [layers.TargetAttention(config) for _ in range(config.num_blocks)]
        self.final_norm = layers.LayerNorm(epsilon=1e-6)

    @classmethod
    def for_data_set(
        cls, data_set: reader.DataSet, config: RankerConfig, heads: Sequence[str]
    ) -> Self:
        """See `RankingModel`; histories are tied to the ads of the catalog."""
        ties = layers.find_histories(data_set.fitted, data_set.catalog())
        return cls(data_set.fitted, config, heads, ties=ties)

    def compare(
        self,
        pairs: Sequence[layers.FieldPair],
        rates: Sequence[layers.PairRates] = (),
    ) -> None:
        """Adds comparisons of fields of both sides; call before the weights exist.

        Args:
            pairs: The fields, from `layers.find_comparisons`.
            rates: Click rates of pairs of values, from `layers.pair_rates_of`.
        """
        self.compared = tuple(pairs)
        self.rated = tuple(rate.fields for rate in rates)
        self.comparisons = layers.Comparisons(self._fitted, self.compared, self.ties, rates)

    def call(self, inputs: Mapping[str, tf.Tensor], training: bool = False) -> Logits:
        """Scores candidates.

        `exported.score_candidates` computes the same scores in an order that is faster for many
        candidates.

        Args:
            inputs: `query` [B, Wq] and `ad` [B, C, Wa], int32 encoded fields; in training, `click`
                [B, C] labels.
            training: Whether dropout is on.

        Returns:
            Head -> logits [B, C], or [B, C, 3] of an amount.
        """
        ad = inputs["ad"]
        side = self.encode_query(inputs["query"], training)
        ad_embeddings = self.ad_embeddings(ad)  # [B, C, Fa, E]
        # Products with weights are products of matrices with a row per candidate: with more
        # dimensions TensorFlow does not fuse them with the operations that follow.
        ad_flat = tf.reshape(ad_embeddings, [-1, self.ad_embeddings.output_dim])
        ad_flat = self.dropout(ad_flat, training=training)
        # Dense(concat(query, ad, pairs)) in parts: the query's part is computed once.
        products = self.products(side.embeddings, ad_embeddings)
        clicks = inputs.get("click") if training else None
        compared = self.comparisons(side.ids[:, None], ad, clicks)  # [B, C, P]
        compared = tf.reshape(compared, [tf.shape(products)[0], compared.shape[-1]])
        pairs = tf.concat([products, compared], axis=-1)
        hidden = self.ad_input(ad_flat) + self.pair_input(pairs)  # [B C, W]
        shape = [tf.shape(ad)[0], tf.shape(ad)[1], hidden.shape[-1]]
        encoded = self.encode_candidates(side, tf.reshape(hidden, shape), training)
        features = tf.concat([encoded, pairs], axis=-1)
        flat = {head: layer(features) for head, layer in self.head_layers.items()}  # [B C, ...]
        return {
            head: tf.reshape(logits, [*shape[:2], 3] if HEADS[head].is_amount else shape[:2])
            for head, logits in flat.items()
        }

    def products(self, query_embeddings: tf.Tensor, ad_embeddings: tf.Tensor) -> tf.Tensor:
        """Crosses [B, Fq, E] with [B, C, Fa, E] to [B C, Fa Fq]."""
        return layers.pairwise_products(query_embeddings, ad_embeddings)

    def encode_query(self, query: tf.Tensor, training: bool = False) -> QuerySide:
        """Encodes the query, which the candidates of a request share.

        Args:
            query: [B, Wq] int32.
            training: Whether dropout is on.
        """
        embeddings = self.query_embeddings(query)  # [B, Fq, E]
        flat = self.dropout(layers.flatten(embeddings), training=training)
        tokens = embeddings + self.field_names
        if self.history_tokens is None:
            return QuerySide(query, embeddings, flat, tokens, None)
        values, absent = self.history_tokens(query)
        tokens = tf.concat([tokens, values], axis=1)
        absent = tf.pad(absent, [[0, 0], [embeddings.shape[1], 0]])
        return QuerySide(query, embeddings, flat, tokens, absent)

    def encode_candidates(
        self, side: QuerySide, hidden: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """Encodes candidates for the heads.

        Args:
            side: The query side.
            hidden: [B, C, W] the first layer's outputs without the query's part.
            training: Whether dropout is on.

        Returns:
            [B C, 2 D]: the inputs of the heads, except products and comparisons of fields.
        """
        num_requests, num_ads = tf.shape(hidden)[0], tf.shape(hidden)[1]
        x0 = hidden + self.query_input(side.flat)[:, None]
        x0 = tf.reshape(x0, [-1, x0.shape[-1]])
        encoded = self.deep(self.dropout(tf.nn.relu(x0), training=training))
        if self.crosses:
            x = x0
            for cross in self.crosses:
                x = cross(x0, x)
            encoded += self.crossed(x)
        width = encoded.shape[-1]
        candidates = tf.reshape(encoded, [num_requests, num_ads, width])
        for block in self.blocks:
            candidates = block(candidates, side.tokens, side.absent, training=training)
        attended = tf.reshape(candidates, [-1, width])
        # The heads also read the input of attention: on little data the short path is better.
        return tf.concat([self.final_norm(attended), encoded], axis=-1)
