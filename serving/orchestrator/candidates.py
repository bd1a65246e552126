"""The first stage of an answer: query tower, index, and the candidates' features.

Shapes: B requests, C candidates, F ad fields, D embedding size.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from serving import releases, requests


class CandidateSource(Protocol):
    """The catalogue at one moment: an `AdIndex`, or a view of a live index."""

    def eligible(self, filters: requests.Filters) -> Any:
        """Returns the ads that meet checked filters, for `search`."""

    def search(
        self, query_embeddings: np.ndarray, k: int, eligible: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns scores and rows [B, C] of the best ads, as `Searcher.search`."""

    def features(self, rows: np.ndarray) -> np.ndarray:
        """Returns the encoded features [B, C, F] int32 of rows [B, C]."""

    def ad_ids(self, rows: np.ndarray) -> list[str]:
        """Returns the ad ids of rows [C]."""

    def display(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """Returns the raw fields of rows [C]."""

    def listed(self, rows: np.ndarray) -> list[tuple[str, dict[str, Any]]]:
        """Returns `ad_ids` and `display` of rows [C] together, for one look-up."""

    def column(self, rows: np.ndarray, field: str) -> pa.Array:
        """Returns the raw values of one field of rows [C]."""


@dataclasses.dataclass(frozen=True)
class RequestCandidates:
    """The candidates of one request.

    Attributes:
        ads: What the rows belong to.
        rows: [C] int64, in retrieval order.
        scores: [C] float32, their retrieval scores.
    """

    ads: CandidateSource
    rows: np.ndarray
    scores: np.ndarray


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Candidates of requests that have equally many of them.

    Attributes:
        positions: [B] of the requests, among those that were retrieved together.
        ads: What the rows belong to.
        columns: The requests as the models' inputs, [B] each.
        scores: [B, C] float32 inner products, descending.
        rows: [B, C] int64.
        ad_features: [B, C, F] int32.
        stage_ms: Milliseconds of `query_tower`, `index` and `features`, of all that were
            retrieved together.
    """

    positions: list[int]
    ads: CandidateSource
    columns: requests.Columns
    scores: np.ndarray
    rows: np.ndarray
    ad_features: np.ndarray
    stage_ms: Mapping[str, float]

    def of(self, row: int, count: int | None = None) -> RequestCandidates:
        """Returns the candidates of one request, at `row` of the B; the first `count`, or all."""
        return RequestCandidates(self.ads, self.rows[row, :count], self.scores[row, :count])

    def alone(self, place: int) -> "Candidates":
        """Returns those of one request, at `place` of the B."""
        only = slice(place, place + 1)
        return Candidates(
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
    ads: CandidateSource,
    fields: requests.QueryFields,
    valids: Sequence[requests.ValidRequest],
    k: int,
) -> list[Candidates]:
    """Finds the candidates of requests; filters may leave some with fewer than k, or with none.

    Args:
        tower: Embeds the queries.
        ads: What is searched.
        fields: Lays the requests out.
        valids: The requests.
        k: Candidates wanted for each.
    """
    started = time.perf_counter()
    columns = fields.columns([valid.values for valid in valids])
    embeddings = tower.embed(columns)
    embedded = time.perf_counter()
    found = _search(ads, valids, embeddings, k)
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
            Candidates(positions, ads, columns, scores, rows, ads.features(rows), stage_ms)
        )
    stage_ms["features"] = (time.perf_counter() - searched) * 1000
    return result


def _search(
    ads: CandidateSource, valids: Sequence[requests.ValidRequest], embeddings: np.ndarray, k: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns scores and rows of each request; equal filters are searched together."""
    groups: dict[requests.Filters | None, list[int]] = {}
    for position, valid in enumerate(valids):
        groups.setdefault(valid.filters, []).append(position)
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for filters, positions in groups.items():
        eligible = None if filters is None else ads.eligible(filters)
        scores, rows = ads.search(embeddings[positions], k, eligible)
        found.update(zip(positions, zip(scores, rows, strict=True), strict=True))
    return [found[position] for position in range(len(valids))]
