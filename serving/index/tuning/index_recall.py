"""Measures recall against exact search and the latency of single queries.

Shapes: N ads, D embedding size, Q queries.
"""

import itertools
import time
from collections.abc import Callable

import numpy as np

from serving.index import backend, exact_search, search

# Number of queries that are searched before timing starts, and minimum number that are timed.
_WARM_UP = 10
_PASSES = 15


def recall_against_exact(
    searcher: backend.IndexBackend, embeddings: np.ndarray, queries: np.ndarray, k: int
) -> float:
    """Returns the share of the exact top k that the index finds, in [0, 1].

    Args:
        searcher: Index of `embeddings`.
        embeddings: [N, D] float32.
        queries: [Q, D] float32.
        k: Number of ads for each query.
    """
    return mean_recall(searcher, queries, exact_search.exact_rows([embeddings], queries, k))


def mean_recall(searcher: backend.IndexBackend, queries: np.ndarray, wanted: np.ndarray) -> float:
    """Returns the share of the wanted rows [Q, k] of queries [Q, D] that the index finds."""
    return float(recall_of_rows(searcher.search(queries, wanted.shape[1])[1], wanted).mean())


def recall_of_rows(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns the share of the wanted rows that were found, for each query.

    Args:
        found: [Q, any] rows found.
        wanted: [Q, k] rows to find.

    Returns:
        Recall [Q], in [0, 1]; 1 if k is 0.
    """
    if not wanted.shape[1]:
        return np.ones(len(wanted))
    pairs = zip(wanted, found, strict=True)
    return np.array([np.isin(w, f, assume_unique=True).mean() for w, f in pairs])


def time_alone(
    searcher: search.Searcher,
    queries: np.ndarray,
    k: int,
    max_seconds: float = 2.0,
    clock: Callable[[], float] = time.perf_counter,
) -> np.ndarray:
    """Measures searches for one query at a time, in up to 15 passes over the queries.

    Args:
        searcher: Index to search.
        queries: [Q, D] float32.
        k: Number of ads for each query.
        max_seconds: Time limit. At least 10 queries are measured, or all if there are fewer.
        clock: Returns the time in seconds.

    Returns:
        Latencies [passes, Q] in milliseconds; NaN after the time limit.
    """
    for query in queries[:_WARM_UP]:
        searcher.search(query[None], k)
    milliseconds = np.full((_PASSES, len(queries)), np.nan)
    until = clock() + max_seconds
    for number, query in itertools.product(range(_PASSES), range(len(queries))):
        started = clock()
        if started >= until and (number or query >= _WARM_UP):
            break
        searcher.search(queries[query][None], k)
        milliseconds[number, query] = 1e3 * (clock() - started)
    return milliseconds
