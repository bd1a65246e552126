"""Rescores the best codes of an index with the vectors stored in a `faiss.IndexRefine`.

The search is the same as `IndexRefine.search`: it finds k·k_factor candidates by 4-bit codes, and
at least a few hundred, and returns the best k of them by the stored vectors. faiss decodes vectors
one by one and maintains a heap. Here they are gathered, converted to float and multiplied in
blocks, which takes a third to a quarter of the time for 1,500 candidates.

Shapes: B queries, N ads, D embedding size, R candidates.
"""

import math
import threading
from typing import Any

import faiss
import numpy as np

from serving.index import ivfpq

_SQ = faiss.ScalarQuantizer
# uint16 has the bits of bfloat16.
_DTYPES = {_SQ.QT_8bit: np.uint8, _SQ.QT_bf16: np.uint16, _SQ.QT_fp16: np.float16}
# Blocks of 0.5 MB fit into the L2 cache, and are too small for OpenBLAS to start threads, which
# would wait for each other for milliseconds if a core is busy.
_BLOCK_FLOATS = 2**17
# A k_factor tuned for k of a few hundred is too small for k = 10, because codes rank some of the
# best ten ads low.
_MIN_CANDIDATES = 500


class Refinement:
    """The second stage of an index. Thread-safe.

    Attributes:
        index: The index.
        ivf: Its first stage, with the codes.
    """

    def __init__(self, index: Any) -> None:
        self.index = index
        self.ivf, self._query_matrix = ivfpq.first_stage(index)
        storage = faiss.downcast_index(index.refine_index)
        is_flat = isinstance(storage, faiss.IndexFlat)
        self._dtype: Any = np.float32 if is_flat else _DTYPES[storage.sq.qtype]
        self._codes = codes(storage)
        self._dimension = storage.d
        self._scale, self._offset = _scale_and_offset(storage)
        self._buffers = threading.local()

    def search(
        self, queries: np.ndarray, k: int, parameters: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Finds the ads with the greatest inner products.

        Args:
            queries: [B, D] float32, contiguous.

        Returns:
            Scores [B, k] float32, descending, and rows [B, k] int64, padded with -inf and -1 if
            the first stage finds fewer ads.
        """
        num_candidates = self.num_candidates(k)
        moved = np.empty_like(queries)
        for query, out in zip(queries, moved, strict=True):
            # For several queries at once OpenBLAS starts threads, which then spin for milliseconds.
            np.dot(self._query_matrix, query, out=out)
        _, candidates = self.ivf.search(moved, num_candidates, params=parameters)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        rows = np.full((len(queries), k), -1, np.int64)
        for b, query in enumerate(queries):
            found = candidates[b] if candidates[b, -1] >= 0 else candidates[b][candidates[b] >= 0]
            rescored = self.scores(query, found)
            best = _best(rescored, k)
            scores[b, : len(best)], rows[b, : len(best)] = rescored[best], found[best]
        return scores, rows

    def num_candidates(self, k: int) -> int:
        """Returns the number of codes that are rescored for k ads."""
        num_codes = max(math.ceil(k * self.index.k_factor), _MIN_CANDIDATES)
        return min(num_codes, self.index.ntotal)

    def scores(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Returns the inner products [R] float32 of a query [D] with the stored vectors of rows."""
        # q·(offset + scale ∘ code) = q·offset + (q ∘ scale)·code
        weights = query if self._scale is None else query * self._scale
        scores = np.empty(len(rows), np.float32)
        gathered, widened = self._thread_buffers()
        for start in range(0, len(rows), len(gathered)):
            block = rows[start : start + len(gathered)]
            vectors = gathered[: len(block)]
            # Rows come from the index, and "clip" avoids a range check and a copy.
            np.take(self._codes, block, axis=0, out=vectors, mode="clip")
            vectors = vectors.view(self._dtype)
            if vectors.dtype == np.uint16:
                vectors = _widen_bfloat16(vectors, widened[: len(block)])
            elif vectors.dtype != np.float32:
                np.copyto(widened[: len(block)], vectors)
                vectors = widened[: len(block)]
            np.dot(vectors, weights, out=scores[start : start + len(block)])
        return scores if self._offset is None else scores + query @ self._offset

    def _thread_buffers(self) -> tuple[np.ndarray, np.ndarray]:
        # Reused, because new memory costs a page fault every 4 KB.
        if not hasattr(self._buffers, "gathered"):
            rows = max(1, _BLOCK_FLOATS // self._dimension)
            self._buffers.gathered = np.empty((rows, self._codes.shape[1]), np.uint8)
            self._buffers.widened = np.empty((rows, self._dimension), np.float32)
        return self._buffers.gathered, self._buffers.widened


def codes(storage: Any) -> np.ndarray:
    """Views the vectors of a flat or scalar-quantized index as bytes [N, bytes per vector].

    In a mapped file, vectors may be unaligned, and NumPy would copy a whole unaligned array of
    wider numbers in each gather.
    """
    size = storage.ntotal * storage.code_size
    return faiss.rev_swig_ptr(storage.codes.data(), size).reshape(storage.ntotal, -1)


def _scale_and_offset(storage: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Returns scale and offset [D] of 8-bit codes; None for other types."""
    if isinstance(storage, faiss.IndexFlat) or storage.sq.qtype != _SQ.QT_8bit:
        return None, None
    minimum, width = faiss.vector_to_array(storage.sq.trained).reshape(2, storage.d)
    scale = width / np.float32(255)
    return scale, minimum + scale / 2


def _widen_bfloat16(bits: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Converts bits of bfloat16 [R, D] uint16 to `out` [R, D] float32.

    The bits are the upper half of a float32. NumPy takes ten times as long to convert float16.
    """
    wide = out.view(np.uint32)
    np.copyto(wide, bits)
    np.left_shift(wide, 16, out=wide)
    return out


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Returns the positions of the k greatest scores, in descending order."""
    negative = -scores
    if len(scores) <= k:
        return np.argsort(negative, kind="stable")
    best = np.argpartition(negative, k - 1)[:k]
    return best[np.argsort(negative[best], kind="stable")]
