"""The base class of rankers: everything in stage two except the network.

Your own ranker is a constructor and `call`:

    class DotProduct(ranking.RankingModel):
        def __init__(self, fitted, config, heads):
            super().__init__(fitted, config, heads)
            self.query_embeddings = layers.FieldEmbeddings(fitted, fitted.schema.query_fields, 16)
            self.ad_embeddings = layers.FieldEmbeddings(fitted, fitted.schema.ad_fields, 16)

        def call(self, inputs, training=False):
            query = tf.reduce_sum(self.query_embeddings(inputs["query"]), axis=-2)  # [B, E]
            ads = tf.reduce_sum(self.ad_embeddings(inputs["ad"]), axis=-2)  # [B, C, E]
            return self.head_logits(ads * query[:, None])

Training, evaluation and export use these members:

    call                            yours: ids to logits
    for_data_set                    builds the model; override it to read the data set or catalog
    logits, score                   `call` with id dropout, slopes and user biases; also as a graph
    as_logged                       adds position biases, for losses and metrics
    compute_loss, tasks             the losses of the heads; other `tfrs.tasks` drop in
    sparse_variables                tables of embedding layers, which take sparse updates
    head_layers, set_head_biases    optional last layers, which start at the rates of the log
    machines, mix_rare_heads        parts fitted after training for heads with few positives
    id_dropout, user_bias, position_bias   corrections for biases of the log; the last two or None

A candidate's score must not depend on the other candidates: training sees short lists, padded with
zeros, and serving scores many candidates, in batches.

Shapes: B requests, C candidates, Wq and Wa columns of ids of the query and the ad side, W width.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import tensorflow as tf

from tfrec import calibration, layers, training
from tfrec.config import RankerConfig
from tfrec.heads import CLICK, HEADS, HeadKind
from tfrec.layers import Logits
from tfrec.ranking import down_sampling, tasks
from tfrecords import encoding, plugins, reader
from tfrecords.schema import LABELS


class RankingModel(training.StageModel):
    """Scores the candidates of requests.

    Args:
        fitted: The fitted schema.
        config: Sizes, and weights of the losses.
        heads: Heads to build: the labels of the log.

    Attributes:
        heads: The heads.
        tasks: Head -> its objective; another `tfrs.tasks.Ranking` can take its place.
        head_layers: Head -> the layer from [..., W] to its logits; see `head_logits`.
        id_dropout: Hides ids in training.
        amount_slopes: Head of an amount -> its linear term in the ad's numbers, fitted before
            training.
        user_bias: Per-user biases; None if the log has no users.
        position_bias: Biases of logged positions; None without `learn_positions`.
        machines: Head after the click -> its factorization machine, fitted after training.
        amount_heads: Head of an amount -> the head after the click that brings it, such as revenue
            -> engagement.
        engagement_shares: Weights in [0, 1], in the order of `amount_heads`, of the logit of the
            head that brings an amount in the logit of a positive amount.
        compared: Pairs of fields, one of each side, that the model compares.
        rated: Pairs of fields for whose pairs of values the model reads the click rates.
    """

    compared: Sequence[layers.FieldPair] = ()
    rated: Sequence[layers.FieldPair] = ()

    def __init__(
        self, fitted: encoding.FittedSchema, config: RankerConfig, heads: Sequence[str]
    ) -> None:
        super().__init__()
        self.heads = tuple(heads)
        self._config, self._fitted = config, fitted
        self.tasks = {head: tasks.task_of(head) for head in self.heads}
        self.head_layers = {
            head: tf.keras.layers.Dense(HEADS[head].num_logits) for head in self.heads
        }
        self.id_dropout = layers.IdDropout(fitted, config.id_dropout)
        users = layers.KeyIds.for_users(fitted)
        self.user_bias = layers.UserBias(users, len(self.heads)) if users else None
        self.amount_slopes = {
            head: layers.NumericSlopes(fitted, fitted.schema.ad_fields)
            for head in self.heads
            if HEADS[head].is_amount
        }
        self._biased_heads = tuple(h for h in self.heads if HEADS[h].has_position_bias)
        self.position_bias: layers.PositionBias | None = None
        self.machines = {
            head: layers.FactorizationMachine(fitted)
            for head in self.heads
            if HEADS[head].kind == HeadKind.PROBABILITY_AFTER_CLICK
        }
        self.amount_heads = {
            head: after
            for head in self.heads
            if HEADS[head].is_amount and (after := LABELS[head].after) in self.machines
        }
        self.engagement_shares = self.add_weight(
            "engagement_shares", (len(self.amount_heads),), initializer="zeros", trainable=False
        )

    @classmethod
    def for_data_set(
        cls, data_set: reader.DataSet, config: RankerConfig, heads: Sequence[str]
    ) -> Self:
        """Returns an untrained model of a data set; its weights may not exist yet.

        Args:
            data_set: The data set.
            config: Sizes, and weights of the losses.
            heads: Labels that training rows have.
        """
        return cls(data_set.fitted, config, heads)

    def learn_positions(self, num_positions: int) -> None:
        """Adds position biases, which serving leaves out; call before the first training.

        Args:
            num_positions: Number of positions; later ones count as the last. With fewer than two,
                nothing is added.
        """
        if num_positions > 1:
            self.position_bias = layers.PositionBias(num_positions, len(self._biased_heads))

    def call(self, inputs: Mapping[str, tf.Tensor], training: bool = False) -> Logits:
        """Scores candidates.

        Args:
            inputs: `query` [B, Wq] and `ad` [B, C, Wa], int32 encoded fields; id 0 is missing, and
                padding is zeros. In training, `click` [B, C] has the labels, which statistics of
                the training rows must leave out.
            training: Whether dropout is on.

        Returns:
            Head -> logits [B, C], or [B, C, 3] of an amount; see `head_logits`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no `call`; see RankingModel.call.")

    def head_logits(self, features: tf.Tensor) -> Logits:
        """Returns the logits of each head, for `call`.

        Args:
            features: [B, C, W] float32.
        """
        logits = {head: layer(features) for head, layer in self.head_layers.items()}
        return {
            head: values if HEADS[head].is_amount else tf.squeeze(values, axis=-1)
            for head, values in logits.items()
        }

    def logits(self, inputs: Mapping[str, tf.Tensor], training: bool = False) -> Logits:
        """Scores candidates, as in the first position.

        Args:
            inputs: See `call`.
            training: Whether dropout is on, of ids too.

        Returns:
            The result of `call`, with some ids hidden in training, plus slopes of amounts and
            user biases; mixed by `mix_rare_heads` if not in training.
        """
        query, ad = inputs["query"], inputs["ad"]
        seen = {"query": query, "ad": ad}
        if training:
            seen = {**inputs, "query": self.id_dropout.query(query), "ad": self.id_dropout.ad(ad)}
        logits = self.add_amount_slopes(self(seen, training=training), ad)
        logits = self.add_user_bias(logits, query, ad, training)
        return logits if training else self.mix_rare_heads(logits, query, ad)

    @functools.cached_property
    def score(self) -> Callable[[tf.Tensor, tf.Tensor], Logits]:
        """`logits` as a graph, of `query` and `ad`."""
        schema = self._fitted.schema
        return tf.function(
            lambda query, ad: self.logits({"query": query, "ad": ad}),
            input_signature=[
                tf.TensorSpec([None, encoding.width(schema.query_fields)], tf.int32),
                tf.TensorSpec([None, None, encoding.width(schema.ad_fields)], tf.int32),
            ],
            autograph=layers.needs_autograph(self),
        )

    @property
    def sparse_variables(self) -> list[tf.Variable]:
        """The tables that take sparse updates: embeddings, user biases and position biases."""
        tables = super().sparse_variables
        if self.user_bias is not None:
            tables = [*tables, self.user_bias.table]
        return tables if self.position_bias is None else [*tables, self.position_bias.steps]

    def compute_loss(self, inputs: reader.Batch, training: bool = False) -> tf.Tensor:
        """Returns the weighted losses of the heads, without the layers' (`self.losses`).

        Each is a mean over the impressions with a known label. For a share of a batch, it is the
        share's part of the batch's loss.

        Args:
            inputs: `query` [B, Wq] and `ad` [B, C, Wa], int32; `mask` [B, C] bool, true for shown
                ads; labels [B, C], NaN where missing; `position` [B, C] int32 if the log has it.
            training: Whether dropout, of ids too, is on, and the batch lacks unclicked rows
                according to `negative_keep_rate`.

        Raises:
            ValueError: The batch is not one of `DataSet.batches` or `batches_of_like_lists`.
        """
        self.check_batch(inputs, 3, "batches_of_like_lists", self._fitted.schema)
        logits = self.as_logged(self.logits(inputs, training), inputs.get("position"))
        keep_rate = self._config.negative_keep_rate if training else 1.0
        losses = []
        for head, task in self.tasks.items():
            labels, predictions, weights = tasks.labeled_rows(head, inputs, logits, keep_rate)
            loss = task(labels, predictions, sample_weight=weights)
            mean = tasks.mean(loss, tasks.num_labeled(head, inputs))
            losses.append(self._config.loss_weights[head] * mean)
        return tf.add_n(losses)

    def add_amount_slopes(self, logits: Logits, ad: tf.Tensor) -> Logits:
        """Adds a linear term in the numbers of ads to the logarithms of amounts.

        Args:
            logits: From `call`.
            ad: [B, C, Wa] int32.
        """
        result = dict(logits)
        for head, slopes in self.amount_slopes.items():
            positive, mean, scale = tf.unstack(logits[head], axis=-1)
            result[head] = tf.stack([positive, mean + slopes(ad), scale], axis=-1)
        return result

    def add_user_bias(
        self, logits: Logits, query: tf.Tensor, ad: tf.Tensor, training: bool = False
    ) -> Logits:
        """Adds the user biases.

        Args:
            logits: From `add_amount_slopes`.
            query: [B, Wq] int32, with user ids that are not hidden.
            ad: [B, C, Wa] int32.
            training: Whether the mean of the user biases is updated.
        """
        if self.user_bias is None:
            return logits
        # Lists are padded with ads whose fields are all missing.
        shown = tf.reduce_any(tf.not_equal(ad, 0), axis=-1)
        biases = self.user_bias(query, shown, training=training)[:, None]  # [B, 1, heads]
        return layers.add_to_logits(
            logits, dict(zip(self.heads, tf.unstack(biases, axis=-1), strict=True))
        )

    def mix_rare_heads(self, logits: Logits, query: tf.Tensor, ad: tf.Tensor) -> Logits:
        """Mixes in the logits of the `machines`, and those of engagements into those of revenue.

        Before `ranker_training.fit_rare_heads`, all shares are 0, and nothing changes.

        Args:
            logits: From `add_user_bias`.
            query: [B, Wq] int32.
            ad: [B, C, Wa] int32.
        """
        for head, machine in self.machines.items():
            # Known while a graph is traced only if weights are constants, as in serving.
            if tf.get_static_value(machine.share) != 0.0:
                logits = layers.mix_logits(logits, head, machine(query, ad), machine.share)
        for number, (head, after) in enumerate(self.amount_heads.items()):
            engaged = layers.after_click_logits(logits[CLICK.label], logits[after])
            share = self.engagement_shares[number]
            logits = layers.mix_logits(logits, head, engaged, share)
        return logits

    def as_logged(self, logits: Logits, position: tf.Tensor | None) -> Logits:
        """Adds the biases of the positions in which ads were shown.

        Args:
            logits: From `logits`, for the first position.
            position: [B, C] int32 logged positions; None if the log has none.

        Returns:
            The logits of the logged rows, for losses and metrics; never served.
        """
        if self.position_bias is None or position is None:
            return logits
        biases = tf.unstack(self.position_bias(position), axis=-1)
        by_head = dict(zip(self._biased_heads, biases, strict=True))
        return layers.add_to_logits(logits, {h: by_head[h] for h in logits if h in by_head})

    def set_head_biases(self, biases: Mapping[str, Sequence[float]]) -> None:
        """Sets the biases of the `head_layers` that `call` uses."""
        for head, layer in self.head_layers.items():
            if layer.built:
                layer.bias.assign(biases[head])


def served_scores(
    model: RankingModel,
    calibrators: calibration.Calibrators,
    keep_rate: float,
    query: tf.Tensor,
    ad: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """Returns the values of each head as they are served, calibrated: head -> [B, C] float32.

    Args:
        model: The ranker.
        calibrators: Calibrators of the ranker's heads.
        keep_rate: Share of the unclicked rows that the log keeps, `Schema.negative_keep_rate`.
        query: [B, Wq] int32.
        ad: [B, C, Wa] int32.
    """
    outputs = calibrators.apply(model.score(query, ad))
    served = down_sampling.undo_down_sampling(outputs, keep_rate)
    return {head: served[HEADS[head].output] for head in model.heads}


RANKERS: plugins.Registry[type[RankingModel]] = plugins.Registry(
    "ranker",
    "tfrec.rankers",
    {"attention": "tfrec.ranking:Ranker"},
    "a subclass of tfrec.ranking.RankingModel",
    plugins.subclass_of(RankingModel),
)
