"""Validation after an epoch: the recall of held-out clicks, and the temperature.

Shapes: Q held-out clicks, N ads, D embedding, C columns.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tfrec.retrieval import reading, retrieval_model, temperature, two_tower
from tfrecords import reader
from tfrecords.schema import NUM_CANDIDATES

RECALL_AT = (10, 50, 100, NUM_CANDIDATES)
METRIC = "validation_corpus_recall"
_MAX_REPEATED = 0.01
_MAX_SCORES = 1 << 25
_CLICKS_FOR_TEMPERATURE = 1_000
_ADS_FOR_TEMPERATURE = 4_096


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Held-out clicks.

    Attributes:
        query: [Q, Wq] int32 encoded queries.
        ad_rows: [Q] int32 the clicked ads.
        user: [Q] int64 fingerprints, or None if users are not known.
        repeated: Share of the clicks on ads that the user clicked in training. If it is nearly 0,
            because users do not click an ad again or seldom see it again, lists leave out the ads
            that they clicked.
    """

    query: np.ndarray
    ad_rows: np.ndarray
    user: np.ndarray | None = None
    repeated: float = 1.0

    @property
    def leaves_out_seen(self) -> bool:
        """Whether lists leave out the ads that the user clicked in training."""
        return self.user is not None and self.repeated < _MAX_REPEATED

    def evenly_spaced(self, count: int) -> "HeldOut":
        """Returns at most `count` of the clicks, evenly spaced."""
        rows = reading.evenly_spaced(len(self.ad_rows), count)
        user = None if self.user is None else self.user[rows]
        return HeldOut(self.query[rows], self.ad_rows[rows], user, self.repeated)

    def take(self, rows: np.ndarray | slice) -> reader.Batch:
        """Returns some of the clicks as a batch."""
        batch = {
            "query": tf.constant(self.query[rows]),
            "ad_row": tf.constant(self.ad_rows[rows], tf.int32),
        }
        return batch if self.user is None else {**batch, "user": tf.constant(self.user[rows])}


def measure(
    model: retrieval_model.RetrievalModel, held_out: HeldOut, queries: np.ndarray, ads: np.ndarray
) -> dict[str, float]:
    """Returns `validation_corpus_recall_at_K` for each K below N, and their mean.

    Args:
        model, held_out, queries, ads: See `recall_of_clicks`.
    """
    return means(recall_of_clicks(model, held_out, queries, ads))


def means(recall: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns the means over the clicks of `recall_of_clicks`."""
    return {name: float(click_recalls.mean()) for name, click_recalls in recall.items()}


def recall_of_clicks(
    model: retrieval_model.RetrievalModel, held_out: HeldOut, queries: np.ndarray, ads: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns the recall [Q] of each click: its mean over all K, and `..._at_K` for each K below N.

    Ads with equal scores, such as those with the same OOV id, are in random order. The model knows
    the ads that users clicked in training; `queries` [Q, D] and `ads` [N, D] are embeddings.
    """
    num_ads = len(ads)
    rows, all_ads = tf.range(num_ads), tf.constant(ads)
    better_ads: list[np.ndarray] = []
    equal_ads: list[np.ndarray] = []
    for part in two_tower.query_chunks(len(queries), num_ads, _MAX_SCORES):
        batch = held_out.take(part)
        scores = tf.matmul(queries[part], all_ads, transpose_b=True)
        clicked_scores = tf.gather(scores, batch["ad_row"], batch_dims=1)
        # Written so that a clicked ad whose score is not finite is last.
        is_other = batch["ad_row"][:, None] != rows
        # Ads that training never showed compete, too, although they are not negatives of the loss.
        if held_out.leaves_out_seen and model.clicked_ads is not None:
            is_other &= ~model.clicked_ads.among(batch["user"], rows)
        better = is_other & ~(scores <= clicked_scores[:, None])
        equal = is_other & (scores == clicked_scores[:, None])
        for found, mask in ((better_ads, better), (equal_ads, equal)):
            found.append(tf.reduce_sum(tf.cast(mask, tf.int32), axis=1).numpy())
    num_better, num_equal = np.concatenate(better_ads), np.concatenate(equal_ads)
    # Lists of all ads miss none.
    used = [k for k in RECALL_AT if k < num_ads] or [1]
    recall = {
        f"{METRIC}_at_{k}": np.clip((k - num_better) / (num_equal + 1), 0.0, 1.0) for k in used
    }
    return {METRIC: np.mean(list(recall.values()), axis=0), **recall}


def best_temperature(
    model: retrieval_model.RetrievalModel,
    held_out: HeldOut,
    queries: np.ndarray,
    ads: np.ndarray,
    clicks: np.ndarray,
) -> float:
    """Returns the temperature with the greatest likelihood of held-out clicks.

    Args:
        model, held_out, queries, ads: See `measure`.
        clicks: [N] training clicks.
    """
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(queries))[:_CLICKS_FOR_TEMPERATURE]
    rows, log_draws = temperature.columns(clicks, _ADS_FOR_TEMPERATURE, rng)
    batch = held_out.take(chosen)
    cosines = np.sum(queries[chosen] * ads[held_out.ad_rows[chosen]], axis=1)
    scores = tf.matmul(queries[chosen], ads[rows], transpose_b=True)
    excluded = model.accidental_hits(batch, tf.constant(rows))
    return float(temperature.fit(tf.constant(cosines), scores, excluded, tf.constant(log_draws)))
