"""Chooses the search parameters of an index: the least work that reaches the target recall.

Shapes: N ads, D embedding size, Q queries.
"""

import itertools
import math
from typing import Any

import faiss
import numpy as np

from serving.index import backend, exact_search, kinds, search
from serving.index.milvus import milvus_index

# Probed shares of the cells; refine factors; widths of graph searches, as multiples of k.
_PROBED = (1 / 64, 1 / 32, 5 / 128, 3 / 64, 1 / 16, 3 / 32, 1 / 8, 3 / 16, 1 / 4, 1 / 2, 1)
_REFINED = (1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0)
_WIDTHS = (1, 2, 4, 8, 16)
# Work of a scanned 4-bit code per two dimensions, and of a vector that is gathered and rescored, in
# inner products with a float vector that is read in sequence (ADR 38).
_CODE, _RESCORED = 0.12, 3.3
# Smaller gains in recall do not count.
_MIN_GAIN = 5e-4


def tune(
    searcher: search.Searcher | milvus_index.MilvusIndex,
    embeddings: np.ndarray,
    queries: np.ndarray,
    config: kinds.IndexConfig,
) -> None:
    """Sets the search parameters with the least work that reach `config.target_recall`.

    The target must be exceeded by a standard error over the queries. If no setting reaches it, the
    one with the highest recall is set.

    Args:
        embeddings: [N, D] float32.
        queries: [Q, D] float32, representative query embeddings.
    """
    exact_rows = exact_search.exact_rows([embeddings], queries, config.num_candidates)
    best, best_recall = searcher.search_parameters(), -1.0
    for setting in settings(searcher, config):
        searcher.set_search_parameters(setting)
        recalls = recall_of_rows(searcher.search(queries, exact_rows.shape[1])[1], exact_rows)
        recall, error = recalls.mean(), recalls.std() / math.sqrt(len(queries))
        if recall - error >= config.target_recall or recall == 1:
            return
        if recall >= best_recall + _MIN_GAIN:
            best, best_recall = setting, recall
    searcher.set_search_parameters(best)


def settings(
    searcher: search.Searcher | milvus_index.MilvusIndex, config: kinds.IndexConfig
) -> list[dict[str, Any]]:
    """Returns the search parameters to try, by ascending work; none if the index has none."""
    num_ads, k = searcher.num_ads, config.num_candidates
    names = searcher.search_parameters()
    if "search_width" in names:
        most = min(num_ads, milvus_index.MAX_WIDTH)
        return [{"search_width": width} for width in sorted({min(m * k, most) for m in _WIDTHS})]
    if "num_probes" not in names:
        return []
    assert isinstance(searcher, search.Searcher)
    num_lists = faiss.extract_index_ivf(searcher.index).nlist
    # Fewer cells would not contain enough ads.
    shares = [share for share in _PROBED if share > 2 * k / num_ads] or [1.0]
    probes = {max(math.ceil(share * num_lists), config.num_probes or 1) for share in shares}
    probed = [{"num_probes": number} for number in sorted({min(n, num_lists) for n in probes})]
    if "refine_factor" not in names:
        return probed
    pairs = [
        {**first, "refine_factor": factor} for first, factor in itertools.product(probed, _REFINED)
    ]

    def work(setting: dict[str, Any]) -> float:
        scanned = _CODE * setting["num_probes"] / num_lists * num_ads
        return scanned + _RESCORED * setting["refine_factor"] * k

    return sorted(pairs, key=work)


def recall_against_exact(
    searcher: backend.IndexBackend, embeddings: np.ndarray, queries: np.ndarray, k: int
) -> float:
    """Returns the share of the exact top k that the index finds, in [0, 1].

    Args:
        searcher: Index of `embeddings`.
        embeddings: [N, D] float32.
        queries: [Q, D] float32.
        k: Number of ads for each query.
    """
    wanted = exact_search.exact_rows([embeddings], queries, k)
    return float(recall_of_rows(searcher.search(queries, wanted.shape[1])[1], wanted).mean())


def recall_of_rows(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns the share of the wanted rows that were found, for each query.

    Args:
        found: [Q, any] rows found.
        wanted: [Q, k] rows to find.

    Returns:
        Recall [Q], in [0, 1]; 1 if k is 0.
    """
    if not wanted.shape[1]:
        return np.ones(len(wanted))
    pairs = zip(wanted, found, strict=True)
    return np.array([np.isin(w, f, assume_unique=True).mean() for w, f in pairs])
