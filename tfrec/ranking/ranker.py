"""Stage two: a multi-head-attention ranker with the heads of `tfrec.heads`.

A candidate is one token: its ad fields crossed with the query fields, by the inner product
of each query field's embedding with each ad field's, by DCN-V2 and by an MLP.
The query side is a few tokens. Candidates are isolated: a candidate attends to the query tokens
and to itself, never to another candidate. Its score depends on no other candidate and not on the
length of the list, so training on short lists matches serving 500 candidates, and the query side
is computed once per request.

Shapes: B requests, C candidates, T query tokens, D model width, W hidden width,
Fq and Fa fields of the query and the ad side, Wq and Wa their columns of ids, E field embedding.

References:
    Vaswani et al., Attention Is All You Need, 2017.
    Wang et al., DCN V2, 2021, and Naumov et al., Deep Learning Recommendation Model, 2019
    (crosses and pairwise inner products in the candidate encoder).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from tfrec import layers, training
from tfrec.config import RankerConfig
from tfrec.heads import HEADS
from tfrec.layers import Logits
from tfrec.ranking import tasks
from tfrecords import encoding, reader


class QuerySide(NamedTuple):
    """What the candidates of a request share.

    Attributes:
        embeddings: [B, Fq, E] field embeddings.
        flat: [B, Fq E] field embeddings, with dropout in training.
        tokens: [B, T, D] query tokens.
        absent: [B, T] bool, tokens that do not exist; None: all exist.
    """

    embeddings: tf.Tensor
    flat: tf.Tensor
    tokens: tf.Tensor
    absent: tf.Tensor | None


class Ranker(training.StageModel):
    """Scores the candidates of requests.

    Args:
        fitted: The fitted schema.
        config: Sizes, and weights of the losses.
        heads: Heads to build: the labels of the log.
        num_positions: Number of positions whose bias is learned and left out at serving; 0: none.
        ties: Query-side lists whose values are ads, from `layers.find_histories`.

    Attributes:
        query_embeddings, ad_embeddings: Embeddings of the fields.
        query_input, ad_input, pair_input: First layers, of query fields, ad fields and products of
            fields.
        crosses, deep, crossed: Layers of the candidate encoder.
        summaries, history_tokens: Layers that make the query tokens; None without lists.
        blocks: Attention blocks.
        head_layers: Head -> the layer from [B C, ...] to its logits.
        tasks: Head -> its objective; another `tfrs.tasks.Ranking` can take its place.
    """

    def __init__(
        self,
        fitted: encoding.FittedSchema,
        config: RankerConfig,
        heads: Sequence[str],
        num_positions: int = 0,
        ties: layers.Ties | None = None,
    ) -> None:
        super().__init__()
        schema, width, hidden = fitted.schema, config.model_dim, config.feed_forward_dim
        self.heads = tuple(heads)
        self.ad_embeddings = layers.FieldEmbeddings(fitted, schema.ad_fields, config.field_dim)
        self.query_embeddings = layers.FieldEmbeddings(
            fitted, schema.query_fields, config.field_dim, ties, self.ad_embeddings
        )
        self.history_tokens = None
        if self.query_embeddings.list_widths:
            self.history_tokens = layers.HistoryTokens(self.query_embeddings, width)
        self._num_summaries = config.num_query_tokens
        num_history_tokens = self.history_tokens.num_tokens if self.history_tokens else 0
        self._num_tokens = self._num_summaries + num_history_tokens
        self.id_dropout = layers.IdDropout(fitted, config.id_dropout)
        self.query_input = tf.keras.layers.Dense(hidden)
        self.ad_input = tf.keras.layers.Dense(hidden, use_bias=False)
        self.pair_input = tf.keras.layers.Dense(hidden, use_bias=False)
        self.summaries = tf.keras.layers.Dense(config.num_query_tokens * width)
        self.crosses = [layers.CrossLayer() for _ in range(config.num_cross_layers)]
        self.deep = tf.keras.layers.Dense(width, activation="relu")
        self.crossed = tf.keras.layers.Dense(width)
        self.dropout = layers.Dropout(config.dropout)
        self.blocks = [
            layers.IsolatedAttentionBlock(config, self._num_tokens)
            for _ in range(config.num_blocks)
        ]
        self.final_norm = layers.LayerNorm(epsilon=1e-6)
        self.head_layers = {
            head: tf.keras.layers.Dense(HEADS[head].num_logits) for head in self.heads
        }
        self.tasks = {head: tasks.task_of(head) for head in self.heads}
        self._config, self._fitted = config, fitted
        users = layers.UserIds.find(fitted)
        self.user_bias = layers.UserBias(users, len(heads)) if users else None
        self._biased_heads = tuple(h for h in self.heads if HEADS[h].has_position_bias)
        self.position_bias = None
        if num_positions > 1:
            self.position_bias = layers.PositionBias(num_positions, len(self._biased_heads))

    @functools.cached_property
    def score(self) -> Callable[[tf.Tensor, tf.Tensor], Logits]:
        """`call` as a graph, of `query` and `ad`."""
        schema = self._fitted.schema
        return tf.function(
            lambda query, ad: self({"query": query, "ad": ad}),
            input_signature=[
                tf.TensorSpec([None, encoding.width(schema.query_fields)], tf.int32),
                tf.TensorSpec([None, None, encoding.width(schema.ad_fields)], tf.int32),
            ],
            autograph=layers.needs_autograph(self),
        )

    @property
    def sparse_variables(self) -> list[tf.Variable]:
        """The tables that take sparse updates: embeddings, user biases and position biases."""
        tables = self.query_embeddings.sparse_variables + self.ad_embeddings.sparse_variables
        if self.user_bias is not None:
            tables.append(self.user_bias.table)
        return tables if self.position_bias is None else [*tables, self.position_bias.steps]

    def compute_loss(self, inputs: reader.Batch, training: bool = False) -> tf.Tensor:
        """Returns the weighted losses of the heads; in training with the penalty on embeddings.

        Each is a mean over the impressions with a known label.

        Args:
            inputs: `query` [B, Wq] and `ad` [B, C, Wa], int32; `mask` [B, C] bool, true for shown
                ads; labels [B, C], NaN where missing; `position` [B, C] int32 if the log has it.
            training: Whether dropout, of ids too, is on, and the batch lacks unclicked rows
                according to `negative_keep_rate`.
        """
        query, ad, mask = inputs["query"], inputs["ad"], inputs["mask"]
        logits = self.as_logged(self(inputs, training=training), inputs.get("position"))
        keep_rate = self._config.negative_keep_rate if training else 1.0
        losses = []
        for head, task in self.tasks.items():
            labels, predictions, weights = tasks.labeled_rows(head, inputs, logits, keep_rate)
            loss = tasks.mean(task(labels, predictions, sample_weight=weights))
            losses.append(self._config.loss_weights[head] * loss)
        if training:
            losses.append(self._config.embedding_l2 * self.embedding_penalty(query, ad, mask))
        return tf.add_n(losses)

    def call(self, inputs: Mapping[str, tf.Tensor], training: bool = False) -> Logits:
        """Scores candidates, as in the first position.

        `exported.score_candidates` computes the same scores in an order that is faster for many
        candidates.

        Args:
            inputs: `query` [B, Wq] and `ad` [B, C, Wa], int32 encoded fields.
            training: Whether dropout, of ids too, is on.

        Returns:
            The logits of each head.
        """
        query, ad = inputs["query"], inputs["ad"]
        query_ids, ad_ids = query, ad
        if training:
            query_ids, ad_ids = self.id_dropout.query(query), self.id_dropout.ad(ad)
        side = self.encode_query(query_ids, training)
        ad_embeddings = self.ad_embeddings(ad_ids)  # [B, C, Fa, E]
        # Products with weights are products of matrices with a row per candidate: with more
        # dimensions TensorFlow does not fuse them with the operations that follow.
        ad_flat = tf.reshape(ad_embeddings, [-1, self.ad_embeddings.output_dim])
        ad_flat = self.dropout(ad_flat, training=training)
        # Dense(concat(query, ad, products)) in parts: the query's part is computed once.
        products = layers.pairwise_products(side.embeddings, ad_embeddings)
        hidden = self.ad_input(ad_flat) + self.pair_input(products)  # [B C, W]
        shape = [tf.shape(ad)[0], tf.shape(ad)[1], hidden.shape[-1]]
        inputs = self.encode_candidates(side, tf.reshape(hidden, shape), training)
        inputs = tf.concat([inputs, products], axis=-1)
        logits = {head: layer(inputs) for head, layer in self.head_layers.items()}
        return self.finish(logits, query, ad, training)

    def encode_query(self, query: tf.Tensor, training: bool = False) -> QuerySide:
        """Encodes what the candidates of a request share.

        Args:
            query: [B, Wq] int32.
            training: Whether dropout is on.
        """
        embeddings = self.query_embeddings(query)  # [B, Fq, E]
        flat = self.dropout(layers.flatten(embeddings), training=training)
        tokens = self.summaries(flat)
        width = tokens.shape[-1] // self._num_summaries
        tokens = tf.reshape(tokens, [-1, self._num_summaries, width])
        if self.history_tokens is None:
            return QuerySide(embeddings, flat, tokens, None)
        values, absent = self.history_tokens(query)
        tokens = tf.concat([tokens, values], axis=1)
        absent = tf.pad(absent, [[0, 0], [self._num_summaries, 0]])
        return QuerySide(embeddings, flat, tokens, absent)

    def encode_candidates(
        self, side: QuerySide, hidden: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """Encodes candidates for the heads.

        Args:
            side: The query side.
            hidden: [B, C, W] the first layer's outputs without the query's part.
            training: Whether dropout is on.

        Returns:
            [B C, 2 D]: what the heads read apart from the products of fields.
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
        rows = tf.concat([side.tokens, candidates], axis=1)
        for block in self.blocks:
            rows = block(rows, side.absent, training=training)
        attended = tf.reshape(rows[:, self._num_tokens :], [-1, width])
        # The heads also read the input of attention: on little data the short path is better.
        return tf.concat([self.final_norm(attended), encoded], axis=-1)

    def finish(
        self, logits: Logits, query: tf.Tensor, ad: tf.Tensor, training: bool = False
    ) -> Logits:
        """Shapes the outputs of the heads, and adds the user biases.

        Args:
            logits: Head -> [B C, logits of the head].
            query: [B, Wq] int32, with user ids that are not hidden.
            ad: [B, C, Wa] int32.
            training: Whether the mean of the user biases is updated.

        Returns:
            Head -> [B, C], or [B, C, 3] of an amount.
        """
        shape = [tf.shape(ad)[0], tf.shape(ad)[1]]
        shaped = {
            head: tf.reshape(own, [*shape, 3] if HEADS[head].is_amount else shape)
            for head, own in logits.items()
        }
        if self.user_bias is None:
            return shaped
        # Lists are padded with ads of which nothing is known.
        shown = tf.reduce_any(tf.not_equal(ad, 0), axis=-1)
        biases = self.user_bias(query, shown, training=training)[:, None]  # [B, 1, heads]
        return layers.add_to_logits(
            shaped, dict(zip(self.heads, tf.unstack(biases, axis=-1), strict=True))
        )

    def set_head_biases(self, biases: Mapping[str, Sequence[float]]) -> None:
        """Sets the biases of the heads."""
        for head, layer in self.head_layers.items():
            layer.bias.assign(biases[head])

    def as_logged(self, logits: Logits, position: tf.Tensor | None) -> Logits:
        """Adds the biases of the positions in which ads were shown.

        Args:
            logits: Logits from `call`, for the first position.
            position: [B, C] int32 logged positions; None if the log has none.

        Returns:
            The logits of the logged rows, for losses and metrics; never served.
        """
        if self.position_bias is None or position is None:
            return logits
        biases = tf.unstack(self.position_bias(position), axis=-1)
        by_head = dict(zip(self._biased_heads, biases, strict=True))
        return layers.add_to_logits(logits, {h: by_head[h] for h in logits if h in by_head})

    def embedding_penalty(self, query: tf.Tensor, ad: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Returns the mean squared norm of the field embeddings that a batch uses."""
        query_norm = tf.reduce_sum(tf.square(self.query_embeddings(query)), axis=[-2, -1])
        ad_norm = tf.reduce_sum(tf.square(self.ad_embeddings(ad)), axis=[-2, -1])
        weights = tf.cast(mask, tf.float32)
        return tf.reduce_mean(query_norm) + tf.reduce_sum(ad_norm * weights) / tf.reduce_sum(
            weights
        )
