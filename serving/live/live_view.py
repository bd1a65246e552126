"""An immutable view of a live index: the ads of the release without removed ads, and added ads.

Rows 0..N-1 are the ads of the release, followed by the added ads. A row always refers to the same
ad. Each query is compared with all added ads, so the search time grows with their number.

Shapes: B queries, C ads, N ads of the release, M added ads, D embedding size, F ad columns.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import faiss
import numpy as np
import pyarrow as pa

from serving import index, requests
from serving.live import additions

_MAX_KEPT = 64


@dataclasses.dataclass(frozen=True)
class LiveSet:
    """Eligible ads of a live index.

    Attributes:
        released: Eligible ads of the N ads of the release, in the form for its index.
        added: [M] bool, whether an added ad is eligible.
    """

    released: index.EligibleAds
    added: np.ndarray

    @functools.cached_property
    def positions(self) -> np.ndarray:
        """Ascending positions of the eligible added ads."""
        return np.flatnonzero(self.added)


class LiveView:
    """Searches and looks up the current ads. Immutable, and therefore thread-safe.

    Args:
        released: Index of the release.
        removed: Rows of the release that were removed or changed.
        added: Snapshot of the added ads.
    """

    def __init__(
        self,
        released: index.AdIndex,
        removed: index.RowSet,
        added: additions.Snapshot,
    ) -> None:
        self._released = released
        self._added = added
        self._alive = index.RowSet.full(removed.num_rows) - removed
        self._everything = LiveSet(self._alive, added.alive)
        self._kept: dict[requests.Filters, LiveSet] = {}

    @property
    def num_ads(self) -> int:
        """Number of ads that can be found."""
        return self._alive.count + len(self._everything.positions)

    @property
    def num_added(self) -> int:
        """Number of added or changed ads, which are compared exactly."""
        return len(self._everything.positions)

    @property
    def num_removed(self) -> int:
        """Number of ads of the release that were removed or changed."""
        return self._released.num_ads - self._alive.count

    def eligible(self, filters: requests.Filters) -> LiveSet:
        """Returns the ads that match filters returned by `FilterFields.check`."""
        kept = self._kept.get(filters)
        if kept is None:
            kept = self._resolve(filters)
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            self._kept[filters] = kept
        return kept

    def _resolve(self, filters: requests.Filters) -> LiveSet:
        released = self._released.eligible(filters)
        if self.num_removed:
            released &= self._alive
        return LiveSet(released, self._added.eligible(filters))

    def search(
        self,
        query_embeddings: np.ndarray,
        k: int,
        eligible: LiveSet | None = None,
        timeout_seconds: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Finds the ads with the greatest inner products.

        Args:
            query_embeddings: [B, D] float32.
            k: Number of ads to return for each query.
            eligible: Ads that may be returned. None allows all.
            timeout_seconds: See `IndexBackend.search`.

        Returns:
            Scores [B, min(k, eligible ads)] float32, descending, and rows of the same shape, int64.

        Raises:
            IndexUnavailableError: The release's index is in Milvus, which does not answer.
        """
        eligible = self._everything if eligible is None else eligible
        found = self._released.search(query_embeddings, k, eligible.released, timeout_seconds)
        return self._merge(query_embeddings, k, eligible, found)

    def search_exactly(self, query_embeddings: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Finds the best ads exhaustively, with the most exact vectors that the index stores."""
        everything = self._everything
        found = self._released.searcher.search_exactly(query_embeddings, k, everything.released)
        return self._merge(query_embeddings, k, everything, found)

    def features(self, rows: np.ndarray) -> np.ndarray:
        """Returns the encoded ad features of rows [B, C]: int32 [B, C, F]."""
        is_added = rows >= self._released.num_ads
        if not is_added.any():
            return self._released.features(rows)
        features = np.array(self._released.features(np.where(is_added, 0, rows)))
        features[is_added] = self._added.features[rows[is_added] - self._released.num_ads]
        return features

    def ad_ids(self, rows: np.ndarray) -> list[str]:
        """Returns the ad ids of rows [C]."""
        return [ad.ad_id for ad in self.listed(rows)]

    def rows_of(self, ad_ids: Sequence[str]) -> np.ndarray:
        """Returns the rows of ads; ads that do not exist are left out."""
        found = self._released.find(ad_ids)
        rows = found[found >= 0]
        rows = rows[self._alive.contains(rows)]
        if self.num_added:
            rows = np.append(rows, self._added.find(ad_ids) + self._released.num_ads)
        return rows

    def column(self, rows: np.ndarray, field: str) -> pa.Array:
        """Returns the raw values of one field of rows [C]."""
        is_added = rows >= self._released.num_ads
        if not is_added.any():
            return self._released.column(rows, field)
        values = self._released.column(rows[~is_added], field)
        added = self._added.take(rows[is_added] - self._released.num_ads)[field]
        order = np.argsort(np.argsort(is_added, kind="stable"), kind="stable")
        joined = pa.concat_arrays([values, *(chunk.cast(values.type) for chunk in added.chunks)])
        return joined.take(pa.array(order))

    def values(
        self, ad_ids: Sequence[str], fields: Iterable[str]
    ) -> dict[str, dict[str, list[str]]]:
        """Returns the values of string fields of ads, also of removed ones.

        Args:
            ad_ids: Ids of ads; unknown ones are left out.
            fields: Categorical, text or list fields.

        Returns:
            Field -> ad id -> values, without missing ones. A changed ad has its new values.
        """
        found = self._released.find(ad_ids)
        added = np.empty(0, np.int64)
        if self.num_added:
            added = self._added.find(ad_ids) + self._released.num_ads
        rows = np.concatenate([found[found >= 0], added])
        ids = self.ad_ids(rows)
        result = {}
        for field in fields:
            column = self.column(rows, field).to_pylist()
            result[field] = {
                ad_id: [v for v in (value if isinstance(value, list) else [value]) if v is not None]
                for ad_id, value in zip(ids, column, strict=True)
            }
        return result

    def listed(self, rows: np.ndarray) -> list[index.ListedAd]:
        """Returns the ads at rows [C] in the form of answers."""
        is_added = rows >= self._released.num_ads
        found = self._released.listed(rows[~is_added])
        if is_added.any():
            released, new = iter(found), self._added.take(rows[is_added] - self._released.num_ads)
            added = iter(index.listed_ads(new))
            found = [next(added if from_added else released) for from_added in is_added.tolist()]
        return found

    def _merge(
        self,
        query_embeddings: np.ndarray,
        k: int,
        eligible: LiveSet,
        found: tuple[np.ndarray, np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Merges the added ads into the results from the release."""
        positions = eligible.positions
        if not len(positions):
            return found
        total = min(k, found[1].shape[1] + len(positions))
        embeddings = self._added.embeddings
        # Selecting few embeddings takes less time than comparing all.
        is_sparse = 2 * len(positions) < len(eligible.added)
        if is_sparse:
            embeddings = embeddings[positions]
        scores = np.empty((len(query_embeddings), total), np.float32)
        rows = np.empty((len(query_embeddings), total), np.int64)
        for b, (released_scores, released_rows) in enumerate(zip(*found, strict=True)):
            added_scores = _inner_products(query_embeddings[b], embeddings)
            added_scores = added_scores if is_sparse else added_scores[positions]
            # If the release returned k ads, only better ones than its last can enter.
            threshold = released_scores[-1] if len(released_scores) == k else -np.inf
            better = np.flatnonzero(added_scores > threshold)
            joined = np.concatenate([released_scores, added_scores[better]])
            joined_rows = np.concatenate(
                [released_rows, positions[better] + self._released.num_ads]
            )
            order = np.argsort(-joined, kind="stable")[:total]
            scores[b], rows[b] = joined[order], joined_rows[order]
        return scores, rows


def _inner_products(query: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """Returns the inner products [M] of a query [D] with embeddings [M, D], in this thread.

    NumPy would start threads, which are slow if a core is busy.
    """
    query = np.ascontiguousarray(query, dtype=np.float32)
    scores = np.empty(len(embeddings), np.float32)
    faiss.fvec_inner_products_ny(
        faiss.swig_ptr(scores),
        faiss.swig_ptr(query),
        faiss.swig_ptr(embeddings),
        len(query),
        len(embeddings),
    )
    return scores
