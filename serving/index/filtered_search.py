"""Searches a FAISS index for the best of the eligible ads.

There are two methods. The number of eligible ads decides which is cheaper:

    exact    gathers the vectors of the eligible ads into a flat index, which is cached for
             queries with the same filter, and searches it exhaustively
    index    searches the index with a selector, more widely the fewer ads are eligible

Shapes: B queries, N ads, D embedding size, E eligible ads.
"""

import collections
import math
import threading
import weakref
from typing import Any

import faiss
import numpy as np

from serving.index import refinement
from serving.index.filters import row_set

# Relative costs, measured with a million ads of 256 dimensions: an IVF index takes 8 ns for each
# ad in the probed cells, eligible or not. Gathering an eligible ad takes 250 ns, and searching it
# 30 ns. An HNSW search takes 2,700 ns for each ad of its search width.
_GATHER_COST, _GATHERED_COST, _OPEN_COST = 32, 4, 340
# Number of uses of a filter after which gathering more ads pays off.
_USES_TO_GATHER = 3
# Gathering up to this number of ads takes only milliseconds.
_ALWAYS_EXACT = 20_000
_MAX_KEPT_BYTES = 128_000_000
# As many as `Eligibility` caches; the row set of any other filter is not used again.
_MAX_KEPT = 128


