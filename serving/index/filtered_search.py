"""Searches a FAISS index for the best of the eligible ads.

Two ways, whichever is cheaper for the number of eligible ads:

    exact    the vectors of the eligible ads are gathered into an index of their own, which is
             kept for the next query with the same filter, and searched whole
    index    the index itself is searched with a selector, more widely the fewer ads are eligible

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

# faiss's type stubs know neither its subclasses nor its search parameters.
_faiss: Any = faiss

# Measured at a million ads of 256 dimensions, in nanoseconds: an IVF index takes 8 for each ad in
# the probed cells, eligible or not; to gather an eligible ad takes 250, to search it then 30; an
# ad kept open in an HNSW search takes 2,700.
_GATHER_COST, _GATHERED_COST, _OPEN_COST = 32, 4, 340
# A filter that has come so often is worth gathering more ads for.
_USES_TO_GATHER = 3
# Up to as many ads the gathering is done in milliseconds, whatever the index would take.
_ALWAYS_EXACT = 20_000
_MAX_KEPT_BYTES = 128_000_000
# As many sets as an index resolves filters to and remembers: others do not come again.
_MAX_KEPT = 128


class FilteredSearch:
    """Filtered searches of one index. Calls from several threads are safe.

    Args:
        index: Inner product: Flat, IVF, HNSW, or one of them under `IndexRefine`.
        refined: The second stage of an `IndexRefine`; None = faiss's own.
        always_exact: Up to as many eligible ads are searched exactly; None = as measured.
    """

    def __init__(
        self,
        index: Any,
        refined: refinement.Refinement | None = None,
        *,
        always_exact: int | None = None,
    ) -> None:
        self._index = index
        self._refined = refined
        self._always_exact = _ALWAYS_EXACT if always_exact is None else always_exact
        self._ivf = _faiss.try_extract_index_ivf(index)
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
            k: Ads wanted, positive.
            eligible: Of the N ads.

        Returns:
            Scores [B, min(k, E)] float32, descending, and catalogue rows, int64, alike.
        """
        k = min(k, eligible.count)
        if k == 0 or not len(queries):
            return _nothing(len(queries), k)
        with self._lock:
            self._uses[eligible] = self._uses.get(eligible, 0) + 1
        if self.is_exact(eligible, k):
            return self._exact(queries, k, eligible)
        scores, rows = self._with_selector(queries, k, eligible, self._num_probes(eligible))
        short = np.flatnonzero((rows < 0).any(axis=1))
        if short.size:
            # The probed cells, or the part of the graph that was reached, hold fewer than k.
            scores[short], rows[short] = self.exhaustive(queries[short], k, eligible)
        return scores, rows

    def is_exact(self, eligible: row_set.RowSet, k: int) -> bool:
        """Returns whether the eligible ads are gathered and searched exactly."""
        looked_at = eligible.num_rows
        if self._ivf is not None:
            looked_at = looked_at * self._num_probes(eligible) // self._ivf.nlist
        elif isinstance(self._index, faiss.IndexHNSW):
            looked_at = _OPEN_COST * _search_width(self._index, k, eligible)
        if eligible.count <= max(self._always_exact, looked_at // _GATHER_COST):
            return True
        return (
            self._uses.get(eligible, 0) >= _USES_TO_GATHER
            and eligible.count <= looked_at // _GATHERED_COST
            # A few such filters fit.
            and 4 * eligible.count * self._index.d <= _MAX_KEPT_BYTES
        )

    def exhaustive(
        self, queries: np.ndarray, k: int, eligible: row_set.RowSet
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compares every eligible ad, as the most exact vectors that the index has tell.

        Args:
            queries: [B, D] float32, contiguous and finite.
            k: Ads wanted, at most E.
            eligible: Of the N ads.
        """
        if k == 0:
            return _nothing(len(queries), k)
        if self._storage is None:
            return self._with_selector(queries, k, eligible, self._ivf.nlist)
        selector = _faiss.IDSelectorBitmap(eligible.bitmap)
        parameters = _faiss.SearchParameters(sel=selector)
        return self._storage.search(queries, k, params=parameters)

    def _num_probes(self, eligible: row_set.RowSet) -> int:
        """Returns the cells to probe.

        More by the root of how many times fewer ads are eligible: measured, recall is then at
        least that of unfiltered searches, at random filters and at whole neighbourhoods.
        """
        if self._ivf is None:
            return 0
        times_fewer = eligible.num_rows / eligible.count
        return min(math.ceil(self._ivf.nprobe * math.sqrt(times_fewer)), self._ivf.nlist)

    def _with_selector(
        self, queries: np.ndarray, k: int, eligible: row_set.RowSet, num_probes: int
    ) -> tuple[np.ndarray, np.ndarray]:
        selector = _faiss.IDSelectorBitmap(eligible.bitmap)
        if self._refined is not None:
            parameters = _parameters(self._refined.ivf, selector, k, eligible, num_probes)
            return self._refined.search(queries, k, parameters)
        parameters = _parameters(self._index, selector, k, eligible, num_probes)
        return self._index.search(queries, k, params=parameters)

    def _exact(
        self, queries: np.ndarray, k: int, eligible: row_set.RowSet
    ) -> tuple[np.ndarray, np.ndarray]:
        scores, places = self._subset(eligible).search(queries, k)
        return scores, eligible.rows[places]

    def _subset(self, eligible: row_set.RowSet) -> Any:
        """Returns an index of the eligible ads alone."""
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
            # Its codes are those of the storage: copied, not made again.
            quantizer.sq = self._storage.sq
            quantizer.is_trained = True
            quantizer.add_sa_codes(refinement.codes(self._storage)[rows])
            return quantizer
        subset: Any = faiss.IndexFlatIP(self._index.d)
        if isinstance(self._storage, faiss.IndexFlat):
            subset.add_sa_codes(refinement.codes(self._storage)[rows])
        elif self._storage is None:
            self._make_direct_map()
            subset.add(self._index.reconstruct_batch(rows))
        else:
            subset.add(self._storage.reconstruct_batch(rows))
        return subset

    def _make_direct_map(self) -> None:
        # Says in which cell an ad lies, 8 bytes an ad; made when it is first needed.
        with self._lock:
            self._ivf.make_direct_map()


def _nothing(num_queries: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns scores and rows where there are no queries, or none wants an ad."""
    return np.empty((num_queries, k), np.float32), np.empty((num_queries, k), np.int64)


def _kept_size(eligible: row_set.RowSet, subset: Any) -> int:
    """Returns the bytes of a subset that is kept, with the set that it is found by."""
    return subset.ntotal * subset.code_size + eligible.nbytes + eligible.rows.nbytes


def _storage(index: Any) -> Any:
    """Returns the index that holds a vector for each row, one after the other; None if none."""
    if isinstance(index, faiss.IndexRefine):
        return _faiss.downcast_index(index.refine_index)
    if isinstance(index, faiss.IndexHNSW):
        return _faiss.downcast_index(index.storage)
    return None if _faiss.try_extract_index_ivf(index) else index


def _search_width(index: Any, k: int, eligible: row_set.RowSet) -> int:
    """Returns the ads that an HNSW search keeps open: most that it meets are not eligible."""
    width = max(k, index.hnsw.efSearch) * eligible.num_rows / eligible.count
    return min(math.ceil(width), index.ntotal)


def _parameters(
    index: Any, selector: Any, k: int, eligible: row_set.RowSet, num_probes: int
) -> Any:
    if isinstance(index, faiss.IndexRefine):
        base = _faiss.downcast_index(index.base_index)
        return _faiss.IndexRefineSearchParameters(
            k_factor=index.k_factor,
            base_index_params=_parameters(base, selector, k, eligible, num_probes),
        )
    if isinstance(index, faiss.IndexPreTransform):
        inner = _faiss.downcast_index(index.index)
        return _faiss.SearchParametersPreTransform(
            index_params=_parameters(inner, selector, k, eligible, num_probes)
        )
    if isinstance(index, faiss.IndexHNSW):
        width = _search_width(index, k, eligible)
        return _faiss.SearchParametersHNSW(efSearch=width, sel=selector)
    if isinstance(index, faiss.IndexIVF):
        return _faiss.SearchParametersIVF(nprobe=num_probes, sel=selector)
    return _faiss.SearchParameters(sel=selector)
