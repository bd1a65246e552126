"""Measures recall against exact search and the latency of single queries.

Shapes: N ads, D embedding size, Q queries.
"""

import time

import numpy as np

from serving.index import exact_search, search


def recall_against_exact(
    searcher: search.Searcher, embeddings: np.ndarray, queries: np.ndarray, k: int
) -> float:
    """Returns the share of the exact top k that the index finds, in [0, 1].

    Args:
        searcher: Index of `embeddings`.
        embeddings: [N, D] float32.
        queries: [Q, D] float32.
        k: Number of ads for each query.
    """
    wanted = exact_search.exact_rows([embeddings], queries, k)
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
    searcher: search.Searcher, queries: np.ndarray, k: int, repeat: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Measures searches for one query at a time.

    Args:
        searcher: Index to search.
        queries: [Q, D] float32.
        k: Number of ads for each query.
        repeat: Number of passes over the queries.

    Returns:
        Latencies [repeat · Q] in milliseconds, and the rows found [Q, k].
    """
    for query in queries[:10]:
        searcher.search(query[None], k)
    milliseconds: list[float] = []
    rows: list[np.ndarray] = []
    for _ in range(repeat):
        rows.clear()
        for query in queries:
            started = time.perf_counter()
            _, found = searcher.search(query[None], k)
            milliseconds.append(1e3 * (time.perf_counter() - started))
            rows.append(found[0])
    return np.array(milliseconds), np.stack(rows)
