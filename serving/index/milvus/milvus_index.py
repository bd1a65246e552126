"""The vectors of a release in a Milvus collection.

    row         INT64, primary key: the catalog row
    embedding   FLOAT_VECTOR, inner products
    f0, f1, …   the ad fields that filters may name, see `milvus_fields`

A collection belongs to one release and never changes after its export. So count and probes of the
manifest stay true, releases N and N-1 are served together, and bounded consistency is exact.
Features, ids and fields to show are files of the bundle, by row.

`pymilvus` is imported on first use.

Shapes: B queries, N ads, D embedding size.
"""

import collections
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from serving import errors, requests
from serving.index import exact_search
from serving.index.filters import eligibility, row_set
from serving.index.kinds import MILVUS
from serving.index.milvus import connection, milvus_fields

# Milvus returns at most this number of entities to a search or a query.
_MAX_RETURNED = 16_384
MAX_WIDTH = 8192
# Milvus's code for a collection that is not in memory.
_NOT_LOADED = 101
_MAX_KEPT_COUNTS = 1024


class MilvusIndex:
    """An open collection. Thread-safe.

    Args:
        entry: `index` of a manifest: kind, dimension, search and `milvus` with uri and collection.

    Raises:
        AdIndexError: There is no such collection, or `pymilvus` is not installed.
        IndexUnavailableError: Milvus does not answer.
    """

    def __init__(self, entry: Mapping[str, Any]) -> None:
        self.kind: str = entry["kind"]
        self.dimension: int = entry["dimension"]
        self.search_width: int | None = entry["search"].get("search_width")
        self._uri: str = entry["milvus"]["uri"]
        self.collection: str = entry["milvus"]["collection"]
        self._client = connection.connect(self._uri)
        self._counts: collections.OrderedDict[str, int] = collections.OrderedDict()
        self._lock = threading.Lock()
        with self._call("opened"):
            if not self._client.has_collection(self.collection, timeout=connection.CONNECT_SECONDS):
                raise errors.AdIndexError(
                    f"Milvus at {connection.address_of(self._uri)} has no collection "
                    f"{self.collection}, which the manifest names. Restore it, or export the "
                    "bundle again."
                )
            self._client.load_collection(self.collection, timeout=connection.CALL_SECONDS)
        self.num_ads: int = self.count("", consistency_level="Strong")

    def search_parameters(self) -> dict[str, Any]:
        """Returns the current search parameters, for the manifest."""
        return {} if self.search_width is None else {"search_width": self.search_width}

    def place(self) -> dict[str, Any]:
        """Returns backend, address and collection, for the manifest."""
        pinned = {"uri": self._uri, "collection": self.collection}
        return {"backend": MILVUS, "milvus": pinned}

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes nothing: the vectors are in Milvus."""

    def count(
        self, expression: str, remaining: Callable[[], float] | None = None, **options: Any
    ) -> int:
        """Returns the number of ads that an expression leaves; the empty one leaves all."""
        with self._call("counted"):
            found = self._loaded(
                self._client.query,
                self.collection,
                filter=expression,
                output_fields=["count(*)"],
                remaining=remaining or _countdown(None),
                **options,
            )
        return int(found[0]["count(*)"])

    def eligible(
        self, filters: requests.Filters, catalog: eligibility.Eligibility
    ) -> milvus_fields.Condition:
        """Returns the ads that match filters returned by `FilterFields.check`."""
        both = milvus_fields.expressions_of(filters, catalog.kinds, catalog)
        return milvus_fields.Condition(*both, self._count_once)

    def _count_once(self, expression: str, remaining: Callable[[], float] | None = None) -> int:
        """Counts as `count`, and remembers it: a collection does not change."""
        if not expression:
            return self.num_ads
        with self._lock:
            known = self._counts.get(expression)
        if known is None:
            known = self.count(expression, remaining)
            with self._lock:
                self._counts[expression] = known
                while len(self._counts) > _MAX_KEPT_COUNTS:
                    self._counts.popitem(last=False)
        return known

    def search(
        self,
        query_embeddings: np.ndarray,
        k: int,
        eligible: row_set.RowSet | milvus_fields.Condition | None = None,
        timeout_seconds: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Finds the ads with the greatest inner products; see `IndexBackend.search`.

        Rows outside of `eligible.rows`, such as removed ads, are left out of a list that is as
        much longer. If the server comes short of the ads that filters leave, they are compared one
        by one, so that a list is always complete.
        """
        if k < 1:
            raise ValueError(f"k: expected a positive integer, got {k!r}.")
        queries = np.ascontiguousarray(query_embeddings, np.float32)
        if not np.isfinite(queries).all():
            raise errors.AdIndexError(
                "Expected finite query embeddings, got NaN or infinity from the query tower. Train "
                "and export it again."
            )
        condition = self._condition(eligible)
        remaining = _countdown(timeout_seconds)
        k, longest = min(k, self.num_ads), min(self.num_ads, _MAX_RETURNED)
        limit = min(k, longest)
        while True:
            found = self._search(queries, limit, condition, remaining)
            most = max((len(rows) for _, rows in found), default=0)
            own = [_among(scores, rows, condition.rows, k) for scores, rows in found]
            if all(len(rows) == k for _, rows in own):
                return _stacked(own, k)
            if most < limit or limit == longest:
                break
            limit = min(4 * limit, longest)
        count = self._count_once(condition.expression, remaining)
        if all(len(rows) == count for _, rows in found):
            return _stacked(own, min(len(rows) for _, rows in own))
        return self._compare_all(queries, k, condition, remaining)

    def search_exactly(
        self,
        query_embeddings: np.ndarray,
        k: int,
        eligible: row_set.RowSet | milvus_fields.Condition,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Finds the best of the eligible ads by reading and comparing every vector."""
        queries = np.ascontiguousarray(query_embeddings, np.float32)
        return self._compare_all(queries, k, self._condition(eligible), _countdown(None))

    def _condition(
        self, eligible: row_set.RowSet | milvus_fields.Condition | None
    ) -> milvus_fields.Condition:
        if isinstance(eligible, milvus_fields.Condition):
            return eligible
        everything = milvus_fields.Condition("", "", self._count_once)
        if eligible is None or eligible.count == self.num_ads:
            return everything
        return everything & eligible

    def _search(
        self,
        queries: np.ndarray,
        limit: int,
        condition: milvus_fields.Condition,
        remaining: Callable[[], float],
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        parameters = {}
        if self.search_width is not None:
            # As wide as for the same number of eligible ads, see `filtered_search`.
            count = max(self._count_once(condition.of_fields, remaining), 1)
            width = min(max(limit, self.search_width) * self.num_ads // count, MAX_WIDTH)
            name = "search_list" if self.kind == "DISKANN" else "ef"
            parameters[name] = max(limit, width)
        with self._call("searched"):
            found = self._loaded(
                self._client.search,
                self.collection,
                data=list(queries),
                limit=limit,
                filter=condition.expression,
                output_fields=["row"],
                search_params={"metric_type": "IP", "params": parameters},
                remaining=remaining,
            )
            return [
                (np.array(hits.distances, np.float32), np.array(hits.ids, np.int64))
                for hits in found
            ]

    def _loaded(
        self, ask: Callable[..., Any], *args: Any, remaining: Callable[[], float], **options: Any
    ) -> Any:
        """Calls Milvus; loads the collection before where a restart has unloaded it."""
        try:
            return ask(*args, timeout=remaining(), **options)
        except Exception as error:
            if getattr(error, "code", None) != _NOT_LOADED:
                raise
        self._client.load_collection(self.collection, timeout=remaining())
        return ask(*args, timeout=remaining(), **options)

    def _compare_all(
        self,
        queries: np.ndarray,
        k: int,
        condition: milvus_fields.Condition,
        remaining: Callable[[], float],
    ) -> tuple[np.ndarray, np.ndarray]:
        best = exact_search.BestRows(queries, k)
        for rows, embeddings in self._vectors(condition, remaining):
            kept = slice(None) if condition.rows is None else condition.rows.contains(rows)
            best.add(embeddings[kept], rows[kept])
        return best.found()

    def _vectors(
        self, condition: milvus_fields.Condition, remaining: Callable[[], float]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields rows and embeddings of the ads that a condition's expression leaves."""
        size = min(_MAX_RETURNED, max(connection.BYTES_PER_CALL // (4 * self.dimension), 1))
        few = self._count_once(condition.expression, remaining) <= size
        for first in range(0, self.num_ads, self.num_ads if few else size):
            own = [] if few else [f"row >= {first} and row < {first + size}"]
            own += [condition.expression] if condition.expression else []
            with self._call("read"):
                found = self._loaded(
                    self._client.query,
                    self.collection,
                    filter=" and ".join(f"({one})" for one in own) or "row >= 0",
                    output_fields=["row", "embedding"],
                    limit=size,
                    remaining=remaining,
                )
            if found:
                rows = np.array([entity["row"] for entity in found], np.int64)
                yield rows, np.array([entity["embedding"] for entity in found], np.float32)

    def _call(self, what: str) -> contextlib.AbstractContextManager[None]:
        return connection.calls(self._uri, f"the collection {self.collection} cannot be {what}")


def _among(
    scores: np.ndarray, rows: np.ndarray, kept: row_set.RowSet | None, k: int
) -> tuple[np.ndarray, np.ndarray]:
    if kept is not None:
        own = kept.contains(rows)
        scores, rows = scores[own], rows[own]
    return scores[:k], rows[:k]


def _stacked(
    found: list[tuple[np.ndarray, np.ndarray]], count: int
) -> tuple[np.ndarray, np.ndarray]:
    scores = np.empty((len(found), count), np.float32)
    rows = np.empty((len(found), count), np.int64)
    for own, (own_scores, own_rows) in enumerate(found):
        scores[own], rows[own] = own_scores[:count], own_rows[:count]
    return scores, rows


def _countdown(timeout_seconds: float | None) -> Callable[[], float]:
    """Returns a function that returns the seconds that are left, and raises if none is."""
    until = time.monotonic() + (
        connection.CALL_SECONDS if timeout_seconds is None else timeout_seconds
    )

    def remaining() -> float:
        left = until - time.monotonic()
        if left <= 0:
            raise errors.IndexUnavailableError(
                "Milvus has not answered by the deadline of the request. Send requests with longer "
                "deadlines, or at a lower rate, or give Milvus more query nodes."
            )
        return left

    return remaining
