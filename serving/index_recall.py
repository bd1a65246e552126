"""Measures an index: recall against exact search, and the time of single queries.

Shapes: N ads, D embedding size, Q queries.
"""

import time
from collections.abc import Iterable

import faiss
import numpy as np

from serving import index_search


def recall_against_exact(
    searcher: index_search.Searcher, embeddings: np.ndarray, queries: np.ndarray, k: int
) -> float:
    """Returns the share of the exact top k that the index finds, in [0, 1].

    Args:
        searcher: Over the same embeddings.
        embeddings: [N, D] float32.
        queries: [Q, D] float32.
        k: Ads for each query.
    """
    wanted = exact_rows([embeddings], queries, k)
    return float(recalls(searcher.search(queries, wanted.shape[1])[1], wanted).mean())


def exact_rows(chunks: Iterable[np.ndarray], queries: np.ndarray, k: int) -> np.ndarray:
    """Returns the rows of the k greatest inner products, descending: int64 [Q, min(k, N)].

    Args:
        chunks: The ads' embeddings [rows, D] float32, piece by piece; one is held at a time.
        queries: [Q, D] float32.
        k: Ads for each query.
    """
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    scores: np.ndarray = np.empty((len(queries), 0), np.float32)
    rows: np.ndarray = np.empty((len(queries), 0), np.int64)
    num_ads = 0
    for chunk in chunks:
        chunk = np.ascontiguousarray(chunk, dtype=np.float32)
        found = faiss.knn(queries, chunk, min(k, len(chunk)), metric=faiss.METRIC_INNER_PRODUCT)
        scores = np.concatenate([scores, found[0]], axis=1)
        rows = np.concatenate([rows, found[1] + num_ads], axis=1)
        num_ads += len(chunk)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores, rows = (np.take_along_axis(a, best, axis=1) for a in (scores, rows))
    return rows


def recalls(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns the share of each query's wanted rows [Q, k] among found [Q, any]: [Q]; of none 1."""
    if not wanted.shape[1]:
        return np.ones(len(wanted))
    pairs = zip(wanted, found, strict=True)
    return np.array([np.isin(w, f, assume_unique=True).mean() for w, f in pairs])


def time_alone(
    searcher: index_search.Searcher, queries: np.ndarray, k: int, repeat: int = 1
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
