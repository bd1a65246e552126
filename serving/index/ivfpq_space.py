"""The transformed space of the cells and codes of an IVFPQ index.

Multiplying ads by a matrix and queries by its inverse transpose preserves inner products,
q·x = (A⁻ᵀq)·(Ax), but changes the distances by which k-means forms cells and codebooks. Two
matrices are applied in this order:

    weights    (E[q qᵀ] + ridge)^½. The squared length of Ae is then the mean squared error of the
               inner product with a query if a vector has the error e. Queries of a trained tower
               often lie in few directions, and cells need to separate ads only in these: a quarter
               of the probed cells then gives the same recall. If queries are distributed like the
               ads, weights reduce recall, so they are tested on a sample first.
    rotation   Rotates the residuals to distribute their variance evenly over the codes (OPQ).

Shapes: N ads, Q queries, D embedding size, C cells.

References: Guo, Kumar, Choromanski and Simcha 2016 (Quantization based Fast Inner Product Search:
codebooks from the covariance of queries); Ge, He, Ke and Sun 2013 (OPQ).
"""

from typing import Any

import faiss
import numpy as np

from serving.index import exact_search, kinds

# Weight of directions without queries, relative to the mean of all directions.
_RIDGE = 3.0
_BITS = 4
# Number of iterations of OPQ, each with one of k-means, and of ads in its sample.
_ROTATIONS, _ROTATION_SAMPLE = 50, 16_384
# Test of the weights: number of ads, k, number of cells, and share of the cells to probe.
_TRIAL_ADS, _TRIAL_K, _TRIAL_CELLS, _TRIAL_PROBED = 65_536, 50, 512, 1 / 32
_MIN_QUERIES = 32


def weights(ads: np.ndarray, queries: np.ndarray | None, clustering: Any) -> np.ndarray | None:
    """Returns the weights [D, D] float32, or None if they do not improve recall.

    Half of the queries determine the weights, and the other half tests them.

    Args:
        ads: [N, D] float32, a sample.
        queries: [Q, D] float32, finite, representative query embeddings, or None.
    """
    if queries is None or len(queries) < _MIN_QUERIES:
        return None
    ads = ads[:: -(-len(ads) // _TRIAL_ADS)]
    wanted = exact_search.exact_rows([ads], queries[1::2], _TRIAL_K)
    without_weights, with_weights = (
        _probed_recall(ads, queries[1::2], wanted, matrix, clustering)
        for matrix in (None, weighted(queries[::2]))
    )
    return weighted(queries) if with_weights > without_weights else None


def weighted(queries: np.ndarray) -> np.ndarray:
    """Returns the weights [D, D] float32 for queries [Q, D] float32."""
    moments = queries.T.astype(np.float64) @ queries / len(queries)
    values, vectors = np.linalg.eigh(moments)
    mean = max(values.mean(), np.finfo(np.float32).tiny)
    # The mean square is 1, so that vectors roughly keep their length.
    lengths = np.sqrt((np.maximum(values, 0) / mean + _RIDGE) / (1 + _RIDGE))
    return ((vectors * lengths) @ vectors.T).astype(np.float32)


def cells(
    ads: np.ndarray, matrix: np.ndarray | None, num_cells: int, clustering: Any
) -> np.ndarray:
    """Returns centroids [C, D] float32, of unit length without weights.

    With unit length, the inner product with a centroid depends on how near the cell is, not on how
    dense it is (Dhillon and Modha 2001, spherical k-means).

    Args:
        ads: [N, D] float32, with the weights applied.
        matrix: Weights [D, D], or None.
    """
    clustering.spherical = matrix is None
    learner = faiss.Clustering(ads.shape[1], num_cells, clustering)
    learner.train(ads, faiss.IndexFlatL2(ads.shape[1]))
    return faiss.vector_to_array(learner.centroids).reshape(num_cells, -1)


def nearest(ads: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Returns the cell of the nearest centroid for each ad: [N]."""
    exact = faiss.IndexFlatL2(ads.shape[1])
    exact.add(centroids)
    return exact.search(ads, 1)[1][:, 0]


def rotation(ads: np.ndarray, centroids: np.ndarray, num_codes: int) -> np.ndarray:
    """Learns the rotation [D, D] float32 of the residuals by OPQ.

    faiss's own OPQ takes minutes for 1,024 dimensions: its singular value decomposition is slow.

    Args:
        ads: [N, D] float32, with the weights applied.
        centroids: [C, D] float32.
    """
    ads = ads[:: -(-len(ads) // _ROTATION_SAMPLE)]
    residuals = ads - centroids[nearest(ads, centroids)]
    dimension = ads.shape[1]
    quantizer = faiss.ProductQuantizer(dimension, num_codes, _BITS)
    random = np.random.default_rng(0).standard_normal((dimension, dimension), np.float32)
    matrix, _ = np.linalg.qr(random)
    for _ in range(_ROTATIONS):
        rotated = residuals @ matrix.T
        quantizer.train(rotated)
        quantizer.cp.niter, quantizer.train_type = 1, faiss.ProductQuantizer.Train_hot_start
        coded = quantizer.decode(quantizer.compute_codes(rotated))
        # The rotation that brings the residuals closest to their codes (orthogonal Procrustes).
        left, _, right = np.linalg.svd(coded.T @ residuals)
        matrix = left @ right
    return matrix


def counterpart(matrix: np.ndarray) -> np.ndarray:
    """Returns the inverse transpose [D, D] float32, which converts between ads and queries."""
    return np.linalg.inv(matrix.astype(np.float64)).T.astype(np.float32)


def _probed_recall(
    ads: np.ndarray,
    queries: np.ndarray,
    wanted: np.ndarray,
    matrix: np.ndarray | None,
    clustering: Any,
) -> float:
    """Returns the share of the wanted rows [Q, k] that are in the probed cells."""
    moved = ads if matrix is None else ads @ matrix.T
    transformed = queries if matrix is None else queries @ counterpart(matrix).T
    num_cells = min(_TRIAL_CELLS, kinds.default_lists(len(ads)))
    centroids = cells(moved, matrix, num_cells, clustering)
    cell = nearest(moved, centroids)
    probed = np.argsort(-(transformed @ centroids.T), axis=1, kind="stable")
    probed = probed[:, : max(1, round(_TRIAL_PROBED * num_cells))]
    return float(np.mean([np.isin(cell[w], p).mean() for w, p in zip(wanted, probed, strict=True)]))
