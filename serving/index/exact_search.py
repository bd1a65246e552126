"""Exact search, the reference for the recall of indexes.

Shapes: Q queries, N ads, D embedding size.
"""

from collections.abc import Iterable, Sequence

import faiss
import numpy as np

# Number of ads compared at once; memory-mapped embeddings are read in pieces of this size.
_ADS_AT_ONCE = 65_536


class BestRows:
    """The k best rows of queries, merged over pieces; ties by row.

    Args:
        queries: [Q, D] float32.
    """

    def __init__(self, queries: np.ndarray, k: int) -> None:
        self._queries = np.ascontiguousarray(queries, dtype=np.float32)
        self._k = k
        self._scores = np.empty((len(queries), 0), np.float32)
        self._rows = np.empty((len(queries), 0), np.int64)

    def add(self, embeddings: np.ndarray, rows: np.ndarray) -> None:
        """Compares ads with the queries.

        Args:
            embeddings: [N, D] float32.
            rows: [N] int64, the rows of the ads.
        """
        if not len(rows):
            return
        embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
        k = min(self._k, len(rows))
        scores, found = faiss.knn(self._queries, embeddings, k, metric=faiss.METRIC_INNER_PRODUCT)
        all_scores = np.concatenate([self._scores, scores], axis=1)
        all_rows = np.concatenate([self._rows, rows[found]], axis=1)
        order = np.lexsort((all_rows, -all_scores), axis=1)[:, : self._k]
        self._scores = np.take_along_axis(all_scores, order, axis=1)
        self._rows = np.take_along_axis(all_rows, order, axis=1)

    def found(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns scores [Q, min(k, N)] float32, descending, and rows of the same shape."""
        return self._scores, self._rows


def best_of_lists(
    lists: Sequence[tuple[np.ndarray, np.ndarray]], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Merges the lists of one query, such as those of slices; ties by row."""
    scores = np.concatenate([list_scores for list_scores, _ in lists])
    rows = np.concatenate([list_rows for _, list_rows in lists])
    order = np.lexsort((rows, -scores))[:k]
    return scores[order], rows[order]


def exact_rows(chunks: Iterable[np.ndarray], queries: np.ndarray, k: int) -> np.ndarray:
    """Returns the rows of the k greatest inner products, descending: int64 [Q, min(k, N)].

    Args:
        chunks: Ad embeddings in chunks [rows, D] float32; memory-mapped, they are read in pieces.
        queries: [Q, D] float32.
        k: Number of ads for each query.
    """
    best = BestRows(queries, k)
    num_ads = 0
    for chunk in chunks:
        for first in range(0, len(chunk), _ADS_AT_ONCE):
            piece = chunk[first : first + _ADS_AT_ONCE]
            best.add(piece, np.arange(num_ads, num_ads + len(piece)))
            num_ads += len(piece)
    return best.found()[1]
