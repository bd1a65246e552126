"""The interface of a release's index, for any backend.

    faiss    in process: `search.Searcher`, the default
    milvus   a Milvus server or a milvus-lite file: `milvus_index.MilvusIndex`

The index of a release never changes: ads are upserted and deleted while serving by
`live.LiveIndex`, over any backend. `build_index` builds, `AdIndex.open` opens, `drop` removes.

Shapes: B queries, D embedding size.
"""

import os
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from serving import errors, requests
from serving.index import kinds
from serving.index.filters import eligibility, row_set


class EligibleAds(Protocol):
    """The ads that meet the filters, in the form for the backend's `search`."""

    @property
    def count(self) -> int:
        """Number of eligible ads."""

    def __and__(self, rows: row_set.RowSet) -> "EligibleAds":
        """Returns the eligible ads among rows."""


class IndexBackend(Protocol):
    """The vectors of a release; the label of an ad is its catalog row.

    Attributes:
        kind: Kind of index, such as `Flat` or `HNSW`.
    """

    kind: str

    @property
    def is_exact(self) -> bool:
        """Whether a search compares the float vectors of all ads."""

    @property
    def num_ads(self) -> int:
        """Number of ads N, counted in the index."""

    @property
    def dimension(self) -> int:
        """Embedding size D."""

    def search_parameters(self) -> dict[str, Any]:
        """Returns the current search parameters, for the manifest."""

    def place(self) -> dict[str, Any]:
        """Returns the manifest entries other than kind and parameters; empty for files."""

    def eligible(self, filters: requests.Filters, catalog: eligibility.Eligibility) -> EligibleAds:
        """Returns the ads that match filters returned by `FilterFields.check`."""

    def prepare_filters(self, catalog: eligibility.Eligibility) -> None:
        """Builds the lookups of `eligible`, so that the first request does not wait for them."""

    def search(
        self,
        query_embeddings: np.ndarray,
        k: int,
        eligible: Any = None,
        timeout_seconds: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Finds the ads with the greatest inner products; see `Searcher.search`.

        Args:
            query_embeddings: [B, D] float32.
            k: Number of ads to return for each query.
            eligible: From `eligible`, or the eligible rows. None allows all.
            timeout_seconds: Time after which an answer is no longer needed. None: no limit.

        Raises:
            IndexUnavailableError: A server does not answer, or not in time.
        """

    def search_exactly(
        self, query_embeddings: np.ndarray, k: int, eligible: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Does the same as `search`, by comparing every eligible ad."""

    def close(self) -> None:
        """Closes the connection to a server."""

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes the files of `ad_index/N`, except the ads and their features."""


def checked_queries(query_embeddings: np.ndarray, k: int) -> np.ndarray:
    """Returns the query embeddings [B, D] of a search for k ads as contiguous float32."""
    if k < 1:
        raise ValueError(f"k: expected a positive integer, got {k!r}.")
    queries = np.ascontiguousarray(query_embeddings, dtype=np.float32)
    if not np.isfinite(queries).all():
        raise errors.BundleError(
            "Expected finite query embeddings, got NaN or infinity from the query tower. Train and "
            "export it again."
        )
    return queries


def name_of(entry: Mapping[str, Any]) -> str:
    """Returns the backend of the `index` entry of a manifest."""
    return entry.get("backend", kinds.FAISS)
