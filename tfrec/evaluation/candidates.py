"""The candidates of requests, stage by stage, and the scores that order them.

Shapes: Q requests, N ads, D embedding, K candidates, Fq columns of ids.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import scipy.sparse

from tfrec import calibration, ranking, retrieval
from tfrecords import reader, terminal
from tfrecords.schema import NUM_CANDIDATES

LIST_LENGTH = retrieval.LIST_LENGTH
NO_AD = -1
_REQUESTS_AT_ONCE = 8
# Query embeddings [Q, D] and k -> catalog rows [Q, at most k], best first.
Search = Callable[[np.ndarray, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class CandidateIndex:
    """The index to measure.

    Attributes:
        name: Description for the report.
        search: Finds ads.
        filters: Description of the filters for the report; None: no filters.
        search_eligible: Finds ads that meet the filters; None: no filters.
    """

    name: str
    search: Search
    filters: str | None = None
    search_eligible: Search | None = None


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Catalog rows of requests, best first, after each stage; padded with `NO_AD`.

    Attributes:
        tower: [Q, K] from exact search with the tower's embeddings.
        index: [Q, K] from the index.
        filtered: [Q, at most K] from the index, among the ads that meet the filters.
    """

    tower: np.ndarray
    index: np.ndarray
    filtered: np.ndarray


def find(
    query_embeddings: np.ndarray,
    ad_embeddings: np.ndarray,
    index: CandidateIndex | None,
    seen: scipy.sparse.csr_array | None = None,
) -> Candidates:
    """Finds the candidates of queries.

    Args:
        query_embeddings: [Q, D].
        ad_embeddings: [N, D].
        index: The index; None: exact search.
        seen: [Q, N] 1 for the ads that each query leaves out; None: none.
    """

    def unseen(search: Search) -> np.ndarray:
        if seen is None:
            return search(query_embeddings, NUM_CANDIDATES)
        longest = min(NUM_CANDIDATES + int(np.diff(seen.indptr).max(initial=0)), seen.shape[1])
        return leave_out(search(query_embeddings, longest), seen, NUM_CANDIDATES)

    tower = unseen(lambda queries, k: retrieval.exact_top_k(queries, ad_embeddings, k))
    if index is None:
        return Candidates(tower, tower, tower)
    found = unseen(index.search)
    if index.search_eligible is None:
        return Candidates(tower, found, found)
    return Candidates(tower, found, unseen(index.search_eligible))


def leave_out(rows: np.ndarray, seen: scipy.sparse.csr_array, count: int) -> np.ndarray:
    """Returns the first [Q, at most `count`] of lists of catalog rows that are not in `seen`.

    Args:
        rows: [Q, K], best first.
        seen: [Q, N] 1 for the ads to leave out.
        count: Length of the lists. One with fewer such ads ends with `NO_AD`.
    """
    seen_ads = np.split(seen.indices, seen.indptr[1:-1])
    left_out = np.array([np.isin(top, ads) for top, ads in zip(rows, seen_ads, strict=True)])
    kept_first = np.argsort(left_out, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(np.where(left_out, NO_AD, rows), kept_first, axis=1)


@dataclasses.dataclass(frozen=True)
class ScoredCandidates:
    """Candidates and their served scores.

    Attributes:
        found: The candidates.
        scores: Head -> [Q, K] float64 served values of `found.filtered`; empty without a ranker.
        weights: Head -> default weight in the utility.
    """

    found: Candidates
    scores: dict[str, np.ndarray]
    weights: dict[str, float]

    @property
    def utility(self) -> np.ndarray:
        """[Q, K] utility with the default weights; without scores, in retrieval order."""
        return self.utility_of(self.weights)

    def utility_of(self, weights: Mapping[str, float]) -> np.ndarray:
        """Returns the utility [Q, K] with other weights; without an ad, it is -inf."""
        rows = self.found.filtered
        if not self.scores:
            return np.broadcast_to(-np.arange(rows.shape[1], dtype=float), rows.shape)
        return np.where(rows == NO_AD, -np.inf, utility(weights, self.scores))


def score(
    data_set: reader.DataSet,
    model: ranking.RankingModel,
    calibrators: calibration.Calibrators,
    weights: Mapping[str, float],
    queries: np.ndarray,
    found: Candidates,
) -> ScoredCandidates:
    """Scores the candidates of queries [Q, Fq] int32 as in serving."""
    rows, ad_features = found.filtered, np.asarray(data_set.catalog().features)
    keep_rate = data_set.schema.negative_keep_rate
    scores = {head: np.empty(rows.shape) for head in model.heads}
    count = len(queries) if rows.shape[1] else 0
    parts = [slice(n, n + _REQUESTS_AT_ONCE) for n in range(0, count, _REQUESTS_AT_ONCE)]
    served = terminal.map_with_progress(
        lambda part: ranking.served_scores(
            model, calibrators, keep_rate, queries[part], ad_features[rows[part]]
        ),
        parts,
        "ranking candidates",
        "batches",
    )
    for part, served_values in zip(parts, served, strict=True):
        for head, values in scores.items():
            values[part] = served_values[head].numpy()
    return ScoredCandidates(found, scores, {head: weights.get(head, 0.0) for head in model.heads})


def score_all_ads(
    data_set: reader.DataSet,
    model: ranking.RankingModel,
    calibrators: calibration.Calibrators,
    weights: Mapping[str, float],
    queries: np.ndarray,
) -> dict[str, np.ndarray]:
    """Scores all ads for queries [Q, Fq] int32, in lists of the same length as in serving.

    Returns:
        Head -> [Q, N] float64 served values.
    """
    num_ads = len(data_set.catalog())
    length = min(NUM_CANDIDATES, num_ads)
    num_lists = -(-num_ads // length)
    # The last list of a query is filled with the first ads.
    lists = np.tile(np.resize(np.arange(num_ads), (num_lists, length)), (len(queries), 1))
    found = Candidates(lists, lists, lists)
    repeated = np.repeat(queries, num_lists, axis=0)
    scored = score(data_set, model, calibrators, weights, repeated, found)
    return {
        head: values.reshape(len(queries), -1)[:, :num_ads]
        for head, values in scored.scores.items()
    }


def utility(weights: Mapping[str, float], values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the weighted sum of the values of heads."""
    return np.sum([weight * values[head] for head, weight in weights.items()], axis=0)


def best_ten(values: np.ndarray, scores: np.ndarray, then: np.ndarray | None = None) -> np.ndarray:
    """Returns the values [Q, at most 10] with the greatest scores, greatest first.

    Args:
        values: [Q, K].
        scores: [Q, K].
        then: [Q, K] order of equal scores; None: equal scores keep their order.
    """
    keys = (-scores,) if then is None else (-then, -scores)
    return np.take_along_axis(values, np.lexsort(keys, axis=1)[:, :LIST_LENGTH], axis=1)
