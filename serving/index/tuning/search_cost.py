"""Counts the work of a search, so that indexes can be compared.

Unlike a time, the count does not depend on how busy the machine is. Its unit is the inner product
of a query with a float vector that is read in sequence. Other work is weighted by its time relative
to that, measured with 256 dimensions on one core of a server (ADR 38).

Shapes: N ads, D embedding size, Q queries.
"""

import faiss
import numpy as np

from serving.index import ivfpq, search

# A vector of 8 bits per dimension, read in sequence.
_BYTES = 0.6
# A 4-bit code per two dimensions, scanned in registers.
_CODE = 0.12
# A stored vector gathered by its row and rescored, including its share of selecting the best.
_RESCORED = 3.3
# A vector that a graph search visits; it is seldom in a cache.
_GRAPH = 5.0


def count_distances(searcher: search.Searcher, queries: np.ndarray, k: int) -> float:
    """Returns the mean work of a query with the current search parameters.

    Args:
        searcher: Index of N ads.
        queries: [Q, D] float32.
        k: Number of ads for each query.
    """
    if searcher.structure == "Flat":
        return float(searcher.num_ads)
    if searcher.structure == "HNSW":
        faiss.cvar.hnsw_stats.reset()
        searcher.search(queries, k)
        return _GRAPH * faiss.cvar.hnsw_stats.ndis / len(queries)
    if searcher.refinement is None:
        ivf = faiss.downcast_index(faiss.extract_index_ivf(searcher.index))
        weight = 1.0 if isinstance(ivf, faiss.IndexIVFFlat) else _BYTES
        return ivf.nlist + weight * _num_probed(ivf, queries)
    ivf, matrix = ivfpq.first_stage(searcher.index)
    code = _CODE * ivf.pq.M / (searcher.dimension / 2)
    rescored = _RESCORED * searcher.refinement.num_candidates(k)
    # The matrix has D rows.
    return searcher.dimension + ivf.nlist + code * _num_probed(ivf, queries @ matrix.T) + rescored


def _num_probed(ivf: faiss.IndexIVF, queries: np.ndarray) -> float:
    """Returns the mean number of vectors in the cells that a query probes."""
    sizes = np.array([ivf.get_list_size(number) for number in range(ivf.nlist)])
    _, cells = ivf.quantizer.search(np.ascontiguousarray(queries), ivf.nprobe)
    return float(sizes[cells].sum(axis=1).mean())
