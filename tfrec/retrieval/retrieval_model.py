"""The base class of retrieval models: everything in stage one except the towers.

Your own retrieval model is a query tower and an ad tower, two Keras layers from encoded ids
to embeddings of length one:

    class MyModel(retrieval.RetrievalModel):
        def __init__(self, fitted, config, catalog):
            query_tower = retrieval.Tower(fitted, fitted.schema.query_fields, config)
            super().__init__(fitted, config, catalog, query_tower, MyAdTower(fitted, config))

Training, evaluation and export use these members:

    query_tower, ad_tower   [B, W] int32 ids to [B, D] float32
    weighted_query_tower    the query tower for any weights of the heads; None before distillation
    served_query_tower      the query tower that serves requests, one of these two
    for_data_set            builds the model; override it to read the data set
    build_weights           creates the weights, and checks the towers
    compute_loss, task      a softmax over ads; another `tfrs.tasks.Retrieval` drops in
    sparse_variables        tables of embedding layers, which take sparse updates
    temperature             temperature of the softmax, learned on held-out clicks
    embed_batch             embeds the clicks of a batch and their candidates
    accidental_hits         candidates that must not be negatives of a click
    id_dropout              hides ids in training
    clicked_ads             ads that users clicked in training, which are not their negatives
    store_user_clicks       stores the users' clicks for requests; call it before each use
    takes_click_factors     whether factors of clicks may be appended to the embeddings

Shapes: B clicks, C columns (the candidates each click is scored against), N ads, D embedding,
Wq and Wa columns of ids of the query and the ad side.
"""

from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from tfrec import layers, training
from tfrec.config import RetrievalConfig
from tfrec.retrieval import task, towers, weighted_query
from tfrecords import encoding, plugins, reader


class Embedded(NamedTuple):
    """The embeddings of a batch.

    Attributes:
        queries: [B, D].
        ads: [C, D].
        penalty: Scalar to add to the loss in training, times `RetrievalConfig.embedding_l2`.
    """

    queries: tf.Tensor
    ads: tf.Tensor
    penalty: tf.Tensor


