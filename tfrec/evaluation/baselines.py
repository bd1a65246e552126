"""Baselines for retrieval: popularity, the user's own clicks, neighbors, a linear autoencoder.

Each is a recommender as in `corpus_ranking`: called with queries, it returns the scores of all
ads. They learn from `History`, the clicks of splits of a data set.

Shapes: H clicks of the history, U users, N ads, B queries, K neighbors.

References:
    Deshpande and Karypis, Item-Based Top-N Recommendation Algorithms, 2004 (cosine).
    Bell and Koren, Improved Neighborhood-based Collaborative Filtering, 2007 (shrinkage).
    Steck, Embarrassingly Shallow Autoencoders for Sparse Data, 2019 (EASE).
    Hu et al., Modeling Personalized Item Frequency Information for Next-basket Recommendation, 2020
    (the user's own clicks).
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import scipy.linalg
import scipy.sparse

from tfrec import retrieval
from tfrec.evaluation import corpus_ranking
from tfrecords import reader

MAX_CLICKS_PER_USER = 500
NUM_NEIGHBORS = 100
# Without it, two ads with one click each by the same user have the greatest cosine, 1.
SHRINKAGE = 20.0
EASE_L2 = 500.0
# Time grows with the third power of the number of ads, and memory with the second: 5,000 ads take
# seconds and 0.3 GB.
MAX_ADS_OF_EASE = 5_000
_CHUNK_OF_ADS = 512
# Below any relevant similarity; orders ads without neighbors by popularity.
_POPULARITY_WEIGHT = 1e-6


@dataclasses.dataclass(frozen=True)
class History:
    """Pairs of users and ads that they clicked.

    Attributes:
        users: [U] int64 fingerprints, ascending.
        counts: [U, N] float32 number of the user's clicks on the ad.
    """

    users: np.ndarray
    counts: scipy.sparse.csr_array

    @functools.cached_property
    def matrix(self) -> scipy.sparse.csr_array:
        """[U, N] float32: 1 where the user clicked the ad."""
        return self.counts.sign()

    @property
    def clicks(self) -> np.ndarray:
        """[N] float32: number of users who clicked each ad."""
        return self.matrix.sum(axis=0)

    def clicks_of(self, users: np.ndarray) -> scipy.sparse.csr_array:
        """Returns the rows [B, N] of the matrix of users; empty for unknown users."""
        return self._rows_of(self.matrix, users)

    def counts_of(self, users: np.ndarray) -> scipy.sparse.csr_array:
        """Returns the counts [B, N] of users; empty for unknown users."""
        return self._rows_of(self.counts, users)

    @property
    def repeated(self) -> float:
        """Share of the clicks that repeat a click of the user on the ad."""
        clicks = self.counts.data.sum(dtype=np.float64)
        return (clicks - self.counts.nnz) / max(clicks, 1.0)

    def _rows_of(self, matrix: scipy.sparse.csr_array, users: np.ndarray) -> scipy.sparse.csr_array:
        if not len(self.users):
            return scipy.sparse.csr_array((len(users), matrix.shape[1]), dtype=np.float32)
        rows = np.searchsorted(self.users, users).clip(max=len(self.users) - 1)
        known = scipy.sparse.diags_array((self.users[rows] == users).astype(np.float32))
        return scipy.sparse.csr_array(known @ matrix[rows])


def read_history(data_set: reader.DataSet, splits: Sequence[str], num_ads: int) -> History | None:
    """Reads the clicks of splits; None if the schema has no `user_key`."""
    if not data_set.spec.has_user:
        return None
    return history_of(*retrieval.read_pairs(data_set, splits), num_ads)


def history_of(users: np.ndarray, ad_rows: np.ndarray, num_ads: int) -> History:
    """Returns the click history of each user, given clicks of users [H] on ads [H]."""
    distinct, user = np.unique(users, return_inverse=True)
    ones = np.ones(len(user), np.float32)
    counts = scipy.sparse.csr_array((ones, (user, ad_rows)), shape=(len(distinct), num_ads))
    return History(distinct, counts)


class Popularity:
    """Scores ads by their number of clicks, the same for every query.

    Args:
        clicks: [N] clicks of each ad.
    """

    def __init__(self, clicks: np.ndarray) -> None:
        self._scores = clicks.astype(np.float32)[None, :]

    def __call__(self, queries: corpus_ranking.Queries) -> np.ndarray:
        """Returns [1, N]: the scores of any query."""
        return self._scores


class OwnClicks:
    """Scores ads by the number of the user's own clicks; the others are in the order of popularity.

    Args:
        history: The clicks to learn from.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._fallback = _order_by_popularity(history)

    def __call__(self, queries: corpus_ranking.Queries) -> np.ndarray:
        """Returns [B, N]: numbers of clicks."""
        assert queries.user is not None
        return self._history.counts_of(queries.user).toarray() + self._fallback


