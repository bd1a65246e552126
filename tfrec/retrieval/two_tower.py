"""Stage one: the two-tower retrieval model.

The query tower and the ad tower map their fields to L2-normalized embeddings; their inner product,
divided by a learned temperature, is the logit of a softmax: over all ads of a small catalog, else
over in-batch and uniform negatives with logQ correction. Ads that the user clicked are not
negatives.

Shapes: B clicks, C columns (the candidates each click is scored against), N ads, D embedding,
Wq and Wa columns of ids of the query and the ad side.

References:
    Yi et al., Sampling-Bias-Corrected Neural Modeling, 2019.
    Yang et al., Mixed Negative Sampling, 2020.
"""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from tfrec import layers, training
from tfrec.config import RetrievalConfig
from tfrec.retrieval import task, tower_start, towers
from tfrecords import encoding, reader, terminal

_FREQUENCY_STDDEV = 0.01


class TwoTower(training.StageModel):
    """The retrieval model.

    If the catalog is no larger than a batch's sample of ads, the softmax is over all ads.

    Args:
        fitted: The fitted schema.
        config: Sizes and sampling.
        catalog: All ads, with click counts; the source of the uniform negatives.
        clicked_ads: Ads that users clicked in training, which are not their negatives; None if
            users are not known.

    Attributes:
        query_tower, ad_tower: The towers.
        temperature: Temperature of the softmax.
        task: The objective; another `tfrs.tasks.Retrieval` can take its place.
    """

    def __init__(
        self,
        fitted: encoding.FittedSchema,
        config: RetrievalConfig,
        catalog: reader.Catalog,
        clicked_ads: layers.ClickedAds | None = None,
    ) -> None:
        super().__init__()
        schema = fitted.schema
        ties = layers.find_histories(fitted, catalog)
        # A query made of ads distinguishes ads by their rows: see `tower_start`.
        stddev = 0.0 if ties or layers.UserIds.find(fitted) else _FREQUENCY_STDDEV
        self.ad_tower = towers.Tower(fitted, schema.ad_fields, config, stddev)
        self.query_tower = towers.Tower(
            fitted, schema.query_fields, config, stddev, ties, self.ad_tower.field_embeddings
        )
        self.temperature = tf.Variable(
            config.initial_temperature, name="temperature", dtype=tf.float32, trainable=False
        )
        self.task = task.SampledSoftmax(
            temperature=self.temperature,
            loss_metrics=[tf.keras.metrics.Mean(name="softmax_loss")],
        )
        self.id_dropout = layers.IdDropout(fitted, config.id_dropout)
        self._generator = layers.new_generator()
        self._embedding_l2 = config.embedding_l2
        self._num_uniform = config.uniform_negatives
        self._num_ads = len(catalog)
        self._has_few_ads = self._num_ads <= config.batch_size + config.uniform_negatives
        # The catalog and its counts are data, not weights: they are not in checkpoints.
        self._ad_features = tf.constant(np.asarray(catalog.features))
        self._click_shares = layers.ClickShares(catalog.clicks)
        self._clicked_ads = clicked_ads

    def copy_initial_weights(self) -> None:
        """Copies initial weights from the ad tower to the query tower: see `tower_start`."""
        tower_start.copy_initial_weights(self.query_tower, self.ad_tower)

    @property
    def sparse_variables(self) -> list[tf.Variable]:
        """The embedding tables, which take sparse updates."""
        both = (self.query_tower, self.ad_tower)
        return [v for tower in both for v in tower.field_embeddings.sparse_variables]

    def compute_loss(self, inputs: reader.Batch, training: bool = False) -> tf.Tensor:
        """Returns the loss of clicks; in training with the penalty on the embeddings used.

        Args:
            inputs: `query` [B, Wq], `ad` [B, Wa] and `ad_row` [B], int32; `user` [B] int64 if
                users are known, else `request` [B] int32, whose clicks are not negatives of each
                other; optionally `sample_weight` [B].
            training: Whether dropout, of ids too, is on.
        """
        rows, ads = self._candidates(inputs)  # [C], [C, Wa]
        query = inputs["query"]
        if training:
            query, ads = self.id_dropout.query(query), self.id_dropout.ad(ads)
        query_fields = self.query_tower.field_embeddings(query)
        ad_fields = self.ad_tower.field_embeddings(ads)
        query_inputs = query_fields
        layer = self.query_tower.user_clicks
        if layer is not None:
            of_users = self._clicks_of_users(layer, inputs, query)
            query_inputs = towers.with_field(query_fields, of_users)
        # The column of the clicked ad is its row if all ads are candidates.
        own = {"own_columns": inputs["ad_row"]} if self._over_all_ads else {}
        score_mask = self._not_clicked(inputs, rows)
        if score_mask is not None and not self._over_all_ads:
            # The clicked ad itself, which a stock task would mask too.
            score_mask = tf.linalg.set_diag(score_mask, tf.ones_like(inputs["ad_row"], tf.bool))
        loss = self.task(
            self.query_tower.combine(query_inputs, training),
            self.ad_tower.combine(ad_fields, training),
            sample_weight=inputs.get("sample_weight"),
            candidate_sampling_probability=self._sampling_probability(inputs, rows),
            candidate_ids=rows,
            compute_metrics=not training,
            score_mask=score_mask,
            **own,
        )
        if not training:
            return loss
        own_columns = own.get("own_columns", tf.range(tf.shape(query)[0]))
        penalty = _squared_norm(query_fields) + _squared_norm(tf.gather(ad_fields, own_columns))
        return loss + self._embedding_l2 * penalty

    def _clicks_of_users(
        self, layer: layers.UserClicks, batch: reader.Batch, query: tf.Tensor
    ) -> tf.Tensor:
        """Returns the sums [B, E] of the users' other clicks; 0 for OOV users, as in serving."""
        if self._clicked_ads is None:
            return layer.of_ids(query)
        ads, owner, counts = self._clicked_ads.others(
            batch["user"], batch["ad_row"], layer.max_clicks, self._generator
        )
        sums = layer(ads, owner, counts, self.embed_rows)
        return tf.where(layer.is_known(query)[:, None], sums, 0.0)

    def embed_rows(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the field embeddings [P, Fa, E] of catalog rows [P] int32."""
        return self.ad_tower.field_embeddings(tf.gather(self._ad_features, rows))

    def store_user_clicks(self) -> None:
        """Stores the users' sums of clicked ads in the query tower, with the current weights."""
        layer = self.query_tower.user_clicks
        if layer is not None and self._clicked_ads is not None:
            layer.store(self._clicked_ads, self._num_ads, self.embed_rows)

    @property
    def _over_all_ads(self) -> bool:
        """Whether all ads are candidates; a stock task takes those of the batch first."""
        return self._has_few_ads and isinstance(self.task, task.SampledSoftmax)

    def _candidates(self, batch: reader.Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns rows [C] and features [C, Wa] of the candidates that clicks are scored against.

        These are the clicked ads and uniform negatives, or all ads.
        """
        if self._over_all_ads:
            return tf.range(self._num_ads), self._ad_features
        uniform = self._generator.uniform([self._num_uniform], 0, self._num_ads, tf.int32)
        # All have the latest features, as in the index. Otherwise a price from the end of the log
        # would identify the uniform ads, which were not clicked.
        rows = tf.concat([batch["ad_row"], uniform], axis=0)
        return rows, tf.gather(self._ad_features, rows)

    def _not_clicked(self, batch: reader.Batch, rows: tf.Tensor) -> tf.Tensor | None:
        """Returns [B, C] bool, false for ads [C] that the user clicked, as far as it is known."""
        if self._clicked_ads is not None:
            return ~self._clicked_ads.among(batch["user"], rows)
        if "request" in batch:
            return ~layers.clicked_in_request(batch["request"], batch["ad_row"], rows)
        return None

    def accidental_hits(self, batch: reader.Batch, rows: tf.Tensor) -> tf.Tensor:
        """Returns [B, C] bool: whether the query's user clicked the ad of a column [C].

        Args:
            batch: `ad_row` [B] int32 and, if users are known, `user` [B] int64.
            rows: [C] int32 catalog rows.
        """
        own = batch["ad_row"][:, None] == rows
        not_clicked = self._not_clicked(batch, rows)
        return own if not_clicked is None else own | ~not_clicked

    def _sampling_probability(self, batch: reader.Batch, rows: tf.Tensor) -> tf.Tensor | None:
        """Returns the probability [C] of candidates in a draw of a negative; None for all ads."""
        if self._over_all_ads:
            return None
        num_in_batch = tf.shape(batch["ad_row"])[0] - 1
        draws = layers.expected_draws(
            self._click_shares(rows), num_in_batch, self._num_uniform, self._num_ads
        )
        return draws / tf.cast(num_in_batch + self._num_uniform, tf.float32)


def _squared_norm(field_embeddings: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.reduce_sum(tf.square(field_embeddings), axis=[-2, -1]))


def embed_in_batches(tower: towers.Tower, ids: np.ndarray, batch_size: int = 8192) -> np.ndarray:
    """Embeds ids in batches.

    Args:
        tower: The tower of the ids' side.
        ids: [N, W] int32.
        batch_size: Rows embedded at once.

    Returns:
        [N, D] float32, L2-normalized.
    """
    parts = [
        tower.embed(tf.constant(ids[first : first + batch_size])).numpy()
        for first in terminal.progress_steps(len(ids), batch_size, "embedding")
    ]
    return np.concatenate(parts)


def query_chunks(num_queries: int, num_ads: int, max_scores: int) -> Iterator[slice]:
    """Yields slices of queries with at most `max_scores` scores of all ads, or of one query."""
    size = max(max_scores // num_ads, 1)
    for first in terminal.progress_steps(num_queries, size, "scoring all ads", "queries"):
        yield slice(first, min(first + size, num_queries))


def exact_top_k(
    query_embeddings: np.ndarray, ad_embeddings: np.ndarray, k: int, batch_size: int = 256
) -> np.ndarray:
    """Returns the rows of the largest inner products, best first.

    Ties, as of ads with the same OOV id, are in random order, the same in every call.

    Args:
        query_embeddings: [N, D] float32.
        ad_embeddings: [A, D] float32.
        k: Number of ads for each query.
        batch_size: Queries scored at once.

    Returns:
        [N, min(k, A)] int32.
    """
    order = np.random.default_rng(0).permutation(len(ad_embeddings))
    ads = tf.constant(ad_embeddings[order])
    k = min(k, len(order))
    rows = [
        tf.math.top_k(
            tf.matmul(query_embeddings[first : first + batch_size], ads, transpose_b=True), k
        ).indices.numpy()
        for first in terminal.progress_steps(
            len(query_embeddings), batch_size, "exact search", "queries"
        )
    ]
    return order[np.concatenate(rows)]