class FilteredSearch:
    """Filtered searches of one index. Thread-safe."""

    def __init__(
        self,
        index: Any,
        refined: refinement.Refinement | None = None,
        *,
        always_exact: int | None = None,
    ) -> None:
        self._index = index
        if refined is None and isinstance(index, faiss.IndexRefine):
            refined = refinement.Refinement(index)
        self._refined = refined
        if always_exact is None:
            # A flat index is always exact, and faster than gathering most of its ads.
            always_exact = 0 if isinstance(index, faiss.IndexFlat) else _ALWAYS_EXACT
        self._always_exact = always_exact
        self._ivf = faiss.try_extract_index_ivf(index)
        self._storage = _storage(index)
        self._kept: collections.OrderedDict[row_set.RowSet, Any] = collections.OrderedDict()
        self._kept_bytes = 0
        self._uses: weakref.WeakKeyDictionary[row_set.RowSet, int] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def search(
        self, queries: np.ndarray, k: int, eligible: row_set.RowSet
    ) -> tuple[np.ndarray, np.ndarray]:
        """Finds the eligible ads with the greatest inner products.

        Args:
            queries: [B, D] float32, contiguous and finite.

        Returns:
            Scores [B, min(k, E)] float32, descending, and catalog rows of the same shape, int64.
        """
        k = min(k, eligible.count)
        if k == 0 or not len(queries):
            return _empty_result(len(queries), k)
        with self._lock:
            self._uses[eligible] = self._uses.get(eligible, 0) + 1
        if self.is_exact(eligible, k):
            scores, positions = self._subset(eligible).search(queries, k)
            return scores, eligible.rows[positions]
        scores, rows = self._with_selector(queries, k, eligible, self._num_probes(eligible))
        short = np.flatnonzero((rows < 0).any(axis=1))
        if short.size:
            # The probed cells, or the part of the graph that was reached, hold fewer than k ads.
            scores[short], rows[short] = self.exhaustive(queries[short], k, eligible)
        return scores, rows

    def is_exact(self, eligible: row_set.RowSet, k: int) -> bool:
        """Returns whether the eligible ads are gathered and searched exactly."""
        index_cost = eligible.num_rows
        if self._ivf is not None:
            index_cost = index_cost * self._num_probes(eligible) // self._ivf.nlist
        elif isinstance(self._index, faiss.IndexHNSW):
            index_cost = _OPEN_COST * _search_width(self._index, k, eligible)
        if eligible.count <= max(self._always_exact, index_cost // _GATHER_COST):
            return True
        return (
            self._uses.get(eligible, 0) >= _USES_TO_GATHER
            and eligible.count <= index_cost // _GATHERED_COST
            # The gathered vectors must fit into the cache.
            and 4 * eligible.count * self._index.d <= _MAX_KEPT_BYTES
        )

    def exhaustive(
        self, queries: np.ndarray, k: int, eligible: row_set.RowSet
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compares every eligible ad, with the most exact vectors that the index stores.

        Args:
            queries: [B, D] float32, contiguous and finite.
        """
        if k == 0:
            return _empty_result(len(queries), k)
        if self._storage is None:
            return self._with_selector(queries, k, eligible, self._ivf.nlist)
        selector = faiss.IDSelectorBitmap(eligible.bitmap)
        parameters = faiss.SearchParameters(sel=selector)
        return self._storage.search(queries, k, params=parameters)

    def _num_probes(self, eligible: row_set.RowSet) -> int:
        """Returns the number of cells to probe.

        It grows with the square root of N / E. Measured, recall is then at least as high as in
        unfiltered searches, for random filters and for filters on whole neighborhoods.
        """
        if self._ivf is None:
            return 0
        reduction = eligible.num_rows / eligible.count
        return min(math.ceil(self._ivf.nprobe * math.sqrt(reduction)), self._ivf.nlist)

    def _with_selector(
        self, queries: np.ndarray, k: int, eligible: row_set.RowSet, num_probes: int
    ) -> tuple[np.ndarray, np.ndarray]:
        selector = faiss.IDSelectorBitmap(eligible.bitmap)
        if isinstance(self._index, faiss.IndexHNSW):
            width = _search_width(self._index, k, eligible)
            parameters: Any = faiss.SearchParametersHNSW(efSearch=width, sel=selector)
        elif self._ivf is not None:
            parameters = faiss.SearchParametersIVF(nprobe=num_probes, sel=selector)
        else:
            parameters = faiss.SearchParameters(sel=selector)
        if self._refined is not None:
            return self._refined.search(queries, k, parameters)
        return self._index.search(queries, k, params=parameters)

    def _subset(self, eligible: row_set.RowSet) -> Any:
        """Returns a flat index of the eligible ads, from the cache if possible."""
        with self._lock:
            subset = self._kept.get(eligible)
            if subset is not None:
                self._kept.move_to_end(eligible)
                return subset
        subset = self._gather(eligible.rows)
        size = _kept_size(eligible, subset)
        with self._lock:
            if size <= _MAX_KEPT_BYTES and eligible not in self._kept:
                self._kept[eligible] = subset
                self._kept_bytes += size
            while self._kept_bytes > _MAX_KEPT_BYTES or len(self._kept) > _MAX_KEPT:
                self._kept_bytes -= _kept_size(*self._kept.popitem(last=False))
        return subset

    def _gather(self, rows: np.ndarray) -> Any:
        if isinstance(self._storage, faiss.IndexScalarQuantizer):
            quantizer = faiss.IndexScalarQuantizer(
                self._index.d, self._storage.sq.qtype, faiss.METRIC_INNER_PRODUCT
            )
            # With the quantizer of the storage, its codes can be copied.
            quantizer.sq = self._storage.sq
            quantizer.is_trained = True
            quantizer.add_sa_codes(refinement.codes(self._storage)[rows])
            return quantizer
        subset: Any = faiss.IndexFlatIP(self._index.d)
        if isinstance(self._storage, faiss.IndexFlat):
            subset.add_sa_codes(refinement.codes(self._storage)[rows])
        elif self._storage is None:
            # Maps ads to cells, with 8 bytes an ad; built on first use.
            with self._lock:
                self._ivf.make_direct_map()
            subset.add(self._index.reconstruct_batch(rows))
        else:
            subset.add(self._storage.reconstruct_batch(rows))
        return subset


def _empty_result(num_queries: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns empty scores and rows, for no queries or k = 0."""
    return np.empty((num_queries, k), np.float32), np.empty((num_queries, k), np.int64)


def _kept_size(eligible: row_set.RowSet, subset: Any) -> int:
    """Returns the size of a cached subset with its row set, in bytes."""
    return subset.ntotal * subset.code_size + eligible.nbytes + eligible.rows.nbytes


def _storage(index: Any) -> Any:
    """Returns the index that stores the vectors in row order, or None."""
    if isinstance(index, faiss.IndexRefine):
        return faiss.downcast_index(index.refine_index)
    if isinstance(index, faiss.IndexHNSW):
        return faiss.downcast_index(index.storage)
    return None if faiss.try_extract_index_ivf(index) else index


def _search_width(index: Any, k: int, eligible: row_set.RowSet) -> int:
    """Returns the width of an HNSW search, scaled by N / E because not all its ads are eligible."""
    width = max(k, index.hnsw.efSearch) * eligible.num_rows / eligible.count
    return min(math.ceil(width), index.ntotal)
