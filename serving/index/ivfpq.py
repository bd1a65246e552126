"""The index of kind IVFPQ: cells of 4-bit codes in a transformed space, and vectors to rescore.

    IndexRefine
      base_index    IndexPreTransform: a matrix maps queries to the space of `ivfpq_space`
        index       IndexIVFPQFastScan of the ads in that space
      refine_index  the original ads

faiss can read, write and search it. Ads must be added with `add`: faiss would transform them with
the matrix of queries, and assign them to the cell with the greatest inner product instead of the
nearest one.

Shapes: N ads, Q queries, D embedding size.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np

from serving.index import ivfpq_space

# Number of rows transformed at a time: 0.1 GB with 256 dimensions.
_BLOCK = 100_000


def train(index: Any, ads: np.ndarray, queries: np.ndarray | None) -> bool:
    """Trains an index created by the factory, whose clustering parameters are set.

    Args:
        queries: [Q, D] float32, representative query embeddings, or None.
    """
    base = faiss.downcast_index(index.base_index)
    ivf = faiss.downcast_index(base.index)
    # Codes of residuals are more exact. With inner products, all cells share the lookup table of a
    # query, so the search is as fast.
    ivf.by_residual = True
    weights = ivfpq_space.weights(ads, queries, ivf.cp)
    moved = ads if weights is None else ads @ weights.T
    centroids = ivfpq_space.cells(moved, weights, ivf.nlist, ivf.cp)
    matrix = ivfpq_space.rotation(moved, centroids, ivf.pq.M)
    ivf.quantizer.add(centroids @ matrix.T)
    ivf.quantizer.is_trained = True
    with _nearest_cells(ivf):
        ivf.train(moved @ matrix.T)
    _set_matrix(base, ivfpq_space.counterpart(matrix if weights is None else matrix @ weights))
    base.is_trained = True
    index.refine_index.train(ads)
    index.is_trained = True
    return weights is not None


def add(index: Any, ads: np.ndarray) -> None:
    """Appends ads [rows, D] float32, contiguous, to a trained index."""
    ivf, query_matrix = first_stage(index)
    matrix = ivfpq_space.counterpart(query_matrix)
    with _nearest_cells(ivf):
        for start in range(0, len(ads), _BLOCK):
            ivf.add(ads[start : start + _BLOCK] @ matrix.T)
    index.refine_index.add(ads)
    index.base_index.ntotal = index.ntotal = index.refine_index.ntotal


def first_stage(index: Any) -> tuple[Any, np.ndarray]:
    """Returns the index of codes, and the matrix [D, D] float32 that maps queries to its space."""
    base: Any = faiss.downcast_index(index.base_index)
    matrix = faiss.downcast_VectorTransform(base.chain.at(0)).A
    ivf = faiss.downcast_index(base.index)
    return ivf, faiss.vector_to_array(matrix).reshape(index.d, index.d)


@contextlib.contextmanager
def _nearest_cells(ivf: Any) -> Iterator[None]:
    """Assigns vectors to the cell of the nearest centroid in a `with` block."""
    query_quantizer = ivf.quantizer
    ad_quantizer: Any = faiss.IndexFlatL2(ivf.d)
    ad_quantizer.add(query_quantizer.reconstruct_n(0, ivf.nlist))
    ivf.quantizer = ad_quantizer
    # faiss's wrapper assumes that the quantizer owns it now.
    ad_quantizer.thisown = True
    try:
        yield
    finally:
        ivf.quantizer = query_quantizer


def _set_matrix(base: Any, matrix: np.ndarray) -> None:
    transform = faiss.downcast_VectorTransform(base.chain.at(0))
    faiss.copy_array_to_vector(np.ascontiguousarray(matrix).reshape(-1), transform.A)
    transform.is_orthonormal = False
    transform.is_trained = True
