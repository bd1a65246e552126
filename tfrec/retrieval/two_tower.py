"""Stage one: the two-tower retrieval model.

The query tower and the ad tower map their fields to L2-normalized embeddings; their inner product,
divided by a learned temperature, is the logit of a softmax: over all ads of a small catalogue, else
over in-batch and uniform negatives with logQ correction. Ads that the user clicked are not
negatives.

Shapes: B clicks, C columns (the candidates each click is scored against), N ads, D embedding,
Wq and Wa columns of ids of the query and the ad side.

References:
    Yi et al., Sampling-Bias-Corrected Neural Modeling, 2019.
    Yang et al., Mixed Negative Sampling, 2020.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from tfrec import layers
from tfrec.config import RetrievalConfig
from tfrec.retrieval import sampled_softmax, tower_start, towers
from tfrecords import encoding, reader, terminal

_FREQUENCY_STDDEV = 0.01


class Losses(NamedTuple):
    """Losses of a batch, scalars.

    Attributes:
        softmax: Mean softmax loss of the clicks, in nats.
        penalty: Mean squared norm of the field embeddings of the clicks.
    """

    softmax: tf.Tensor
    penalty: tf.Tensor


class TwoTower(tfrs.models.Model):
    """The retrieval model.

    If the catalogue is no larger than a batch's sample of ads, the softmax is over all ads.

    Args:
        fitted: The fitted schema.
        config: Sizes and sampling.
        catalogue: All ads, with click counts; the source of the uniform negatives.
        clicked_ads: Ads that users clicked in training, which are not their negatives; None if
            users are not known.
    """

    def __init__(
        self,
        fitted: encoding.FittedSchema,
        config: RetrievalConfig,
        catalogue: reader.Catalogue,
        clicked_ads: layers.ClickedAds | None = None,
    ) -> None:
        super().__init__()
        schema = fitted.schema
        ties = layers.find_histories(fitted, catalogue)
        # A query made of ads distinguishes ads by their rows: see `tower_start`.
        stddev = 0.0 if ties or layers.UserIds.find(fitted) else _FREQUENCY_STDDEV
        self.ad_tower = towers.Tower(fitted, schema.ad_fields, config, stddev)
        self.query_tower = towers.Tower(
            fitted, schema.query_fields, config, stddev, ties, self.ad_tower.field_embeddings
        )
        self.temperature = tf.Variable(
            config.initial_temperature, name="temperature", dtype=tf.float32, trainable=False
        )
        self.id_dropout = layers.IdDropout(fitted, config.id_dropout)
        self._num_uniform = config.uniform_negatives
        self._num_ads = len(catalogue)
        self._over_all_ads = self._num_ads <= config.batch_size + config.uniform_negatives
        # The catalogue and its counts are data, not weights: they are not in checkpoints.
        self._ad_features = tf.constant(np.asarray(catalogue.features))
        self._click_shares = layers.ClickShares(catalogue.clicks)
        self._clicked_ads = clicked_ads

    def copy_initial_weights(self) -> None:
        """Copies initial weights from the ad tower to the query tower: see `tower_start`."""
        tower_start.copy_initial_weights(self.query_tower, self.ad_tower)

    @property
    def sparse_variables(self) -> list[tf.Variable]:
        """The embedding tables, which take sparse updates."""
        both = (self.query_tower, self.ad_tower)
        return [v for tower in both for v in tower.field_embeddings.sparse_variables]

    def losses(self, batch: reader.Batch, training: bool = True) -> Losses:
        """Returns the losses of clicks.

        Args:
            batch: `query` [B, Wq], `ad` [B, Wa] and `ad_row` [B], int32, and `user` [B] int64
                if users are known.
            training: Whether dropout, of ids too, is on.
        """
        rows, ads = self._columns(batch)  # [C], [C, Wa]
        query = batch["query"]
        if training:
            query, ads = self.id_dropout.query(query), self.id_dropout.ad(ads)
        query_fields = self.query_tower.field_embeddings(query)
        ad_fields = self.ad_tower.field_embeddings(ads)
        inputs = query_fields
        layer = self.query_tower.user_clicks
        if layer is not None:
            inputs = towers.with_field(query_fields, self._clicks_of_users(layer, batch, query))
        queries = self.query_tower.combine(inputs, training) / self.temperature
        logits = tf.matmul(queries, self.ad_tower.combine(ad_fields, training), transpose_b=True)
        # The clicked ad's column is its row if all ads are columns, else it is on the diagonal.
        own = batch["ad_row"] if self._over_all_ads else tf.range(tf.shape(logits)[0])
        softmax = sampled_softmax.loss(
            tf.gather(logits, own, batch_dims=1),
            logits,
            self.accidental_hits(batch, rows),
            None if self._over_all_ads else tf.math.log(self._expected_draws(batch, rows)),
        )
        penalty = _squared_norm(query_fields) + _squared_norm(tf.gather(ad_fields, own))
        return Losses(tf.reduce_mean(softmax), penalty)

    def _clicks_of_users(
        self, layer: layers.UserClicks, batch: reader.Batch, query: tf.Tensor
    ) -> tf.Tensor:
        """Returns the sums [B, E] of the users' other clicks; 0 for OOV users, as in serving."""
        if self._clicked_ads is None:
            return layer.of_ids(query)
        ads, owner, counts = self._clicked_ads.others(
            batch["user"], batch["ad_row"], layer.max_clicks
        )
        sums = layer(ads, owner, counts, self.embed_rows)
        return tf.where(layer.is_known(query)[:, None], sums, 0.0)

    def embed_rows(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the field embeddings [P, Fa, E] of catalogue rows [P] int32."""
        return self.ad_tower.field_embeddings(tf.gather(self._ad_features, rows))

    def store_user_clicks(self) -> None:
        """Stores the users' sums of clicked ads in the query tower, with the current weights."""
        layer = self.query_tower.user_clicks
        if layer is not None and self._clicked_ads is not None:
            layer.store(self._clicked_ads, self._num_ads, self.embed_rows)

    def compute_loss(self, inputs: reader.Batch, training: bool = False) -> tf.Tensor:
        """Returns the mean softmax loss of clicks; see `losses`."""
        return self.losses(inputs, training).softmax

    def _columns(self, batch: reader.Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns rows [C] and features [C, Wa] of the candidates of the clicks."""
        if self._over_all_ads:
            return tf.range(self._num_ads), self._ad_features
        uniform = tf.random.uniform([self._num_uniform], maxval=self._num_ads, dtype=tf.int32)
        # All have the latest features, as in the index. Otherwise a price from the end of the log
        # would identify the uniform ads, which were not clicked.
        rows = tf.concat([batch["ad_row"], uniform], axis=0)
        return rows, tf.gather(self._ad_features, rows)

    def accidental_hits(self, batch: reader.Batch, rows: tf.Tensor) -> tf.Tensor:
        """Returns [B, C] bool: whether the query's user clicked the ad of a column [C].

        Args:
            batch: `ad_row` [B] int32 and, if users are known, `user` [B] int64.
            rows: [C] int32 catalogue rows.
        """
        own = batch["ad_row"][:, None] == rows
        if self._clicked_ads is None:
            return own
        return own | self._clicked_ads.among(batch["user"], rows)

    def _expected_draws(self, batch: reader.Batch, rows: tf.Tensor) -> tf.Tensor:
        batch_size = tf.shape(batch["ad_row"])[0]
        shares = self._click_shares(rows)
        return layers.expected_draws(shares, batch_size - 1, self._num_uniform, self._num_ads)


def _squared_norm(field_embeddings: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.reduce_sum(tf.square(field_embeddings), axis=[-2, -1]))


def embed_in_batches(tower: towers.Tower, ids: np.ndarray, batch_size: int = 8192) -> np.ndarray:
    """Embeds ids [N, W] int32 as [N, D] float32."""
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
    """Returns the rows [N, min(k, ads)] of the largest inner products, best first."""
    ads = tf.constant(ad_embeddings)
    k = min(k, len(ad_embeddings))
    rows = [
        tf.math.top_k(
            tf.matmul(query_embeddings[first : first + batch_size], ads, transpose_b=True), k
        ).indices.numpy()
        for first in terminal.progress_steps(
            len(query_embeddings), batch_size, "exact search", "queries"
        )
    ]
    return np.concatenate(rows)
