"""The space of an IVFPQ index's cells and codes, where distances are what queries see of them.

Multiplying ads by a matrix and queries by its transposed inverse leaves every inner product as it
is, q·x = (A⁻ᵀq)·(Ax), but not the distances that k-means makes cells and code books by. Two
matrices, one after the other:

    weights    (E[q qᵀ] + ridge)^½. The squared length of Ae is then the mean squared error that an
               error e of a vector makes in the inner product with a query. Where queries of a
               trained tower lie in few directions, only there need cells tell ads apart: a quarter
               of the cells then holds as much of what queries want. Where they lie as the ads do
               it does harm, hence it is tried on a sample first.
    rotation   What the cells leave over is rotated so that all codes have as much to say (OPQ).

Shapes: N ads, Q queries, D embedding size, C cells.

References: Guo, Kumar, Choromanski and Simcha 2016 (Quantization based Fast Inner Product Search:
code books by the covariance of queries); Ge, He, Ke and Sun 2013 (OPQ).
"""

from typing import Any

import faiss
import numpy as np

from serving.index import exact_search, kinds

# faiss's type stubs do not know its subclasses.
_faiss: Any = faiss

# What directions weigh at least, in which no query lies, in multiples of the mean direction.
_RIDGE = 3.0
_BITS = 4
# Steps of learning the rotation, in each one of k-means, and the ads it is learnt from.
_ROTATIONS, _ROTATION_SAMPLE = 50, 16_384
# The trial of the weights: ads, ads wanted of them, the cells, and the share of these searched.
_TRIAL_ADS, _TRIAL_K, _TRIAL_CELLS, _TRIAL_PROBED = 65_536, 50, 512, 1 / 32
_MIN_QUERIES = 32


def weights(ads: np.ndarray, queries: np.ndarray | None, clustering: Any) -> np.ndarray | None:
    """Returns the weights [D, D] float32, or None where the space is better left as it is.

    Half of the queries say the weights, the others which cells find more of what they want.

    Args:
        ads: [N, D] float32, a sample.
        queries: [Q, D] float32, finite, as they will come; None = none are known.
        clustering: faiss's parameters of k-means.
    """
    if queries is None or len(queries) < _MIN_QUERIES:
        return None
    ads = ads[:: -(-len(ads) // _TRIAL_ADS)]
    wanted = exact_search.exact_rows([ads], queries[1::2], _TRIAL_K)
    tried = weighted(queries[::2])
    plain, with_weights = (
        _found(ads, queries[1::2], wanted, matrix, clustering) for matrix in (None, tried)
    )
    return weighted(queries) if with_weights > plain else None


def weighted(queries: np.ndarray) -> np.ndarray:
    """Returns the weights [D, D] float32 that queries [Q, D] float32 give, whatever the ads."""
    moments = queries.T.astype(np.float64) @ queries / len(queries)
    values, vectors = np.linalg.eigh(moments)
    mean = max(values.mean(), np.finfo(np.float32).tiny)
    # Their mean square is 1, so that vectors keep about their length.
    lengths = np.sqrt((np.maximum(values, 0) / mean + _RIDGE) / (1 + _RIDGE))
    return ((vectors * lengths) @ vectors.T).astype(np.float32)


def cells(
    ads: np.ndarray, matrix: np.ndarray | None, num_cells: int, clustering: Any, on: Any = None
) -> np.ndarray:
    """Returns centroids [C, D] float32, of unit length where there are no weights.

    Of unit length an inner product says how near a cell is and not how tight (Dhillon and Modha
    2001, spherical k-means).

    Args:
        ads: [N, D] float32, weighted.
        matrix: The weights; None = none.
        num_cells: C.
        clustering: faiss's parameters of k-means.
        on: An empty index that finds the nearest centroid, such as a GPU's; None = a CPU's.
    """
    clustering.spherical = matrix is None
    learner = _faiss.Clustering(ads.shape[1], num_cells, clustering)
    learner.train(ads, faiss.IndexFlatL2(ads.shape[1]) if on is None else on)
    return faiss.vector_to_array(learner.centroids).reshape(num_cells, -1)


def nearest(ads: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Returns the cell [N] of each ad, that of the nearest centroid."""
    exact = faiss.IndexFlatL2(ads.shape[1])
    exact.add(centroids)
    return exact.search(ads, 1)[1][:, 0]


def rotation(ads: np.ndarray, centroids: np.ndarray, num_codes: int) -> np.ndarray:
    """Learns the rotation [D, D] float32 of what cells leave over.

    Args:
        ads: [N, D] float32, weighted.
        centroids: [C, D] float32.
        num_codes: Of each ad, each of D / num_codes dimensions.
    """
    ads = ads[:: -(-len(ads) // _ROTATION_SAMPLE)]
    residuals = ads - centroids[nearest(ads, centroids)]
    dimension = ads.shape[1]
    learner = _faiss.OPQMatrix(dimension, num_codes)
    learner.niter, learner.niter_pq = _ROTATIONS, 1
    learner.pq = _faiss.ProductQuantizer(dimension, num_codes, _BITS)
    learner.train(residuals)
    return faiss.vector_to_array(learner.A).reshape(dimension, dimension)


def counterpart(matrix: np.ndarray) -> np.ndarray:
    """Returns the matrix [D, D] float32 of queries that goes with one of ads, and the reverse."""
    return np.linalg.inv(matrix.astype(np.float64)).T.astype(np.float32)


def _found(
    ads: np.ndarray,
    queries: np.ndarray,
    wanted: np.ndarray,
    matrix: np.ndarray | None,
    clustering: Any,
) -> float:
    """Returns the share of the wanted rows [Q, k] that lie in the first cells."""
    moved = ads if matrix is None else ads @ matrix.T
    asked = queries if matrix is None else queries @ counterpart(matrix).T
    num_cells = min(_TRIAL_CELLS, kinds.default_lists(len(ads)))
    centroids = cells(moved, matrix, num_cells, clustering)
    cell = nearest(moved, centroids)
    probed = np.argsort(-(asked @ centroids.T), axis=1, kind="stable")
    probed = probed[:, : max(1, round(_TRIAL_PROBED * num_cells))]
    return float(np.mean([np.isin(cell[w], p).mean() for w, p in zip(wanted, probed, strict=True)]))
