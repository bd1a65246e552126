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

from tfrec import layers
from tfrec.config import RetrievalConfig
from tfrec.retrieval import retrieval_model, tower_start, towers
from tfrecords import encoding, reader, terminal


class TwoTower(retrieval_model.RetrievalModel):
    """The retrieval model of this package.

    Args:
        fitted: The fitted schema.
        config: Sizes and sampling.
        catalog: All ads, with click counts; the source of the uniform negatives.
    """

    query_tower: towers.Tower
    ad_tower: towers.Tower
    takes_click_factors = True

    def __init__(
        self, fitted: encoding.FittedSchema, config: RetrievalConfig, catalog: reader.Catalog
    ) -> None:
        schema = fitted.schema
        ties = layers.find_histories(fitted, catalog)
        # A query made of ads distinguishes ads by their rows: see `tower_start`.
        stddev = 0.0 if ties or layers.KeyIds.for_users(fitted) else towers.FREQUENCY_STDDEV
        ad_tower = towers.Tower(fitted, schema.ad_fields, config, stddev)
        query_tower = towers.Tower(
            fitted, schema.query_fields, config, stddev, ties, ad_tower.field_embeddings
        )
        super().__init__(fitted, config, catalog, query_tower, ad_tower)

    def build_weights(self) -> None:
        """Creates the weights; the query tower starts from the ad tower: see `tower_start`."""
        if self.query_tower.user_clicks is not None:
            nothing = tf.zeros([1], tf.int32)
            self.query_tower.user_clicks(nothing, nothing, nothing, self.embed_rows)
        super().build_weights()
        tower_start.copy_initial_weights(self.query_tower, self.ad_tower)

    def embed_batch(
        self,
        batch: reader.Batch,
        query: tf.Tensor,
        ads: tf.Tensor,
        own_columns: tf.Tensor,
        training: bool,
    ) -> retrieval_model.Embedded:
        """See `RetrievalModel`; users are also the sums of their other clicks."""
        query_fields = self.query_tower.field_embeddings(query)
        ad_fields = self.ad_tower.field_embeddings(ads)
        query_inputs = query_fields
        layer = self.query_tower.user_clicks
        if layer is not None:
            user_clicks = self._clicks_of_users(layer, batch, query)
            query_inputs = towers.with_field(query_fields, user_clicks)
        penalty = _squared_norm(query_fields) + _squared_norm(tf.gather(ad_fields, own_columns))
        return retrieval_model.Embedded(
            self.query_tower.combine(query_inputs, training),
            self.ad_tower.combine(ad_fields, training),
            penalty,
        )

    def _clicks_of_users(
        self, layer: layers.UserClicks, batch: reader.Batch, query: tf.Tensor
    ) -> tf.Tensor:
        """Returns the sums [B, E] of the users' other clicks; 0 for OOV users, as in serving."""
        if self.clicked_ads is None:
            return layer.stored_sums(query)
        # The same number for each click as on one replica.
        draws = self._generator.same_uniform(tf.shape(layers.whole_batch(batch)["user"])[0])
        draws = layers.own_rows(draws) if layers.WHOLE in batch else draws
        ads, owner, counts = self.clicked_ads.others(
            batch["user"], batch["ad_row"], layer.max_clicks, draws
        )
        sums = layer(ads, owner, counts, self.embed_rows)
        return tf.where(layer.users.is_known(query)[:, None], sums, 0.0)

    def embed_rows(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the field embeddings [P, Fa, E] of catalog rows [P] int32."""
        return self.ad_tower.field_embeddings(tf.gather(self._ad_features, rows))

    def store_user_clicks(self) -> None:
        """Stores the users' sums of clicked ads in the query tower, with the current weights."""
        layer = self.query_tower.user_clicks
        if layer is not None and self.clicked_ads is not None:
            layer.store(self.clicked_ads, self._num_ads, self.embed_rows)


def _squared_norm(field_embeddings: tf.Tensor) -> tf.Tensor:
    return layers.mean_of_rows(tf.reduce_sum(tf.square(field_embeddings), axis=[-2, -1]))


def query_chunks(num_queries: int, num_ads: int, max_scores: int = 1 << 22) -> Iterator[slice]:
    """Yields slices of queries with at most `max_scores` scores of all ads, or of one query."""
    size = max(max_scores // num_ads, 1)
    for first in terminal.progress_steps(num_queries, size, "scoring all ads", "queries"):
        yield slice(first, min(first + size, num_queries))


def exact_top_k(
    query_embeddings: np.ndarray,
    ad_embeddings: np.ndarray,
    k: int,
    batch_size: int = 256,
    ads_at_once: int = 65_536,
) -> np.ndarray:
    """Returns the rows of the largest inner products, best first.

    Ties, such as between ads with the same OOV id, are in random order, the same in every call.

    Args:
        query_embeddings: [N, D] float32.
        ad_embeddings: [A, D] float32; memory-mapped, they are never in memory as a whole.
        k: Number of ads for each query.
        batch_size: Queries scored at once.
        ads_at_once: Ads scored at once.

    Returns:
        [N, min(k, A)] int32.

    Raises:
        ValueError: An embedding is not finite.
    """
    _check_finite(query_embeddings, "query")
    order = np.random.default_rng(0).permutation(len(ad_embeddings)).astype(np.int32)
    k = min(k, len(order))
    best = np.full((len(query_embeddings), k), -np.inf, np.float32)
    found = np.zeros(best.shape, np.int64)
    steps = [
        (first_ad, first)
        for first_ad in range(0, len(order), ads_at_once)
        for first in range(0, len(query_embeddings), batch_size)
    ]
    ads = None
    for first_ad, first in terminal.with_progress(steps, "exact search", "batches"):
        if not first:
            ads = ad_embeddings[order[first_ad : first_ad + ads_at_once]]
            _check_finite(ads, "ad")
            ads = tf.constant(ads)
        part = slice(first, first + batch_size)
        scores = tf.matmul(query_embeddings[part], ads, transpose_b=True).numpy()
        piece_top = _largest(scores, min(k, scores.shape[1]))
        scores = np.concatenate([best[part], np.take_along_axis(scores, piece_top, 1)], axis=1)
        positions = np.concatenate([found[part], piece_top + first_ad], axis=1)
        chosen = _largest(scores, k)
        best[part] = np.take_along_axis(scores, chosen, axis=1)
        found[part] = np.take_along_axis(positions, chosen, axis=1)
    ranked = np.argsort(-best, axis=1, kind="stable")
    return order[np.take_along_axis(found, ranked, axis=1)]


def _check_finite(embeddings: np.ndarray, side: str) -> None:
    if not np.isfinite(embeddings).all():
        raise ValueError(
            f"The {side} tower returned NaN or infinity; expected finite embeddings. Look for a "
            "division by 0 or a log of 0 in it, or train again with lower learning rates."
        )


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Returns the columns [N, k] of the largest values [N, C] of each row, in ascending order.

    Of equal values, the first are taken, as by `tf.math.top_k`, which takes six times the
    processor time.
    """
    smallest = np.partition(values, -k, axis=1)[:, -k, None]
    chosen = values >= smallest
    for row in np.flatnonzero(chosen.sum(axis=1) > k):
        ties = np.flatnonzero(values[row] == smallest[row])
        chosen[row, ties[k - np.sum(values[row] > smallest[row]) :]] = False
    return np.flatnonzero(chosen).reshape(-1, k) % values.shape[1]
