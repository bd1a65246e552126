"""Measures recommenders over the whole catalog: all ads are ranked, none is sampled.

A recommender is called with queries and returns the scores of all ads. Two conventions:

    per click             a held-out click is found if its ad is among the first k of its
                          request's list; every ad may be in the list
    excluding seen ads    a user's list leaves out the ads that the user has clicked before;
    (`per_user`)          recall is hits / held-out ads of the user, NDCG is binary, both
                          averaged over the users with a held-out ad

Shapes: B queries of a chunk, C held-out clicks, U users, N ads, K the longest list.

References:
    Krichene and Rendle, On Sampled Metrics for Item Recommendation, 2020 (why all ads).
    Järvelin and Kekäläinen, Cumulated Gain-Based Evaluation of IR Techniques, 2002 (NDCG).
    Zhao et al., RecBole, 2021, and recommenders-team/recommenders, python_evaluation.py
    (the second convention).
    Abdollahpouri et al., The Unfairness of Popularity Bias in Recommendation, 2019.
    Shani and Gunawardana, Evaluating Recommendation Systems, 2011, §8.3.3 (coverage, Gini).
"""

import collections
import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import scipy.sparse
import tensorflow as tf

from tfrec import metrics, retrieval
from tfrec.evaluation import report
from tfrecords.schema import NUM_CANDIDATES

RECALL_AT = (10, 20, 50, 100, NUM_CANDIDATES)
NDCG_AT = (10, 20)
COVERAGE_AT = (10, NUM_CANDIDATES)
NEGATIVES_PER_CLICK = 100
_MAX_SCORES = 1 << 25
_MAX_SCORES_PER_RECOMMENDER = 1 << 31
_SEED = 1


@dataclasses.dataclass(frozen=True)
class Queries:
    """Requests to recommend ads for.

    Attributes:
        query: [B, Wq] int32 encoded query fields.
        user: [B] int64 fingerprints, or None if the schema has no `user_key`.
        number: [B] number of each query's click in the split, as in `retrieval.Clicks`.
    """

    query: np.ndarray
    user: np.ndarray | None
    number: np.ndarray

    def __len__(self) -> int:
        return len(self.number)

    def take(self, rows: np.ndarray | slice) -> "Queries":
        """Returns some of the queries."""
        user = None if self.user is None else self.user[rows]
        return Queries(self.query[rows], user, self.number[rows])


def queries_of(clicks: retrieval.Clicks) -> Queries:
    """Returns the queries of clicks."""
    return Queries(clicks.query, clicks.user, clicks.number)


# Returns the scores [B, N] of all ads, or [1, N] if all queries have the same.
Recommender = Callable[[Queries], np.ndarray]


def per_click(
    recommender: Recommender, queries: Queries, ad_rows: np.ndarray, ads: "RankedCorpus"
) -> report.RecommenderQuality:
    """Measures the lists of single requests [C], each with the held-out click on an ad [C].

    In addition to recall and NDCG, the metrics are `auc_against_uniform_ads` and
    `auc_against_popular_ads`, the probability that a clicked ad scores above one drawn uniformly,
    or by training clicks; `catalog_coverage_at_K`, the share of ads in at least one list;
    `popularity_percentile_at_10`, the mean percentile by training clicks of the ads in the lists;
    and `exposure_gini_at_10`, 0 if all ads are in the same number of lists, 1 if one ad is in all.
    """
    rng, bounds = np.random.default_rng(_SEED), np.cumsum(ads.clicks, dtype=np.float64)
    lists: list[np.ndarray] = []
    shares: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    for rows in retrieval.query_chunks(len(queries), len(ads), _MAX_SCORES):
        scores = recommender(queries.take(rows))
        lists.append(_top(scores, max(RECALL_AT), rows))
        for name, drawn in _draw_ads(bounds, len(lists[-1]), rng).items():
            shares[name].append(_share_below(scores, ad_rows[rows], drawn))
    top = np.concatenate(lists)  # [C, K]
    hit = top == ad_rows[:, None]
    position = np.where(hit.any(axis=1), hit.argmax(axis=1), -1)
    auc = {f"auc_against_{name}_ads": np.concatenate(parts) for name, parts in shares.items()}
    exposure = np.bincount(top[:, :10].ravel(), minlength=len(ads))
    percentile = np.average(ads.popularity_percentile, weights=exposure)
    seen = ads.seen[ad_rows]
    return report.RecommenderQuality(
        metrics={
            **metrics_of_positions(position),
            **{name: float(values.mean()) for name, values in auc.items() if len(values)},
            **{
                f"catalog_coverage_at_{k}": len(np.unique(top[:, :k])) / len(ads)
                for k in COVERAGE_AT
            },
            "popularity_percentile_at_10": float(percentile),
            "exposure_gini_at_10": metrics.gini(exposure),
        },
        on_seen_ads=metrics_of_positions(position[seen]) if seen.any() else None,
        on_unseen_ads=metrics_of_positions(position[~seen]) if not seen.all() else None,
    )


