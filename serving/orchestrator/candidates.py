"""The retrieval stage: embeds queries, searches the index, and gathers candidate features.

Shapes: B requests, C candidates, F ad fields, D embedding size.
"""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence

import numpy as np

from serving import live, releases, requests


@dataclasses.dataclass(frozen=True)
class RequestCandidates:
    """The candidates of one request.

    Attributes:
        ads: Catalog snapshot that the rows refer to.
        rows: Catalog rows [C] int64 in retrieval order.
        scores: Retrieval scores [C] float32.
    """

    ads: live.LiveView
    rows: np.ndarray
    scores: np.ndarray


@dataclasses.dataclass(frozen=True)
class CandidateGroup:
    """Candidates of requests that have the same number of candidates.

    Attributes:
        positions: Positions [B] of the requests among those retrieved together.
        ads: Catalog snapshot that the rows refer to.
        columns: Model inputs of the requests, [B] each.
        scores: Inner products [B, C] float32, descending.
        rows: Catalog rows [B, C] int64.
        ad_features: Encoded ad features [B, C, F] int32.
        stage_ms: Duration of `query_tower`, `index` and `features` in milliseconds, for all
            requests retrieved together.
    """

    positions: list[int]
    ads: live.LiveView
    columns: requests.Columns
    scores: np.ndarray
    rows: np.ndarray
    ad_features: np.ndarray
    stage_ms: Mapping[str, float]

    def of(self, row: int, count: int | None = None) -> RequestCandidates:
        """Returns the candidates of one request.

        Args:
            row: Index of the request in the group.
            count: Maximum number of candidates. None: all.
        """
        return RequestCandidates(self.ads, self.rows[row, :count], self.scores[row, :count])

    def single(self, row: int) -> "CandidateGroup":
        """Returns a group with one request, at index `row` of this group."""
        only = slice(row, row + 1)
        return CandidateGroup(
            [0],
            self.ads,
            {name: column[only] for name, column in self.columns.items()},
            self.scores[only],
            self.rows[only],
            self.ad_features[only],
            self.stage_ms,
        )


def retrieve(
    tower: releases.QueryTower,
    ads: live.LiveView,
    fields: requests.QueryFields,
    valids: Sequence[requests.ValidRequest],
    k: int,
    timeout_seconds: float | None = None,
) -> list[CandidateGroup]:
    """Finds the candidates of requests. Filters may leave a request fewer than k, or none.

    Args:
        tower: Query tower.
        ads: Catalog snapshot to search.
        fields: Converts requests to model inputs.
        valids: Validated requests.
        k: Number of candidates to find for each request.
        timeout_seconds: Time after which the answers are no longer needed. None: no limit.

    Returns:
        Groups of requests with the same number of candidates.

    Raises:
        IndexUnavailableError: The index is in Milvus, which does not answer in time.
    """
    started = time.perf_counter()
    columns = fields.columns([valid.values for valid in valids])
    weights = np.array([list(valid.weights.values()) for valid in valids], np.float32)
    embeddings = tower.embed(columns, weights if weights.size else None)
    embedded = time.perf_counter()
    found = _search(ads, valids, embeddings, k, timeout_seconds)
    searched = time.perf_counter()
    groups: dict[int, list[int]] = {}
    for position, (_, rows) in enumerate(found):
        groups.setdefault(len(rows), []).append(position)
    stage_ms = {
        "query_tower": (embedded - started) * 1000,
        "index": (searched - embedded) * 1000,
        "features": 0.0,
    }
    result = []
    for positions in groups.values():
        if len(groups) > 1:
            columns = fields.columns([valids[position].values for position in positions])
        scores, rows = (np.stack([found[p][part] for p in positions]) for part in (0, 1))
        result.append(
            CandidateGroup(positions, ads, columns, scores, rows, ads.features(rows), stage_ms)
        )
    stage_ms["features"] = (time.perf_counter() - searched) * 1000
    return result


def _search(
    ads: live.LiveView,
    valids: Sequence[requests.ValidRequest],
    embeddings: np.ndarray,
    k: int,
    timeout_seconds: float | None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns scores and rows of each request. Requests with equal filters share a search."""
    until = math.inf if timeout_seconds is None else time.monotonic() + timeout_seconds
    groups: dict[requests.Filters | None, list[int]] = {}
    for position, valid in enumerate(valids):
        groups.setdefault(valid.filters, []).append(position)
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for filters, positions in groups.items():
        eligible = None if filters is None else ads.eligible(filters)
        # What is left for this group.
        seconds = None if timeout_seconds is None else until - time.monotonic()
        scores, rows = ads.search(embeddings[positions], k, eligible, seconds)
        found.update(zip(positions, zip(scores, rows, strict=True), strict=True))
    return [found[position] for position in range(len(valids))]
