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
    best = faiss.ResultHeap(len(queries), k, keep_max=True)
    num_ads = 0
    for chunk in chunks:
        chunk = np.ascontiguousarray(chunk, dtype=np.float32)
        found = faiss.knn(queries, chunk, min(k, len(chunk)), metric=faiss.METRIC_INNER_PRODUCT)
        best.add_result(found[0], found[1] + num_ads)
        num_ads += len(chunk)
    best.finalize()
    return best.I[:, : min(k, num_ads)]
