"""The vectors of a release in a Milvus collection.

    row         INT64, primary key: the catalog row
    part        INT64, row modulo `NUM_PARTS`: slices the collection evenly
    embedding   FLOAT_VECTOR, inner products
    f0, f1, …   the ad fields that filters may name, see `milvus_fields`

A collection belongs to one release and never changes after its export. So the count and probes in
the manifest stay valid, releases N and N-1 are served together, and bounded consistency is exact.
Features, ids and fields to show are files of the bundle, by row.

`pymilvus` is imported on first use.

Shapes: B queries, N ads, D embedding size.
"""

import contextlib
import functools
import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from serving import errors, requests
from serving.index import backend, exact_search
from serving.index.filters import eligibility, row_set
from serving.index.kinds import MILVUS
from serving.index.milvus import connection, milvus_fields

# Milvus returns at most this number of entities to a search or a query.
_MAX_RETURNED = 16_384
MAX_WIDTH = 8192
# More than the requests of a batch; an export measures recall with hundreds.
_QUERIES_PER_CALL = 32
NUM_PARTS = 64
# Milvus 2.3.5 compares all eligible ads if they are less than 7 % of a segment. With more, a graph
# search of ads that are near each other finds half of the best, or none, however wide it is
# (200,000 ads: recall 0.50 to 0.84 for 9 to 14 % of the ads, 0.96 for 44 %). So up to
# `_MAX_COMPARED` ads are searched in slices of fewer than 7 %, as are lists that would be too
# short.
_MAX_SLICE_SHARE, _MAX_COMPARED = 0.06, 50_000
# Milvus's code for a collection that is not in memory.
_NOT_LOADED = 101
_MAX_KEPT_COUNTS = 64


