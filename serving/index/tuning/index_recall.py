"""Measures an index: recall against exact search, and the time of single queries.

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
        searcher: Over the same embeddings.
        embeddings: [N, D] float32.
        queries: [Q, D] float32.
        k: Ads for each query.
    """
    wanted = exact_search.exact_rows([embeddings], queries, k)
    return float(recall_of_rows(searcher.search(queries, wanted.shape[1])[1], wanted).mean())


def recall_of_rows(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns the share of each query's wanted rows [Q, k] among found [Q, any]: [Q]; of none 1."""
    if not wanted.shape[1]:
        return np.ones(len(wanted))
    pairs = zip(wanted, found, strict=True)
    return np.array([np.isin(w, f, assume_unique=True).mean() for w, f in pairs])


def time_alone(
    searcher: search.Searcher, queries: np.ndarray, k: int, repeat: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Searches for one query after another.

    Returns:
        Milliseconds [repeat · Q], and the rows found [Q, k].
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
