"""Stage two: a multi-head-attention ranker with a click, an engagement and a revenue head.

A candidate is one token: its ad fields crossed with the query fields, by the inner product
of each query field's embedding with each ad field's, by DCN-V2 and by an MLP.
The query side is a few tokens. Under candidate isolation a candidate attends to the query
tokens and to itself, never to another candidate: its score depends on no neighbour and on
no list length, so training on short lists matches serving 500, and the query side is
computed once per request.

Shapes: B requests, C candidates, T query tokens, D model width, H heads,
Fq and Fa fields of the query and the ad side, Wq and Wa their columns of ids.

References:
    Vaswani et al., Attention Is All You Need, 2017.
    Wang et al., DCN V2, 2021, and Naumov et al., Deep Learning Recommendation Model, 2019
    (crosses and pairwise inner products in the candidate encoder).
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from tfrec import layers
from tfrec.config import RankerConfig
from tfrec.heads import Logits
from tfrecords import encoding


class _QuerySide(NamedTuple):
    """What a request's candidates share.

    Attributes:
        embeddings: [B, Fq, E] of its fields.
        flat: [B, Fq E] the same, with dropout in training.
        tokens: [B, T, D].
        absent: [B, T] bool, of tokens that are not there; None is of none.
    """

    embeddings: tf.Tensor
    flat: tf.Tensor
    tokens: tf.Tensor
    absent: tf.Tensor | None


class Ranker(tf.keras.Model):
    """Scores the candidates of requests.

    Args:
        fitted: The fitted schema.
        config: Sizes.
        heads: Heads to build, of `click`, `engagement`, `revenue`: the labels of the log.
        num_positions: Slots whose effect is learnt and left out at serving; 0 is none.
        ties: Of `layers.find_histories`: lists on the query side whose values are ads.
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
        schema, width = fitted.schema, config.model_dim
        self.heads = tuple(heads)
        self._num_query_tokens = config.num_query_tokens
        self.ad_embeddings = layers.FieldEmbeddings(fitted, schema.ad_fields, config.field_dim)
        self.query_embeddings = layers.FieldEmbeddings(
            fitted, schema.query_fields, config.field_dim, ties, self.ad_embeddings
        )
        self._history = None
        if self.query_embeddings.list_widths:
            self._history = layers.HistoryTokens(self.query_embeddings, width)
        num_tokens = config.num_query_tokens + (self._history.num_tokens if self._history else 0)
        self._num_tokens = num_tokens
        self.id_dropout = layers.IdDropout(fitted, config.id_dropout)
        wide = config.feed_forward_dim
        self._query_input = tf.keras.layers.Dense(wide)
        self._ad_input = tf.keras.layers.Dense(wide, use_bias=False)
        self._pair_input = tf.keras.layers.Dense(wide, use_bias=False)
        self._tokens = tf.keras.layers.Dense(config.num_query_tokens * width)
        self._crosses = [layers.CrossLayer() for _ in range(config.num_cross_layers)]
        self._deep = tf.keras.layers.Dense(width, activation="relu")
        self._crossed = tf.keras.layers.Dense(width)
        self._dropout = tf.keras.layers.Dropout(config.dropout)
        self._blocks = [
            layers.IsolatedAttentionBlock(config, num_tokens) for _ in range(config.num_blocks)
        ]
        self._final_norm = layers.LayerNorm(epsilon=1e-6)
        self._mixture = None
        if config.trunk == "mmoe":
            self._mixture = layers.MultiGateMixture(config.num_experts, width, self.heads)
        # Revenue has three numbers: logit of being positive, log-mean, log-scale.
        self._heads = {
            head: tf.keras.layers.Dense(3 if head == "revenue" else 1) for head in self.heads
        }
        self._second_pass = None
        if config.rerank_candidates:
            sizes = {head: layer.units for head, layer in self._heads.items()}
            self._second_pass = layers.SecondPass(config, sizes)
        users = layers.UserIds.find(fitted)
        self.user_levels = layers.UserBias(users, len(heads)) if users else None
        # Engagement is modelled given a click, and the slot acts on the click alone.
        self._biased_heads = tuple(h for h in self.heads if h != "engagement")
        self.position_bias = None
        if num_positions > 1:
            self.position_bias = layers.PositionBias(num_positions, len(self._biased_heads))
        self.score = tf.function(
            self.call,
            input_signature=[
                tf.TensorSpec([None, encoding.width(schema.query_fields)], tf.int32),
                tf.TensorSpec([None, None, encoding.width(schema.ad_fields)], tf.int32),
            ],
            autograph=False,
        )

    @property
    def sparse_variables(self) -> list[tf.Variable]:
        """The tables, which take sparse updates: of embeddings, users' levels and slots."""
        tables = self.query_embeddings.sparse_variables + self.ad_embeddings.sparse_variables
        if self.user_levels is not None:
            tables.append(self.user_levels.table)
        return tables if self.position_bias is None else [*tables, self.position_bias.steps]

    def call(
        self,
        query: tf.Tensor,
        ad: tf.Tensor,
        training: bool = False,
        many: bool = False,
        parts: int = 1,
    ) -> Logits:
        """Scores candidates.

        Args:
            query: [B, Wq] int32 encoded query fields.
            ad: [B, C, Wa] int32 encoded ad fields.
            training: Whether dropout is on, of ids too.
            many: Whether to compute in the order that is faster from some tens of candidates
                on; the scores are the same but for rounding. Not while training.
            parts: Runs of candidates that are scored beside each other, one a core.

        Returns:
            `click` [B, C]; `engagement` [B, C], the logit of engaging after a click;
            `revenue` [B, C, 3]; those of the heads built.
        """
        # Lists are filled up with ads of which nothing is known.
        shown = tf.reduce_any(tf.not_equal(ad, 0), axis=-1)
        levels = self._levels(query, shown, training)
        if training:
            query, ad = self.id_dropout.query(query), self.id_dropout.ad(ad)
        embeddings = self.query_embeddings(query)  # [B, Fq, E]
        flat = self._dropout(layers.flatten(embeddings), training=training)
        side = _QuerySide(embeddings, flat, *self._query_tokens(query, flat))
        runs = [self._score(side, run, training, many) for run in _cut(ad, parts)]
        logits = {
            head: tf.concat([scored[head] for scored, _ in runs], axis=1) for head in self.heads
        }
        if self._second_pass is not None:
            candidates = tf.concat([tokens for _, tokens in runs], axis=1)
            clicks = tf.squeeze(logits["click"], -1)
            added = self._second_pass(candidates, clicks, shown, training=training)
            logits = {head: values + added[head] for head, values in logits.items()}
        logits = {h: v if h == "revenue" else tf.squeeze(v, -1) for h, v in logits.items()}
        return _with_added(logits, levels)

    def _levels(
        self, query: tf.Tensor, shown: tf.Tensor, training: bool
    ) -> Mapping[str, tf.Tensor]:
        """Returns the users' levels [B, 1] of each head; of none where users are not known."""
        if self.user_levels is None:
            return {}
        levels = self.user_levels(query, shown, training=training)
        return dict(zip(self.heads, tf.unstack(levels[:, None], axis=-1), strict=True))

    def _score(
        self, side: _QuerySide, ad: tf.Tensor, training: bool, many: bool
    ) -> tuple[Logits, tf.Tensor]:
        """Returns the logits [B, C, size] of each head, and the candidates' tokens [B, C, D]."""
        ad_embeddings = self.ad_embeddings(ad)  # [B, C, Fa, E]
        # Products with weights are of matrices, in which every candidate is a row: on more
        # dimensions TensorFlow does not fuse them with what follows.
        num_requests, num_ads = tf.shape(ad)[0], tf.shape(ad)[1]
        ad_flat = tf.reshape(ad_embeddings, [-1, self.ad_embeddings.output_dim])
        ad_flat = self._dropout(ad_flat, training=training)
        # Dense(concat(query, ad, pairs)) in parts: the query's share is computed once.
        many = many and self._mixture is None
        if many:
            ads = tf.reshape(ad_flat, [num_requests, num_ads, ad_flat.shape[-1]])
            weights = layers.folded_products(side.embeddings, self._pair_input.kernel)
            x0 = tf.matmul(ads, weights + self._ad_input.kernel)  # [B, C, W]
        else:
            products = layers.pairwise_products(side.embeddings, ad_embeddings)
            x0 = self._ad_input(ad_flat) + self._pair_input(products)  # [B C, W]
            x0 = tf.reshape(x0, [num_requests, num_ads, x0.shape[-1]])
        x0 += self._query_input(side.flat)[:, None]
        x0 = tf.reshape(x0, [-1, x0.shape[-1]])
        hidden = self._dropout(tf.nn.relu(x0), training=training)
        encoded = self._deep(hidden)
        if self._crosses:
            x = x0
            for cross in self._crosses:
                x = cross(x0, x)
            encoded += self._crossed(x)
        width = encoded.shape[-1]
        candidates = tf.reshape(encoded, [num_requests, num_ads, width])
        rows = tf.concat([side.tokens, candidates], axis=1)
        for block in self._blocks:
            rows = block(rows, side.absent, training=training)
        candidates = rows[:, self._num_tokens :]
        attended = self._final_norm(tf.reshape(candidates, [-1, width]))
        # The heads also see what went in: on little data the short way is the better one.
        seen = tf.concat([attended, encoded], axis=-1)
        if many:
            logits = self._logits_of_many(seen, side.embeddings, ads)
        else:
            logits = self._logits(tf.concat([seen, products], axis=-1))
        shaped = {
            head: tf.reshape(values, [num_requests, num_ads, values.shape[-1]])
            for head, values in logits.items()
        }
        return shaped, candidates

    def _query_tokens(
        self, query: tf.Tensor, query_flat: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Returns the tokens [B, T, D] of queries, and which are absent [B, T]; None is none.

        Args:
            query: [B, Wq] int32.
            query_flat: [B, Fq E] their field embeddings.
        """
        tokens = self._tokens(query_flat)
        width = tokens.shape[-1] // self._num_query_tokens
        tokens = tf.reshape(tokens, [-1, self._num_query_tokens, width])
        if self._history is None:
            return tokens, None
        values, absent = self._history(query)
        summaries = tf.zeros([tf.shape(query)[0], self._num_query_tokens], tf.bool)
        return tf.concat([tokens, values], axis=1), tf.concat([summaries, absent], axis=1)

    def _logits(self, output: tf.Tensor) -> Logits:
        """Returns the logits [N, size] of each head; the products come last in [N, W]."""
        inputs = dict.fromkeys(self.heads, output)
        if self._mixture is not None:
            inputs = self._mixture(output)
        return {head: layer(inputs[head]) for head, layer in self._heads.items()}

    def _logits_of_many(
        self, seen: tf.Tensor, query_embeddings: tf.Tensor, ad_flat: tf.Tensor
    ) -> Logits:
        """Returns the same from [B C, W] without the products, all heads at once.

        Args:
            seen: [B C, W] what the heads see beside the products.
            query_embeddings: [B, Fq, E].
            ad_flat: [B, C, Fa E].
        """
        kernel = tf.concat([layer.kernel for layer in self._heads.values()], axis=1)
        bias = tf.concat([layer.bias for layer in self._heads.values()], axis=0)
        of_seen, of_products = kernel[: seen.shape[-1]], kernel[seen.shape[-1] :]
        of_pairs = tf.matmul(ad_flat, layers.folded_products(query_embeddings, of_products))
        logits = tf.nn.bias_add(tf.matmul(seen, of_seen), bias)
        logits += tf.reshape(of_pairs, [-1, bias.shape[0]])
        sizes = [layer.units for layer in self._heads.values()]
        return dict(zip(self._heads, tf.split(logits, sizes, axis=1), strict=True))

    def start_at(self, levels: Mapping[str, Sequence[float]]) -> None:
        """Sets the biases of the heads, of those that are built."""
        for head, layer in self._heads.items():
            layer.bias.assign(levels[head])

    def as_logged(self, logits: Logits, position: tf.Tensor | None) -> Logits:
        """Adds what the slots added in which ads were shown.

        Args:
            logits: Those of `call`, of ads in the first slot.
            position: [B, C] int32 logged slots; None where the log does not know them.

        Returns:
            The logits of what was logged, for losses and metrics of logged rows; never served.
        """
        if self.position_bias is None or position is None:
            return logits
        biases = tf.unstack(self.position_bias(position), axis=-1)
        of_head = dict(zip(self._biased_heads, biases, strict=True))
        return _with_added(logits, {head: of_head[head] for head in logits if head in of_head})

    def embedding_penalty(self, query: tf.Tensor, ad: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Returns the mean squared norm of the field embeddings that a batch uses."""
        query_norm = tf.reduce_sum(tf.square(self.query_embeddings(query)), axis=[-2, -1])
        ad_norm = tf.reduce_sum(tf.square(self.ad_embeddings(ad)), axis=[-2, -1])
        weights = tf.cast(mask, tf.float32)
        return tf.reduce_mean(query_norm) + tf.reduce_sum(ad_norm * weights) / tf.reduce_sum(
            weights
        )


def _with_added(logits: Logits, added: Mapping[str, tf.Tensor]) -> Logits:
    """Adds [B, C] or [B, 1] to the logits of heads; of revenue, to that of there being any."""
    result = dict(logits)
    for head, values in added.items():
        if head == "revenue":
            positive_logit, *amount = tf.unstack(logits[head], axis=-1)
            result[head] = tf.stack([positive_logit + values, *amount], axis=-1)
        else:
            result[head] = logits[head] + values
    return result


def _cut(ad: tf.Tensor, parts: int) -> list[tf.Tensor]:
    """Cuts candidates [B, C, Wa] into runs, as equal as can be; some are empty if C is small."""
    num_ads = tf.shape(ad)[1]
    ends = [num_ads * part // parts for part in range(parts + 1)]
    return [ad[:, start:end] for start, end in itertools.pairwise(ends)]