class RetrievalModel(training.StageModel):
    """Maps queries and ads to embeddings whose inner products measure how well they match.

    If the catalog is no larger than a batch's sample of ads, the softmax is over all ads.

    Args:
        fitted: The fitted schema.
        config: Sizes and sampling.
        catalog: All ads, with click counts; the source of the uniform negatives.
        query_tower: Maps ids [B, Wq] to embeddings [B, D] of length one.
        ad_tower: Maps ids [B, Wa] to embeddings [B, D] of length one.

    Attributes:
        query_tower, ad_tower: The towers.
        weighted_query_tower: The query tower for any weights of the heads; None before
            distillation.
        temperature: Temperature of the softmax.
        task: The objective; another `tfrs.tasks.Retrieval` can take its place.
        id_dropout: Hides ids in training.
        clicked_ads: Ads that users clicked in training, which are not their negatives; None if
            users are not known. To be set before training.
    """

    takes_click_factors = False

    def __init__(
        self,
        fitted: encoding.FittedSchema,
        config: RetrievalConfig,
        catalog: reader.Catalog,
        query_tower: tf.keras.layers.Layer,
        ad_tower: tf.keras.layers.Layer,
    ) -> None:
        super().__init__()
        self.query_tower, self.ad_tower = query_tower, ad_tower
        self.weighted_query_tower: weighted_query.WeightedQueryTower | None = None
        self.temperature = tf.Variable(
            config.initial_temperature, name="temperature", dtype=tf.float32, trainable=False
        )
        self.task = task.SampledSoftmax(
            temperature=self.temperature,
            loss_metrics=[tf.keras.metrics.Mean(name="softmax_loss")],
        )
        self.id_dropout = layers.IdDropout(fitted, config.id_dropout)
        self.clicked_ads: layers.ClickedAds | None = None
        self._generator = layers.new_generator()
        self._fitted = fitted
        self._embedding_l2 = config.embedding_l2
        self._num_uniform = config.uniform_negatives
        self._num_ads = len(catalog)
        self._has_few_ads = self._num_ads <= config.batch_size + config.uniform_negatives
        # The catalog and its counts are data, not weights: they are not in checkpoints.
        self._ad_features = tf.constant(np.asarray(catalog.features))
        self._click_shares = layers.ClickShares(catalog.clicks)
        # Never having been shown is no evidence against an ad. With ids alone, such ads share what
        # is learned about them, and are rarely clicked; with a vector or a text, the model would
        # learn instead that ads without their own id are never clicked.
        has_vectors = any(field.is_vector for field in fitted.schema.ad_fields)
        self._was_shown = tf.constant(catalog.impressions > 0) if has_vectors else None

    @classmethod
    def for_data_set(
        cls, data_set: reader.DataSet, config: RetrievalConfig, catalog: reader.Catalog
    ) -> Self:
        """Returns an untrained model of a data set, without rates; its weights may not exist yet.

        Args:
            data_set: The data set.
            config: Sizes and sampling.
            catalog: All ads, with the clicks that are learned from.
        """
        # The catalog's rates count the clicks that towers learn from; an index would keep old ones.
        fitted = data_set.fitted.without_rates()
        # The towers are the subclass's own.
        return cls(fitted, config, catalog)  # type: ignore[call-arg]

    def build_weights(self) -> None:
        """Creates the weights.

        Raises:
            ValueError: A tower is not as `towers.check` expects it, the towers differ in D, or the
                task is not one of retrieval.
        """
        schema = self._fitted.schema
        sides = {
            "query_tower": (self.query_tower, schema.query_fields),
            "ad_tower": (self.ad_tower, schema.ad_fields),
        }
        lengths = {}
        for name, (tower, fields) in sides.items():
            ids = tf.constant(layers.ids_to_try(self._fitted, fields))
            lengths[name] = towers.check(tower, ids, f"{type(self).__name__}.{name}")
        if not isinstance(self.task, tfrs.tasks.Retrieval):
            raise ValueError(
                f"{type(self).__name__}.task: expected a tfrs.tasks.Retrieval, got "
                f"{type(self.task).__name__}."
            )
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"{type(self).__name__}: expected towers with embeddings of the same size, got "
                f"{lengths}. End both with Dense(config.embedding_dim)."
            )
        self.built = True

    def learn_weights(self, weights: Mapping[str, float]) -> None:
        """Adds the weights of heads to the queries; call it once the weights are created.

        Args:
            weights: Head -> default weight in the utility.
        """
        width = encoding.width(self._fitted.schema.query_fields)
        size = self.query_tower(tf.zeros([1, width], tf.int32)).shape[-1]
        self.weighted_query_tower = weighted_query.WeightedQueryTower(
            self.query_tower, list(weights), size
        )
        self.set_default_weights(weights)

    def set_default_weights(self, weights: Mapping[str, float]) -> None:
        """Sets the default weights of requests, if queries depend on weights.

        Args:
            weights: Head -> default weight in the utility.
        """
        if self.weighted_query_tower is not None:
            heads = self.weighted_query_tower.heads
            self.weighted_query_tower.default_weights.assign([weights[head] for head in heads])

    @property
    def served_query_tower(self) -> tf.keras.layers.Layer:
        """Maps ids [B, Wq] to the queries [B, D] of the default weights."""
        weighted = self.weighted_query_tower
        return self.query_tower if weighted is None else weighted

    def embed_queries(
        self, ids: np.ndarray, weights: Mapping[str, float] | None = None
    ) -> np.ndarray:
        """Embeds queries for requests with these weights.

        Args:
            ids: [Q, Wq] int32.
            weights: Head -> weight, 0 if it is absent; None: the default ones. Without
                distillation, weights have no effect.

        Returns:
            [Q, D] float32, of length one.
        """
        embeddings = towers.embed_in_batches(self.query_tower, ids)
        tower = self.weighted_query_tower
        if tower is None:
            return embeddings
        head_weights = None if weights is None else [weights.get(head, 0.0) for head in tower.heads]
        return tower.weighted(embeddings, head_weights).numpy()

    def compute_loss(self, inputs: reader.Batch, training: bool = False) -> tf.Tensor:
        """Returns the loss of clicks; in training with the penalty on the embeddings used.

        For a share of a batch, it is the share's part of the batch's loss, with the candidates of
        all shares.

        Args:
            inputs: `query` [B, Wq], `ad` [B, Wa] and `ad_row` [B], int32; `user` [B] int64 if
                users are known, else `request` [B] int32, whose clicks are not negatives of each
                other; optionally `sample_weight` [B].
            training: Whether dropout, of ids too, is on.

        Raises:
            ValueError: The batch is not one of `DataSet.clicked`.
        """
        self.check_batch(inputs, 2, "clicked", self._fitted.schema)
        all_ads, is_share = self._over_all_ads, layers.WHOLE in inputs
        columns = self._candidates(inputs)
        rows, query = columns.rows, inputs["query"]
        # All have the latest features, as in the index. Otherwise a price from the end of the log
        # would identify the uniform ads, which were not clicked.
        own_rows = rows[: columns.num_own]
        ads = self._ad_features if all_ads else tf.gather(self._ad_features, own_rows)
        if training:
            query, ads = self.id_dropout.query(query), self.id_dropout.ad(ads)
        # The column of the clicked ad is its row if all ads are candidates.
        options = {"own_columns": inputs["ad_row"]} if all_ads else {}
        own_columns = options.get("own_columns", tf.range(tf.shape(query)[0]))
        embedded = self.embed_batch(inputs, query, ads, own_columns, training)
        score_mask = self._are_negatives(inputs, rows)
        if score_mask is not None and not all_ads:
            # The clicked ad itself, which a stock task would mask too.
            score_mask = tf.linalg.set_diag(score_mask, tf.ones_like(inputs["ad_row"], tf.bool))
        gathered = is_share and not all_ads
        if is_share and isinstance(self.task, task.SampledSoftmax):
            options["num_queries"] = tf.size(layers.whole_batch(inputs)["ad_row"])
        loss = self.task(
            embedded.queries,
            layers.gather_columns(embedded.ads, columns) if gathered else embedded.ads,
            sample_weight=inputs.get("sample_weight"),
            candidate_sampling_probability=self._sampling_probability(inputs, rows),
            candidate_ids=rows,
            compute_metrics=False,
            score_mask=score_mask,
            **options,
        )
        if not training:
            self._update_metrics(inputs, embedded, own_columns)
            return loss
        return loss + self._embedding_l2 * layers.part_of_whole(embedded.penalty, inputs)

    def _update_metrics(
        self, inputs: reader.Batch, embedded: Embedded, own_columns: tf.Tensor
    ) -> None:
        """Updates the task's metrics over the catalog, which know only the clicked ads.

        The task itself would take the uniform ads for clicked ones, too.
        """
        for metric in self.task.factorized_metrics:
            metric.update_state(
                embedded.queries,
                tf.gather(embedded.ads, own_columns),
                true_candidate_ids=inputs["ad_row"],
                sample_weight=inputs.get("sample_weight"),
            )

    def embed_batch(
        self,
        batch: reader.Batch,
        query: tf.Tensor,
        ads: tf.Tensor,
        own_columns: tf.Tensor,
        training: bool,
    ) -> Embedded:
        """Embeds the clicks of a batch and their candidates.

        Args:
            batch: See `compute_loss`.
            query: [B, Wq] ids, some of them hidden in training.
            ads: [C, Wa] ids of the candidates, some of them hidden in training.
            own_columns: [B] the column of each clicked ad.
            training: Whether dropout is on.
        """
        # Keras also passes `training` on to the layers of a tower whose `call` does not take it.
        return Embedded(
            self.query_tower(query, training=training),
            self.ad_tower(ads, training=training),
            tf.constant(0.0),
        )

    def store_user_clicks(self) -> None:
        """Stores the query tower's inputs from the users' clicks, with the current weights."""

    @property
    def _over_all_ads(self) -> bool:
        """Whether all ads are candidates; a stock task expects the batch's ads first."""
        return self._has_few_ads and isinstance(self.task, task.SampledSoftmax)

    def _candidates(self, batch: reader.Batch) -> layers.Columns:
        """Returns the candidates that clicks are scored against.

        These are the clicked ads and uniform negatives, or all ads of a small catalog, which each
        replica embeds.
        """
        if self._over_all_ads:
            return layers.Columns(tf.range(self._num_ads), self._num_ads, 0)
        uniform = self._generator.same_integers(self._num_uniform, self._num_ads)
        if layers.WHOLE in batch:
            return layers.order_columns(layers.whole_batch(batch)["ad_row"], uniform)
        rows = tf.concat([batch["ad_row"], uniform], axis=0)
        return layers.Columns(rows, tf.size(rows), 0)

    def _are_negatives(self, batch: reader.Batch, rows: tf.Tensor) -> tf.Tensor | None:
        """Returns [B, C] bool, whether an ad [C] is a negative; None: all are.

        Ads that the user is known to have clicked are not, and neither are ads that training
        never showed, if they have vectors.
        """
        mask = None
        if self.clicked_ads is not None:
            mask = ~self.clicked_ads.among(batch["user"], rows)
        elif "request" in batch:
            whole = layers.whole_batch(batch)
            mask = ~layers.clicked_in_request(
                batch["request"], whole["request"], whole["ad_row"], rows
            )
        if self._was_shown is None:
            return mask
        shown = tf.gather(self._was_shown, rows)[None, :]
        clicks = tf.ones([tf.shape(batch["ad_row"])[0], 1], tf.bool)
        return shown & (clicks if mask is None else mask)

    def accidental_hits(self, batch: reader.Batch, rows: tf.Tensor) -> tf.Tensor:
        """Returns [B, C] bool: whether the ad of a column [C] is not a negative of the query.

        Args:
            batch: `ad_row` [B] int32 and, if users are known, `user` [B] int64.
            rows: [C] int32 catalog rows.
        """
        clicked = batch["ad_row"][:, None] == rows
        negatives = self._are_negatives(batch, rows)
        return clicked if negatives is None else clicked | ~negatives

    def _sampling_probability(self, batch: reader.Batch, rows: tf.Tensor) -> tf.Tensor | None:
        """Returns the probability [C] of candidates in a draw of a negative; None for all ads."""
        if self._over_all_ads:
            return None
        num_in_batch = tf.shape(layers.whole_batch(batch)["ad_row"])[0] - 1
        draws = layers.expected_draws(
            self._click_shares(rows), num_in_batch, self._num_uniform, self._num_ads
        )
        return draws / tf.cast(num_in_batch + self._num_uniform, tf.float32)


RETRIEVAL_MODELS: plugins.Registry[type[RetrievalModel]] = plugins.Registry(
    "retrieval model",
    "tfrec.retrieval_models",
    {"two_tower": "tfrec.retrieval:TwoTower"},
    "a subclass of tfrec.retrieval.RetrievalModel",
    plugins.subclass_of(RetrievalModel),
)