class ItemNeighbors:
    """Scores an ad by its shrunk cosine similarity to the ads that the user clicked.

    Each ad keeps its `num_neighbors` nearest. Ads without neighbors, and all ads for a user
    without clicks, are in the order of popularity.

    Args:
        history: The clicks to learn from.
        num_neighbors: K.
        shrinkage: See `item_similarity`.
    """

    def __init__(
        self,
        history: History,
        num_neighbors: int = NUM_NEIGHBORS,
        shrinkage: float = SHRINKAGE,
    ) -> None:
        self._history = history
        self._similarity = item_similarity(history.matrix, num_neighbors, shrinkage)
        self._fallback = _order_by_popularity(history)

    def __call__(self, queries: corpus_ranking.Queries) -> np.ndarray:
        """Returns [B, N]: summed similarities."""
        assert queries.user is not None
        scores = (self._history.clicks_of(queries.user) @ self._similarity).toarray()
        scores += self._fallback
        return scores


def item_similarity(
    clicks: scipy.sparse.csr_array, num_neighbors: int, shrinkage: float = 0.0
) -> scipy.sparse.csr_array:
    """Returns the similarity [N, N] of each ad (column) to its nearest ads (rows).

    The similarity of ads with a and b users, c of them in common, is c / (√(a b) + shrinkage),
    without shrinkage the cosine. At most `MAX_CLICKS_PER_USER` clicks of a user count, drawn at
    random, because the work is quadratic in them.
    """
    draw = np.random.default_rng(0).random(clicks.nnz)
    clicks = _largest_of_each_row(clicks, MAX_CLICKS_PER_USER, draw)
    length = np.sqrt(clicks.multiply(clicks).sum(axis=0))
    scale = scipy.sparse.diags_array((1.0 / np.maximum(length, 1.0)).astype(np.float32))
    normed = scipy.sparse.csr_array(clicks @ scale)  # [U, N], columns of length 1
    by_ad = scipy.sparse.csr_array(normed.T)
    kept = []
    for first in range(0, clicks.shape[1], _CHUNK_OF_ADS):
        part = scipy.sparse.csr_array(by_ad[first : first + _CHUNK_OF_ADS] @ normed)
        rows = np.repeat(np.arange(part.shape[0]), np.diff(part.indptr))
        part.data[part.indices == rows + first] = 0.0  # not itself
        users = length[rows + first] * length[part.indices]
        part.data *= users / np.maximum(users + shrinkage, 1.0)
        kept.append(_largest_of_each_row(part, num_neighbors))
    return scipy.sparse.csr_array(scipy.sparse.vstack(kept).T)


class Ease:
    """A linear model of all ads in closed form; needs 8 N² bytes, for small catalogs.

    Args:
        history: The clicks to learn from.
        l2: λ, the penalty on the weights.
    """

    def __init__(self, history: History, l2: float = EASE_L2) -> None:
        self._history = history
        gram = (history.matrix.T @ history.matrix).toarray().astype(np.float64)
        gram[np.diag_indices_from(gram)] += l2
        inverse = scipy.linalg.inv(gram, overwrite_a=True, assume_a="pos")
        inverse /= -np.diag(inverse)  # column j predicts ad j
        np.fill_diagonal(inverse, 0.0)
        self._weights = inverse.astype(np.float32)
        self._fallback = _order_by_popularity(history)

    def __call__(self, queries: corpus_ranking.Queries) -> np.ndarray:
        """Returns [B, N]: the users' clicks times the weights."""
        assert queries.user is not None
        clicked = self._history.clicks_of(queries.user)
        scores = clicked @ self._weights
        scores[np.diff(clicked.indptr) == 0] = self._fallback
        return scores


def _order_by_popularity(history: History) -> np.ndarray:
    """Returns [N] float32: scores below any relevant one."""
    clicks = history.clicks
    return (_POPULARITY_WEIGHT * clicks / max(clicks.max(), 1.0)).astype(np.float32)


def _largest_of_each_row(
    matrix: scipy.sparse.csr_array, count: int, values: np.ndarray | None = None
) -> scipy.sparse.csr_array:
    """Returns a matrix with the `count` entries of each row with the largest `values`.

    Ties for the last entry are broken at random, in the same way in every call.

    Args:
        matrix: The matrix.
        count: Maximum number of entries of a row.
        values: One value per entry; None: the entries themselves.
    """
    values = matrix.data if values is None else values
    rng = np.random.default_rng(0)
    lengths = np.diff(matrix.indptr)
    kept = np.ones(matrix.nnz, bool)
    for row in np.flatnonzero(lengths > count).tolist():
        first, last = matrix.indptr[row], matrix.indptr[row + 1]
        order = first + rng.permutation(last - first)
        kept[order[np.argpartition(values[order], -count)[:-count]]] = False
    rows = np.repeat(np.arange(matrix.shape[0]), lengths)[kept]
    entries = (matrix.data[kept], (rows, matrix.indices[kept]))
    result = scipy.sparse.csr_array(entries, shape=matrix.shape)
    result.eliminate_zeros()
    return result
