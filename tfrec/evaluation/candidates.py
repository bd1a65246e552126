"""The candidates of requests, stage by stage, and the scores that order them.

Shapes: Q requests, N ads, D embedding, K candidates, Fq and Fa columns of ids.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from tfrec import calibration, ranking, retrieval
from tfrec.heads import HEADS
from tfrecords import terminal
from tfrecords.schema import NUM_CANDIDATES

LIST_LENGTH = 10
_REQUESTS_AT_ONCE = 8
# Query embeddings [Q, D] and k -> catalogue rows [Q, at most k], best first.
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
    """Catalogue rows of requests, best first, after each stage.

    Attributes:
        tower: [Q, K] from exact search with the tower's embeddings.
        index: [Q, K] from the index.
        filtered: [Q, at most K] from the index, among the ads that meet the filters.
    """

    tower: np.ndarray
    index: np.ndarray
    filtered: np.ndarray


def find(
    query_embeddings: np.ndarray, ad_embeddings: np.ndarray, index: CandidateIndex | None
) -> Candidates:
    """Finds the candidates of queries [Q, D] among ads [N, D]; exactly if there is no index."""
    tower = retrieval.exact_top_k(query_embeddings, ad_embeddings, NUM_CANDIDATES)
    if index is None:
        return Candidates(tower, tower, tower)
    found = index.search(query_embeddings, NUM_CANDIDATES)
    if index.search_eligible is None:
        return Candidates(tower, found, found)
    return Candidates(tower, found, index.search_eligible(query_embeddings, NUM_CANDIDATES))


def score(
    model: ranking.Ranker,
    calibrators: calibration.Calibrators,
    queries: np.ndarray,
    ad_features: np.ndarray,
    rows: np.ndarray,
    keep_rate: float,
) -> dict[str, np.ndarray]:
    """Scores candidates as in serving.

    Args:
        model: The ranker.
        calibrators: The ranker's calibrators.
        queries: [Q, Fq] int32.
        ad_features: [N, Fa] int32.
        rows: [Q, K] catalogue rows.
        keep_rate: Share of the unclicked rows that the log kept.

    Returns:
        Head -> [Q, K] float64.
    """
    parts = {head: [np.empty((0, rows.shape[1]))] for head in model.heads}
    count = len(queries) if rows.shape[1] else 0
    for first in terminal.progress_steps(
        count, _REQUESTS_AT_ONCE, "ranking candidates", "requests"
    ):
        own = slice(first, first + _REQUESTS_AT_ONCE)
        scored = calibrators.apply(model.score(queries[own], ad_features[rows[own]]))
        served = ranking.undo_down_sampling(scored, keep_rate)
        for head, own_parts in parts.items():
            own_parts.append(served[HEADS[head].output].numpy().astype(np.float64))
    shape = (len(queries), rows.shape[1])
    return {head: np.concatenate(own).reshape(shape) for head, own in parts.items()}


def utility(weights: Mapping[str, float], values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the weighted sum of the values of heads."""
    return np.sum([weight * values[head] for head, weight in weights.items()], axis=0)


def default_weights(model: ranking.Ranker) -> dict[str, float]:
    """Returns the weight of each head in the utility of a request that gives none."""
    return {head: HEADS[head].utility_weight for head in model.heads}


def best_ten(values: np.ndarray, scores: np.ndarray, then: np.ndarray | None = None) -> np.ndarray:
    """Returns the values [Q, at most 10] with the greatest scores, greatest first.

    Args:
        values: [Q, K].
        scores: [Q, K].
        then: [Q, K] order of equal scores; None: equal scores keep their order.
    """
    keys = (-scores,) if then is None else (-then, -scores)
    return np.take_along_axis(values, np.lexsort(keys, axis=1)[:, :LIST_LENGTH], axis=1)