def by_chance(num_ads: int) -> report.RecommenderQuality:
    """Returns the expected metrics of lists of random ads."""
    discounts = 1.0 / np.log2(2.0 + np.arange(min(max(NDCG_AT), num_ads)))
    return report.RecommenderQuality(
        metrics={
            **{f"corpus_recall_at_{k}": min(k / num_ads, 1.0) for k in RECALL_AT},
            **{f"ndcg_at_{k}": float(discounts[:k].sum()) / num_ads for k in NDCG_AT},
            "auc_against_uniform_ads": 0.5,
            "auc_against_popular_ads": 0.5,
        }
    )


def clicks_under_uniform_exposure(
    recommender: Recommender,
    queries: Queries,
    click_probability: np.ndarray,
    k: int,
) -> np.ndarray:
    """Returns the sum [B] of the click probabilities of the first k ads.

    Divided by the sum over all ads, it is the expected recall of clicks if every ad were shown with
    the same probability.

    Args:
        recommender: Scores the ads.
        queries: [B] requests.
        click_probability: [B, N] of all ads.
        k: Length of the lists.
    """
    # Sorted, so that lists of the same ads have exactly the same sum.
    top = np.sort(_top(recommender(queries), k, slice(0, len(queries))), axis=1)
    return np.take_along_axis(click_probability, top, axis=1).sum(axis=1)


def metrics_of_positions(position: np.ndarray) -> dict[str, float]:
    """Returns recall and NDCG of clicks with ads at positions [C]; -1: not in the list."""
    found = np.where(position < 0, np.iinfo(np.int64).max, position)
    gain = 1.0 / np.log2(2.0 + np.maximum(position, 0))
    recall = {f"corpus_recall_at_{k}": float((found < k).mean()) for k in RECALL_AT}
    ndcg = {f"ndcg_at_{k}": float(np.where(found < k, gain, 0.0).mean()) for k in NDCG_AT}
    return {**recall, **ndcg}


@dataclasses.dataclass(frozen=True)
class RankedCorpus:
    """Statistics of the ads before the test split.

    Attributes:
        clicks: [N] clicked training rows.
        seen: [N] bool, whether the ad was shown in training or clicked in validation. The refit
            learns validation clicks, so an ad with one is not new to the two-tower model.
    """

    clicks: np.ndarray
    seen: np.ndarray

    def __len__(self) -> int:
        return len(self.clicks)

    @functools.cached_property
    def popularity_percentile(self) -> np.ndarray:
        """[N] in (0, 1): the share of ads with fewer training clicks, ties counted half."""
        return metrics.percentile_ranks(self.clicks)


@dataclasses.dataclass(frozen=True)
class HeldOutUsers:
    """The users of held-out clicks.

    Attributes:
        queries: [U] the earliest held-out request of each user.
        wanted: [U, N] 1 for ads that the user clicked and had not clicked before.
        seen: [U, N] 1 for ads that the user had clicked before.
    """

    queries: Queries
    wanted: scipy.sparse.csr_array
    seen: scipy.sparse.csr_array


