"""Widens the search of an index until it reaches a target recall.

Shapes: N ads, D embedding size, Q queries.
"""

from typing import Any

import faiss
import numpy as np

from serving.index import exact_search, search
from serving.index.milvus import milvus_index
from serving.index.tuning import index_recall

# Above this, rescoring more candidates costs more than it gains.
_MAX_REFINE_FACTOR = 16.0


def widen(
    searcher: search.Searcher | milvus_index.MilvusIndex,
    embeddings: np.ndarray,
    queries: np.ndarray,
    k: int,
    target_recall: float,
) -> None:
    """Widens the search until recall at k reaches the target, or no longer improves.

    Each step doubles the parameter that increases recall the most.

    Args:
        searcher: Index of `embeddings`. Its search parameters are changed.
        embeddings: [N, D] float32.
        queries: [Q, D] float32, representative query embeddings.
        k: Number of ads for each query.
        target_recall: Target in [0, 1].
    """
    exact_rows = exact_search.exact_rows([embeddings], queries, k)
    recall = index_recall.mean_recall(searcher, queries, exact_rows)
    while recall < target_recall:
        trials = []
        for owner, name, maximum in _parameters(searcher):
            before = getattr(owner, name)
            wider = min(2 * before, maximum)
            if wider > before:
                setattr(owner, name, wider)
                trials.append(
                    (index_recall.mean_recall(searcher, queries, exact_rows), owner, name, wider)
                )
                setattr(owner, name, before)
        if not trials:
            return
        best_recall, owner, name, value = max(trials, key=lambda trial: trial[0])
        if best_recall <= recall:
            return
        setattr(owner, name, value)
        recall = best_recall


def _parameters(
    searcher: search.Searcher | milvus_index.MilvusIndex,
) -> list[tuple[Any, str, Any]]:
    """Returns owner, name and maximum of each search parameter."""
    if isinstance(searcher, milvus_index.MilvusIndex):
        return [(searcher, "search_width", milvus_index.MAX_WIDTH)]
    if searcher.structure == "HNSW":
        return [(searcher.index.hnsw, "efSearch", searcher.num_ads)]
    if searcher.structure in ("Flat", "other"):
        return []
    ivf = faiss.extract_index_ivf(searcher.index)
    probes = (ivf, "nprobe", ivf.nlist)
    if searcher.structure == "IVF":
        return [probes]
    return [probes, (searcher.index, "k_factor", _MAX_REFINE_FACTOR)]
