"""Searches an inner-product FAISS index.

Shapes: B queries, N ads, D embedding size.
"""

import os
from collections.abc import Mapping
from concurrent import futures
from typing import Any

import faiss
import numpy as np

from serving import requests
from serving.index import backend, filtered_search, index_build, refinement
from serving.index.filters import eligibility, row_set

INDEX_FILE = "index.faiss"

# faiss's `implem` for fast-scan search cell by cell, which is 10 % faster than the default for
# single queries, and slower for batches.
_CELL_BY_CELL = 11


class Searcher:
    """An inner-product FAISS index whose searches always return as many ads as requested.

    Attributes:
        index: The faiss index.
        structure: `Flat`, `IVF`, `IVFPQ` or `HNSW`, by which it is searched; `other` has no search
            parameters.
        kind: The structure, or the factory string that the index was built from.
        num_threads: Number of OpenMP threads per search. One is best for single queries: starting
            threads costs more than they save, and requests already run in parallel.
        refinement: Rescores the best codes; None if the index does not rescore.
    """

    def __init__(self, index: Any, num_threads: int = 1, kind: str | None = None) -> None:
        self.index = index
        self.num_threads = num_threads
        self._ivf = faiss.try_extract_index_ivf(index)
        is_refined = isinstance(index, faiss.IndexRefine)
        if isinstance(index, faiss.IndexHNSW):
            self.structure = "HNSW"
        elif self._ivf is not None:
            self.structure = "IVFPQ" if is_refined else "IVF"
        else:
            self.structure = "Flat" if isinstance(index, faiss.IndexFlat) else "other"
        self.kind = self.structure if kind is None else kind
        self.refinement = refinement.Refinement(index) if is_refined else None
        self._pool = futures.ThreadPoolExecutor(num_threads) if num_threads > 1 else None
        self._filtered = filtered_search.FilteredSearch(index, self.refinement)

    @property
    def num_ads(self) -> int:
        """Number of ads N."""
        return self.index.ntotal

    @property
    def dimension(self) -> int:
        """Embedding size D."""
        return self.index.d

    @property
    def is_exact(self) -> bool:
        """Whether a search compares the float vectors of all ads."""
        return self.structure == "Flat"

    def search_parameters(self) -> dict[str, Any]:
        """Returns the current search parameters, for the manifest."""
        if self.structure == "HNSW":
            return {"search_width": int(self.index.hnsw.efSearch)}
        if self._ivf is None:
            return {}
        parameters: dict[str, Any] = {"num_probes": int(self._ivf.nprobe)}
        if self.refinement is not None:
            parameters["refine_factor"] = self.index.k_factor
        return parameters

    def set_search_parameters(self, values: Mapping[str, Any]) -> None:
        """Sets what `search_parameters` returns."""
        if "search_width" in values:
            self.index.hnsw.efSearch = values["search_width"]
        if "num_probes" in values:
            self._ivf.nprobe = values["num_probes"]
        if "refine_factor" in values:
            self.index.k_factor = values["refine_factor"]

    def place(self) -> dict[str, Any]:
        """Returns nothing: the index is a file of the release."""
        return {}

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes the index into a directory."""
        faiss.write_index(self.index, os.path.join(directory, INDEX_FILE))

    def eligible(
        self, filters: requests.Filters, catalog: eligibility.Eligibility
    ) -> row_set.RowSet:
        """Returns the ads that match filters returned by `FilterFields.check`."""
        return catalog.eligible(filters)

    def prepare_filters(self, catalog: eligibility.Eligibility) -> None:
        """Builds the inverted indexes of all ad fields."""
        catalog.prepare()

    def close(self) -> None:
        """Does nothing: the memory is freed with the last reference."""

    def search(
        self,
        query_embeddings: np.ndarray,
        k: int,
        eligible: row_set.RowSet | None = None,
        timeout_seconds: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Finds the ads with the greatest inner products.

        Args:
            query_embeddings: [B, D] float32.
            k: Number of ads to return for each query.
            eligible: Rows that may be returned. None allows all.
            timeout_seconds: Not used: a search in process takes a millisecond.

        Returns:
            Scores [B, min(k, E)] float32, descending, and catalog rows of the same shape, int64,
            with E eligible ads.

        Raises:
            ValueError: k is not positive.
            BundleError: A query embedding is not finite.
        """
        queries, k = backend.checked_queries(query_embeddings, k), min(k, self.num_ads)
        if eligible is not None and eligible.count < self.num_ads:
            with index_build.threads(self.num_threads):
                return self._filtered.search(queries, k, eligible)
        if self._pool is None or len(queries) == 1:
            return self._search_whole(queries, k, self.num_threads)
        # faiss and NumPy release the GIL while they compute.
        parts = np.array_split(queries, min(self.num_threads, len(queries)))
        found = list(self._pool.map(lambda part: self._search_whole(part, k, 1), parts))
        return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])

    def search_exactly(
        self, query_embeddings: np.ndarray, k: int, eligible: row_set.RowSet
    ) -> tuple[np.ndarray, np.ndarray]:
        """Finds the best of the eligible ads exhaustively, with all threads.

        The result is as exact as the vectors that the index stores.

        Args:
            query_embeddings: [B, D] float32.
            k: Number of ads for each query.
            eligible: The eligible catalog rows.

        Returns:
            Inner products and catalog rows, as from `search`.
        """
        k = min(k, eligible.count)
        return self._filtered.exhaustive(np.ascontiguousarray(query_embeddings), k, eligible)

    def _search_whole(
        self, queries: np.ndarray, k: int, num_threads: int
    ) -> tuple[np.ndarray, np.ndarray]:
        with index_build.threads(num_threads):
            scores, rows = self._search(queries, k)
            short = np.flatnonzero((rows < 0).any(axis=1))
            if short.size:
                scores[short], rows[short] = self._search_wider(queries[short], k)
        return scores, rows

    def _search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if self.structure == "HNSW":
            width = max(k, self.index.hnsw.efSearch)
            return self.index.search(queries, k, params=faiss.SearchParametersHNSW(efSearch=width))
        if self.refinement is not None:
            # A race between threads can make a search slower, but not wrong.
            self.refinement.ivf.implem = _CELL_BY_CELL if len(queries) == 1 else 0
            return self.refinement.search(queries, k)
        return self.index.search(queries, k)

    def _search_wider(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        # The probed cells contain fewer than k ads, or the graph search reached fewer.
        num_lists = 0 if self._ivf is None else self._ivf.nlist
        num_probes = 0 if self._ivf is None else self._ivf.nprobe
        while num_probes < num_lists:
            num_probes = min(4 * num_probes, num_lists)
            parameters: Any = faiss.SearchParametersIVF(nprobe=num_probes)
            if self.refinement is not None:
                scores, rows = self.refinement.search(queries, k, parameters)
            else:
                scores, rows = self.index.search(queries, k, params=parameters)
            if not (rows < 0).any():
                return scores, rows
        # Fast scan omits codes with the minimum score, which are all codes if all are equal.
        return self._filtered.exhaustive(queries, k, row_set.RowSet.full(self.num_ads))


def read_index(path: str | os.PathLike[str]) -> Any:
    """Opens a memory-mapped index. The file must not change while the index is in use.

    Vectors are mapped: their pages are read on first use, and shared between processes. Centroids,
    graph links, and cells of 4-bit codes, which faiss aligns in its own memory, are read when the
    index is opened (0.1 GB for a million ads of 64 bytes).

    Raises:
        RuntimeError: The file cannot be read, or is not a faiss index.
    """
    return faiss.read_index(os.fspath(path), faiss.IO_FLAG_MMAP_IFC)