def held_out_users(
    clicks: retrieval.Clicks,
    seen_of: Callable[[np.ndarray], scipy.sparse.csr_array],
    num_ads: int,
) -> HeldOutUsers:
    """Groups held-out clicks [C] by user; users are sampled if there are too many to measure.

    `seen_of` returns the ads [U, N] that users [U] had clicked before.
    """
    assert clicks.user is not None
    users, user = np.unique(clicks.user, return_inverse=True)
    # A history of a later request would contain ads that are wanted.
    by_user = np.lexsort((clicks.order, user))
    first = by_user[np.searchsorted(user[by_user], np.arange(len(users)))]
    ones = np.ones(len(user), np.float32)
    clicked = scipy.sparse.csr_array((ones, (user, clicks.ad_rows)), shape=(len(users), num_ads))
    clicked.data[:] = 1.0
    seen = seen_of(users)
    clicked = scipy.sparse.csr_array(clicked - clicked.multiply(seen))
    clicked.eliminate_zeros()
    rows = np.flatnonzero(np.diff(clicked.indptr) > 0)
    max_users = max(_MAX_SCORES_PER_RECOMMENDER // num_ads, 1)
    if len(rows) > max_users:
        rows = np.sort(np.random.default_rng(_SEED).choice(rows, max_users, replace=False))
    return HeldOutUsers(queries_of(clicks).take(first[rows]), clicked[rows], seen[rows])


def per_user(recommender: Recommender, users: HeldOutUsers) -> dict[str, float] | None:
    """Measures the lists of users without the ads that they had clicked before.

    Returns:
        `corpus_recall_at_K` and `ndcg_at_K`, averaged over users; None without any.
    """
    num_users, num_ads = users.wanted.shape
    if not num_users:
        return None
    sums: dict[str, float] = collections.defaultdict(float)
    discounts = 1.0 / np.log2(np.arange(2, 2 + max(NDCG_AT)))
    ideal = np.cumsum(discounts)
    for rows in retrieval.query_chunks(num_users, num_ads, _MAX_SCORES):
        scores = recommender(users.queries.take(rows))
        scores = np.array(np.broadcast_to(scores, (rows.stop - rows.start, num_ads)))
        scores[users.seen[rows].nonzero()] = -np.inf
        top = _top(scores, max(RECALL_AT), rows)  # [B, K]
        clicked = users.wanted[rows]
        count = np.diff(clicked.indptr)  # [B]
        hit = np.take_along_axis(clicked.toarray() > 0, top, axis=1)
        hits = hit.cumsum(axis=1)
        for k in RECALL_AT:
            recall = hits[:, min(k, hits.shape[1]) - 1] / count
            sums[f"corpus_recall_at_{k}"] += float(recall.sum())
        for k in NDCG_AT:
            gain = hit[:, :k] @ discounts[: min(k, hit.shape[1])]
            sums[f"ndcg_at_{k}"] += float((gain / ideal[np.minimum(count, k) - 1]).sum())
    return {name: total / num_users for name, total in sums.items()}


def _draw_ads(bounds: np.ndarray, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws ads [count, negatives] uniformly and, if any was clicked, by cumulative clicks [N]."""
    shape = (count, NEGATIVES_PER_CLICK)
    drawn = {"uniform": rng.integers(len(bounds), size=shape)}
    if bounds[-1] > 0:
        drawn["popular"] = np.searchsorted(bounds, rng.random(shape) * bounds[-1], side="right")
    return drawn


def _share_below(scores: np.ndarray, clicked: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Returns the share of drawn other ads below the clicked ad, for each click that has some.

    Args:
        scores: [B, N] or [1, N].
        clicked: [B].
        drawn: [B, negatives].
    """
    scores = np.broadcast_to(scores, (len(clicked), scores.shape[1]))
    score, rivals = (np.take_along_axis(scores, ads, axis=1) for ads in (clicked[:, None], drawn))
    above = (score > rivals) + 0.5 * (score == rivals)
    return np.ma.masked_where(drawn == clicked[:, None], above).mean(axis=1).compressed()


def _top(scores: np.ndarray, k: int, rows: slice) -> np.ndarray:
    """Returns the best ads [B, min(k, N)] of scores [B, N] or [1, N].

    Ties are in the order of `retrieval.order_of_ties`.
    """
    order = retrieval.order_of_ties(scores.shape[1])
    found = tf.math.top_k(tf.gather(scores, order, axis=1), min(k, len(order))).indices
    top = order[found.numpy()]
    return np.broadcast_to(top, (rows.stop - rows.start, top.shape[1]))
