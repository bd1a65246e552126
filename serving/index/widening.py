"""Widens the search of one index until it finds enough.

Shapes: N ads, D embedding size, Q queries.
"""

from typing import Any

import faiss
import numpy as np

from serving.index import exact_search, search
from serving.index.tuning import index_recall

# faiss's type stubs do not know its subclasses.
_faiss: Any = faiss

# Beyond this the codes are the wrong ones; scoring ever more of them again does not pay.
_MAX_REFINE_FACTOR = 16.0


def widen(
    searcher: search.Searcher,
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
    wanted = exact_search.exact_rows([embeddings], queries, k)
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


def _knobs(searcher: search.Searcher) -> list[tuple[Any, str, Any]]:
    if searcher.kind == "HNSW":
        return [(searcher.index.hnsw, "efSearch", searcher.num_ads)]
    if searcher.kind == "Flat":
        return []
    ivf = _faiss.extract_index_ivf(searcher.index)
    probes = (ivf, "nprobe", ivf.nlist)
    if searcher.kind == "IVF":
        return [probes]
    return [probes, (searcher.index, "k_factor", _MAX_REFINE_FACTOR)]


def _recall(searcher: search.Searcher, queries: np.ndarray, wanted: np.ndarray) -> float:
    _, found = searcher.search(queries, wanted.shape[1])
    return float(index_recall.recall_of_rows(found, wanted).mean())
