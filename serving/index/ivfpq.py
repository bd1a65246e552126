"""The index of kind IVFPQ: cells of 4-bit codes, in a space of their own, and vectors to refine.

    IndexRefine
      base_index    IndexPreTransform: a matrix puts queries into the space of codes (`ivfpq_space`)
        index       IndexIVFPQFastScan of the ads in that space
      refine_index  the ads as they are

faiss reads, writes and searches it as it is. To add ads is for `add` alone: faiss would put them
into the space as if they were queries, and into the cell of the greatest inner product, not of
the least distance, by which cells were made.

Shapes: N ads, Q queries, D embedding size.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np

from serving.index import ivfpq_space

# faiss's type stubs do not know its subclasses.
_faiss: Any = faiss

# Rows that are put into the space at once: a tenth of a gigabyte at 256 dimensions.
_BLOCK = 100_000


def train(index: Any, ads: np.ndarray, queries: np.ndarray | None, cells_on: Any = None) -> bool:
    """Trains an index that the factory made, its clustering parameters set.

    Args:
        index: Is trained in place.
        ads: [sample, D] float32, contiguous.
        queries: [Q, D] float32, as they will come; None = none are known.
        cells_on: As `ivfpq_space.cells` takes it.

    Returns:
        Whether queries weigh its space.
    """
    base = _faiss.downcast_index(index.base_index)
    ivf = _faiss.downcast_index(base.index)
    # Codes of what the cell leaves over: as many bits say it more exactly. With inner products
    # the table of a query still serves all cells, and no time is lost.
    ivf.by_residual = True
    weights = ivfpq_space.weights(ads, queries, ivf.cp)
    moved = ads if weights is None else ads @ weights.T
    centroids = ivfpq_space.cells(moved, weights, ivf.nlist, ivf.cp, cells_on)
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
    """Adds ads [rows, D] float32, contiguous, behind those that the index holds."""
    ivf, of_queries = first_stage(index)
    assert of_queries is not None, "ads are added to what `train` has trained"
    matrix = ivfpq_space.counterpart(of_queries)
    with _nearest_cells(ivf):
        for start in range(0, len(ads), _BLOCK):
            ivf.add(ads[start : start + _BLOCK] @ matrix.T)
    index.refine_index.add(ads)
    index.base_index.ntotal = index.ntotal = index.refine_index.ntotal


def first_stage(index: Any) -> tuple[Any, np.ndarray | None]:
    """Returns the index of the codes, and what puts queries into its space.

    That is a matrix [D, D] float32, or None in an index of an older release, which has no space of
    its own.
    """
    base: Any = _faiss.downcast_index(index.base_index)
    if not isinstance(base, faiss.IndexPreTransform):
        return base, None
    chain: Any = base.chain
    matrix = _faiss.downcast_VectorTransform(chain.at(0)).A
    ivf = _faiss.downcast_index(base.index)
    return ivf, faiss.vector_to_array(matrix).reshape(index.d, index.d)


@contextlib.contextmanager
def _nearest_cells(ivf: Any) -> Iterator[None]:
    """Lets vectors go into the cell of the nearest centroid meanwhile."""
    of_queries = ivf.quantizer
    of_ads: Any = faiss.IndexFlatL2(ivf.d)
    of_ads.add(of_queries.reconstruct_n(0, ivf.nlist))
    ivf.quantizer = of_ads
    # faiss's wrapper takes it for given away.
    of_ads.thisown = True
    try:
        yield
    finally:
        ivf.quantizer = of_queries


def _set_matrix(base: Any, matrix: np.ndarray) -> None:
    transform = _faiss.downcast_VectorTransform(base.chain.at(0))
    faiss.copy_array_to_vector(np.ascontiguousarray(matrix).reshape(-1), transform.A)
    transform.is_orthonormal = False
    transform.is_trained = True
