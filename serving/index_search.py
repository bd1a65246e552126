"""Searches an inner-product FAISS index, measures it against exact search, and tunes it.

Shapes: B queries, N ads, D embedding size, Q tuning queries.
"""

from typing import Any

import faiss
import numpy as np

from serving import errors, index_build

# faiss's type stubs know neither its subclasses nor its search parameters.
_faiss: Any = faiss

# Beyond this the codes are the wrong ones; scoring ever more of them again does not pay.
_MOST_REFINED = 16.0


class Searcher:
    """An inner-product FAISS index that always gives as many ads as asked for.

    Attributes:
        index: The faiss index.
        kind: `Flat`, `IVF`, `IVFPQ` or `HNSW`.
        num_threads: OpenMP threads of a search. One is best for single queries: starting
            threads costs more than they save, and requests already run beside each other.
    """

    def __init__(self, index: Any, num_threads: int = 1) -> None:
        self.index = index
        self.num_threads = num_threads
        self._ivf = _faiss.try_extract_index_ivf(index)
        self._refined = isinstance(index, faiss.IndexRefine)
        if isinstance(index, faiss.IndexHNSW):
            self.kind = "HNSW"
        elif self._ivf is None:
            self.kind = "Flat"
        else:
            self.kind = "IVFPQ" if self._refined else "IVF"

    @property
    def num_ads(self) -> int:
        """N."""
        return self.index.ntotal

    @property
    def dimension(self) -> int:
        """D."""
        return self.index.d

    def search_parameters(self) -> dict[str, Any]:
        """Returns the search parameters in force, for the manifest."""
        if self.kind == "HNSW":
            return {"search_width": int(self.index.hnsw.efSearch)}
        if self.kind == "Flat":
            return {}
        parameters = {"num_probes": int(self._ivf.nprobe)}
        return {**parameters, "refine_factor": self.index.k_factor} if self._refined else parameters

    def search(self, query_embeddings: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Finds the ads with the greatest inner products.

        Args:
            query_embeddings: [B, D] float32.
            k: Ads wanted for each query.

        Returns:
            Scores [B, min(k, N)] float32, descending, and catalogue rows, int64, alike.

        Raises:
            ValueError: k is not positive.
            AdIndexError: A query embedding is not finite.
        """
        if k < 1:
            raise ValueError(f"k: expected a positive integer, got {k!r}.")
        k = min(k, self.num_ads)
        queries = np.ascontiguousarray(query_embeddings, dtype=np.float32)
        if not np.isfinite(queries).all():
            raise errors.AdIndexError(
                "Expected finite query embeddings, got NaN or infinity. The query tower fails on "
                "this request: train and export it again."
            )
        with index_build.threads(self.num_threads):
            scores, rows = self._search(queries, k)
            short = np.flatnonzero((rows < 0).any(axis=1))
            if short.size:
                scores[short], rows[short] = self._search_wider(queries[short], k)
        return scores, rows

    def _search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if self.kind == "HNSW":
            width = max(k, self.index.hnsw.efSearch)
            return self.index.search(queries, k, params=_faiss.SearchParametersHNSW(efSearch=width))
        return self.index.search(queries, k)

    def _search_wider(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        # The probed cells held fewer than k ads, or the graph did not reach as many.
        if self._ivf is None:
            return self.index.storage.search(queries, k)
        num_probes = self._ivf.nprobe
        while True:
            num_probes = min(4 * num_probes, self._ivf.nlist)
            parameters: Any = _faiss.SearchParametersIVF(nprobe=num_probes)
            if self._refined:
                parameters = _faiss.IndexRefineSearchParameters(
                    k_factor=self.index.k_factor, base_index_params=parameters
                )
            scores, rows = self.index.search(queries, k, params=parameters)
            if num_probes == self._ivf.nlist or not (rows < 0).any():
                return scores, rows


def recall_against_exact(
    searcher: Searcher, embeddings: np.ndarray, queries: np.ndarray, k: int
) -> float:
    """Returns the share of the exact top k that the index finds, in [0, 1].

    Args:
        searcher: Over the same embeddings.
        embeddings: [N, D] float32.
        queries: [Q, D] float32.
        k: Ads for each query.
    """
    return _recall(searcher, queries, _exact_rows(embeddings, queries, k))


def tune(
    searcher: Searcher,
    embeddings: np.ndarray,
    queries: np.ndarray,
    k: int,
    target_recall: float,
) -> None:
    """Widens the search until it reaches a recall at k, or nothing helps any more.

    Each step doubles the one parameter that gains most.

    Args:
        searcher: Over the same embeddings; its search parameters are changed.
        embeddings: [N, D] float32.
        queries: [Q, D] float32, as they will come online.
        k: Ads for each query.
        target_recall: In [0, 1].
    """
    wanted = _exact_rows(embeddings, queries, k)
    recall = _recall(searcher, queries, wanted)
    while recall < target_recall:
        trials = []
        for owner, name, most in _knobs(searcher):
            before = getattr(owner, name)
            wider = min(2 * before, most)
            if wider > before:
                setattr(owner, name, wider)
                trials.append((_recall(searcher, queries, wanted), owner, name, wider))
                setattr(owner, name, before)
        if not trials:
            return
        gained, owner, name, value = max(trials, key=lambda trial: trial[0])
        if gained <= recall:
            return
        setattr(owner, name, value)
        recall = gained


def _knobs(searcher: Searcher) -> list[tuple[Any, str, Any]]:
    if searcher.kind == "HNSW":
        return [(searcher.index.hnsw, "efSearch", searcher.num_ads)]
    if searcher.kind == "Flat":
        return []
    ivf = _faiss.extract_index_ivf(searcher.index)
    probes = (ivf, "nprobe", ivf.nlist)
    if searcher.kind == "IVF":
        return [probes]
    return [probes, (searcher.index, "k_factor", _MOST_REFINED)]


def _exact_rows(embeddings: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    exact = faiss.IndexFlatIP(embeddings.shape[1])
    exact.add(np.ascontiguousarray(embeddings, dtype=np.float32))
    _, rows = exact.search(np.ascontiguousarray(queries, dtype=np.float32), min(k, len(embeddings)))
    return rows


def _recall(searcher: Searcher, queries: np.ndarray, wanted: np.ndarray) -> float:
    _, found = searcher.search(queries, wanted.shape[1])
    return float(np.mean([np.isin(w, f).mean() for w, f in zip(wanted, found, strict=True)]))
