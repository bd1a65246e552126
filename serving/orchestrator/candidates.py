"""The candidates of requests, as the retrieval stage finds them.

Shapes: B requests, C candidates, F ad fields.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from serving import live, requests


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
        ads: Catalog snapshot that the rows refer to.
        columns: Model inputs of the requests, [B] each.
        scores: Inner products [B, C] float32, descending.
        rows: Catalog rows [B, C] int64.
        ad_features: Encoded ad features [B, C, F] int32.
        stage_ms: Duration of `query_tower`, `index` and `features` in milliseconds, for all
            requests retrieved together.
    """

    ads: live.LiveView
    columns: requests.Columns
    scores: np.ndarray
    rows: np.ndarray
    ad_features: np.ndarray
    stage_ms: Mapping[str, float]

    def candidates_of(self, row: int, count: int | None = None) -> RequestCandidates:
        """Returns the candidates of one request."""
        return RequestCandidates(self.ads, self.rows[row, :count], self.scores[row, :count])


def joined(groups: Sequence[CandidateGroup]) -> CandidateGroup:
    """Returns groups with the same number of candidates as one group, in their order."""
    if len(groups) == 1:
        return groups[0]
    return dataclasses.replace(
        groups[0],
        columns=requests.join_columns([group.columns for group in groups]),
        scores=np.concatenate([group.scores for group in groups]),
        rows=np.concatenate([group.rows for group in groups]),
        ad_features=np.concatenate([group.ad_features for group in groups]),
    )
