"""Exact search, the reference for the recall of indexes.

Shapes: Q queries, D embedding size.
"""

from collections.abc import Iterable

import faiss
import numpy as np


def exact_rows(chunks: Iterable[np.ndarray], queries: np.ndarray, k: int) -> np.ndarray:
    """Returns the rows of the k greatest inner products, descending: int64 [Q, min(k, N)].

    Args:
        chunks: Ad embeddings in chunks [rows, D] float32, of which one is in memory at a time.
        queries: [Q, D] float32.
        k: Number of ads for each query.
    """
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    scores: np.ndarray = np.empty((len(queries), 0), np.float32)
    found_rows: np.ndarray = np.empty((len(queries), 0), np.int64)
    num_ads = 0
    for chunk in chunks:
        chunk = np.ascontiguousarray(chunk, dtype=np.float32)
        found = faiss.knn(queries, chunk, min(k, len(chunk)), metric=faiss.METRIC_INNER_PRODUCT)
        scores = np.concatenate([scores, found[0]], axis=1)
        found_rows = np.concatenate([found_rows, found[1] + num_ads], axis=1)
        num_ads += len(chunk)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores, found_rows = (np.take_along_axis(a, best, axis=1) for a in (scores, found_rows))
    return found_rows