class MilvusIndex:
    """An open collection. Thread-safe."""

    def __init__(self, entry: Mapping[str, Any]) -> None:
        self.kind: str = entry["kind"]
        self.dimension: int = entry["dimension"]
        self.search_width: int | None = entry["search"].get("search_width")
        self._uri: str = entry["milvus"]["uri"]
        self.collection: str = entry["milvus"]["collection"]
        # A server returns the primary key alone, which `pymilvus` reads faster than a field; a
        # milvus-lite file would return all fields.
        self._returned = None if "://" in connection.address_of(self._uri) else ["row"]
        self._client = connection.connect(self._uri)
        # An expression can have 400 kB.
        self._counted = functools.lru_cache(_MAX_KEPT_COUNTS)(self.count)
        with self._call("opened"):
            if not self._client.has_collection(self.collection, timeout=connection.CONNECT_SECONDS):
                raise errors.BundleError(
                    f"Milvus at {connection.address_of(self._uri)} has no collection "
                    f"{self.collection}, which the manifest names. Restore it, or export the "
                    "bundle again."
                )
            self._client.load_collection(self.collection, timeout=connection.CALL_SECONDS)
        self.num_ads: int = self.count("", consistency_level="Strong")

    @property
    def is_exact(self) -> bool:
        """Whether a search compares the float vectors of all ads."""
        return self.kind == "Flat"

    def search_parameters(self) -> dict[str, Any]:
        """Returns the current search parameters, for the manifest."""
        return {} if self.search_width is None else {"search_width": self.search_width}

    def set_search_parameters(self, values: Mapping[str, Any]) -> None:
        """Sets what `search_parameters` returns."""
        self.search_width = values.get("search_width")

    def place(self) -> dict[str, Any]:
        """Returns backend, address and collection, for the manifest."""
        pinned = {"uri": self._uri, "collection": self.collection}
        return {"backend": MILVUS, "milvus": pinned}

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes nothing: the vectors are in Milvus."""

    def count(self, expression: str, **options: Any) -> int:
        """Returns the number of ads that match an expression; all ads match the empty one."""
        with self._call("counted"):
            found = self._loaded(
                self._client.query,
                self.collection,
                filter=expression,
                output_fields=["count(*)"],
                **options,
            )
        return int(found[0]["count(*)"])

    def eligible(
        self, filters: requests.Filters, catalog: eligibility.Eligibility
    ) -> milvus_fields.MilvusCondition:
        """Returns the ads that match filters returned by `FilterFields.check`."""
        expressions = milvus_fields.expressions_of(filters, catalog.kinds, catalog)
        return milvus_fields.MilvusCondition(*expressions, self._count_once)

    def prepare_filters(self, catalog: eligibility.Eligibility) -> None:
        """Builds the lookup of ad ids; Milvus has the ad fields."""
        catalog.prepare_ids()

    def _count_once(self, expression: str) -> int:
        """Returns `count`, cached: a collection does not change."""
        return self._counted(expression) if expression else self.num_ads

    def search(
        self,
        query_embeddings: np.ndarray,
        k: int,
        eligible: row_set.RowSet | milvus_fields.MilvusCondition | None = None,
        timeout_seconds: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Finds the ads with the greatest inner products; see `IndexBackend.search`.

        Rows outside `eligible.rows`, such as removed ads, are dropped from longer lists. If the
        server returns too few of the eligible ads, all of them are compared, so that a list is
        always complete.
        """
        queries = backend.checked_queries(query_embeddings, k)
        condition = self._condition(eligible)
        k = min(k, self.num_ads)
        with connection.limited(timeout_seconds):
            found = [
                self._search_part(queries[first : first + _QUERIES_PER_CALL], k, condition)
                for first in range(0, max(len(queries), 1), _QUERIES_PER_CALL)
            ]
        scores, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return scores, rows

    def _search_part(
        self, queries: np.ndarray, k: int, condition: milvus_fields.MilvusCondition
    ) -> tuple[np.ndarray, np.ndarray]:
        for slices in self._slicings(condition):
            found, kept = self._search_longer(queries, k, condition, slices)
            if all(len(rows) == k for _, rows in kept):
                return _stacked(kept, k)
            count = self._count_once(condition.expression)
            if all(len(rows) == count for _, rows in found):
                return _stacked(kept, min(len(rows) for _, rows in kept))
        return self._compare_all(queries, k, condition)

    def _slicings(self, condition: milvus_fields.MilvusCondition) -> tuple[int, ...]:
        """Returns the numbers of slices to try in turn, until all lists are complete."""
        if self.kind == "Flat" or not condition.field_expression:
            return (1,)
        count = self._count_once(condition.field_expression)
        slices = max(math.ceil(count / self.num_ads / _MAX_SLICE_SHARE), 1)
        return (slices,) if count <= _MAX_COMPARED else (1, slices)

    def _search_longer(
        self,
        queries: np.ndarray,
        k: int,
        condition: milvus_fields.MilvusCondition,
        slices: int,
    ) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[tuple[np.ndarray, np.ndarray]]]:
        """Returns the hits of Milvus for each query, and the k best of them in `condition.rows`."""
        longest = min(self.num_ads, _MAX_RETURNED)
        limit = min(k, longest)
        while True:
            found = self._search(queries, limit, condition, slices)
            kept = [_among(scores, rows, condition.rows, k) for scores, rows in found]
            is_full = all(len(rows) == k for _, rows in kept)
            if is_full or limit == longest or all(len(rows) < limit for _, rows in found):
                return found, kept
            limit = min(4 * limit, longest)

    def search_exactly(
        self,
        query_embeddings: np.ndarray,
        k: int,
        eligible: row_set.RowSet | milvus_fields.MilvusCondition,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Finds the best of the eligible ads by reading and comparing every vector."""
        queries = np.ascontiguousarray(query_embeddings, np.float32)
        return self._compare_all(queries, k, self._condition(eligible))

    def _condition(
        self, eligible: row_set.RowSet | milvus_fields.MilvusCondition | None
    ) -> milvus_fields.MilvusCondition:
        if isinstance(eligible, milvus_fields.MilvusCondition):
            return eligible
        everything = milvus_fields.MilvusCondition("", "", self._count_once)
        if eligible is None or eligible.count == self.num_ads:
            return everything
        return everything & eligible

    def _search(
        self,
        queries: np.ndarray,
        limit: int,
        condition: milvus_fields.MilvusCondition,
        slices: int,
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns scores and rows of each query, up to `limit`."""
        ends = [NUM_PARTS * number // slices for number in range(slices + 1)]
        parts = [
            f" and (part >= {first}) and (part < {end})" if slices > 1 else ""
            for first, end in itertools.pairwise(ends)
        ]
        width = self._width(limit, condition)
        found = [
            self._search_collection(queries, limit, condition.expression + part, width)
            for part in parts
        ]
        if slices == 1:
            return found[0]
        return [exact_search.best_of_lists(lists, limit) for lists in zip(*found, strict=True)]

    def _width(self, limit: int, condition: milvus_fields.MilvusCondition) -> int:
        """Returns the width of a graph search.

        A server that compares all eligible ads ignores it. milvus-lite never does, so for few
        eligible ads the search is widened to reach as many of them.
        """
        width = max(limit, self.search_width or 0)
        count = self._count_once(condition.field_expression)
        if count > _MAX_COMPARED:
            return width
        return max(limit, min(width * self.num_ads // max(count, 1), MAX_WIDTH))

    def _search_collection(
        self, queries: np.ndarray, limit: int, expression: str, width: int
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        name = {"HNSW": "ef", "DISKANN": "search_list"}.get(self.kind)
        parameters = {} if name is None else {name: width}
        with self._call("searched"):
            found = self._loaded(
                self._client.search,
                self.collection,
                data=list(queries),
                limit=limit,
                filter=expression,
                output_fields=self._returned,
                search_params={"metric_type": "IP", "params": parameters},
            )
            return [
                (np.array(hits.distances, np.float32), np.array(hits.ids, np.int64))
                for hits in found
            ]

    def _loaded(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Calls Milvus; loads the collection first if a restart has unloaded it."""
        try:
            return method(*args, timeout=connection.remaining(), **options)
        except Exception as error:
            if getattr(error, "code", None) != _NOT_LOADED:
                raise
        self._client.load_collection(self.collection, timeout=connection.remaining())
        return method(*args, timeout=connection.remaining(), **options)

    def _compare_all(
        self, queries: np.ndarray, k: int, condition: milvus_fields.MilvusCondition
    ) -> tuple[np.ndarray, np.ndarray]:
        best = exact_search.BestRows(queries, k)
        for rows, embeddings in self._vectors(condition):
            kept = slice(None) if condition.rows is None else condition.rows.contains(rows)
            best.add(embeddings[kept], rows[kept])
        return best.found()

    def _vectors(
        self, condition: milvus_fields.MilvusCondition
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields rows and embeddings of the ads that match a condition's expression."""
        size = min(_MAX_RETURNED, max(connection.BYTES_PER_CALL // (4 * self.dimension), 1))
        few = self._count_once(condition.expression) <= size
        for first in range(0, self.num_ads, self.num_ads if few else size):
            clauses = [] if few else [f"row >= {first} and row < {first + size}"]
            clauses += [condition.expression] if condition.expression else []
            with self._call("read"):
                found = self._loaded(
                    self._client.query,
                    self.collection,
                    filter=" and ".join(f"({clause})" for clause in clauses) or "row >= 0",
                    output_fields=["row", "embedding"],
                    limit=size,
                )
            if found:
                rows = np.array([entity["row"] for entity in found], np.int64)
                yield rows, np.array([entity["embedding"] for entity in found], np.float32)

    def _call(self, action: str) -> contextlib.AbstractContextManager[None]:
        return connection.calls(self._uri, f"the collection {self.collection} cannot be {action}")


def _among(
    scores: np.ndarray, rows: np.ndarray, kept: row_set.RowSet | None, k: int
) -> tuple[np.ndarray, np.ndarray]:
    if kept is not None:
        is_kept = kept.contains(rows)
        scores, rows = scores[is_kept], rows[is_kept]
    return scores[:k], rows[:k]


def _stacked(
    found: list[tuple[np.ndarray, np.ndarray]], count: int
) -> tuple[np.ndarray, np.ndarray]:
    scores = np.empty((len(found), count), np.float32)
    rows = np.empty((len(found), count), np.int64)
    for query, (query_scores, query_rows) in enumerate(found):
        scores[query], rows[query] = query_scores[:count], query_rows[:count]
    return scores, rows
