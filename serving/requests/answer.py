"""An answer: the one definition for REST, the clients and the orchestrator.

The descriptions are the text of the OpenAPI document. Unknown keys are ignored, so that the
clients can read the answers of a newer service; unknown keys of an ad are kept, as scores of its
heads.
"""

import math
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import pydantic

from serving.requests.request import ReleaseName

if TYPE_CHECKING:
    import pandas as pd

_Value = TypeVar("_Value")
_AbsentIfNone = Annotated[_Value | None, pydantic.Field(exclude_if=lambda value: value is None)]


def _one_of(*values: str) -> pydantic.WithJsonSchema:
    """Lists the values of a string in the schema; clients also accept those of newer services."""
    return pydantic.WithJsonSchema({"type": "string", "enum": values})


# Columns of the frame of every answer.
_TYPES = {
    "rank": "int64",
    "ad_id": str,
    "utility": "float64",
    "retrieval_score": "float64",
    "propensity": "float64",
}


class AnswerPart(pydantic.BaseModel):
    """Base of all parts of an answer; immutable."""

    model_config = pydantic.ConfigDict(frozen=True, use_attribute_docstrings=True)


class UtilityPart(AnswerPart):
    """Contribution of one head to a utility."""

    score: float
    """Score of the head."""
    weight: float
    """Weight of the head in the request."""
    part: float
    """Score times weight."""


class AdExplanation(AnswerPart):
    """Why an ad is at its position."""

    parts: dict[str, UtilityPart] | None
    """Head to its contribution; they sum to the utility. Null in retrieval order."""
    rank_without_rules: int
    """Rank among the candidates before the rules: by utility, or in retrieval order by retrieval
    score. 1 is the best."""
    diversity_factor: float
    """Factor by which diversity multiplies the utility, in [0, 1]."""
    explored: bool
    """Whether the ad was drawn at random."""


class LeftOut(AnswerPart):
    """Candidates that a rule left out although they rank above the last ad of the answer."""

    rule: Annotated[str, _one_of("cap", "frequency_cap", "diversity", "exploration")]
    """Kind of the rule. A candidate left out by several caps counts for each of them; it counts for
    other rules only if no cap leaves it out."""
    field: str | None
    """Field of the cap; null for other rules."""
    count: int
    """Number of candidates."""
    ads: list[str]
    """Ids of the best of them, at most ten."""


class AtCap(AnswerPart):
    """Values or ads that have reached a frequency cap."""

    field: str | None
    """Field of the cap. Null: the ads themselves are counted."""
    count: int
    """Number of values, or ads, that reached the cap."""


class Explanation(AnswerPart):
    """The effect of the rules on an answer."""

    candidates: int
    """Number of eligible ads that the answer was chosen from."""
    at_frequency_cap: list[AtCap]
    """Frequency caps that the user has reached."""
    left_out: list[LeftOut]
    """Rules that left candidates out."""
    explored_slots: int
    """Number of positions that were drawn at random."""


class RankedAd(AnswerPart):
    """One ad of an answer.

    The scores of the heads are further attributes: a number under the name of each head's output in
    the manifest, such as `click_probability`. A score is null if the release was not trained for
    the head, and in retrieval order.
    """

    model_config = pydantic.ConfigDict(extra="allow")

    rank: int
    """Position; 1 is the best."""
    ad_id: str
    """Id of the ad in the catalog."""
    show: dict[str, Any] = pydantic.Field(default_factory=dict, exclude_if=lambda value: not value)
    """Values of the columns in the schema's `show`, such as a title: any JSON values. No model
    reads them. Absent if the schema has no such columns."""
    utility: float | None
    """Weighted sum of the heads' scores. Null in retrieval order."""
    retrieval_score: float
    """Inner product of the embeddings of the query and the ad."""
    fields: dict[str, Any]
    """Raw ad fields for display: strings, numbers, lists of strings and null."""
    propensity: float = 1.0
    """Probability of this ad at this position, given the ads above it; 1 without exploration. The
    product over all positions is the probability of the list."""
    explanation: _AbsentIfNone[AdExplanation] = None
    """Why the ad is at its position. Absent unless requested."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Returns the score of a head."""


_EXAMPLE: dict[str, Any] = {
    "request_id": "42",
    "bundle_version": 3,
    "degraded": None,
    "order": "utility",
    "ads": [
        {
            "rank": 1,
            "ad_id": "ad-17",
            "show": {"title": "Trail Shoe"},
            "utility": 0.31,
            "click_probability": 0.21,
            "engagement_probability": 0.04,
            "expected_revenue": 0.12,
            "retrieval_score": 0.83,
            "fields": {"advertiser": "a9", "price": 12.5, "tags": ["shoes"]},
            "propensity": 0.9505,
            "explanation": {
                "parts": {
                    "click": {"score": 0.21, "weight": 1.0, "part": 0.21},
                    "engagement": {"score": 0.04, "weight": 1.0, "part": 0.04},
                    "revenue": {"score": 0.12, "weight": 0.5, "part": 0.06},
                },
                "rank_without_rules": 2,
                "diversity_factor": 1.0,
                "explored": False,
            },
        }
    ],
    "absent_heads": [],
    "weak_heads": [],
    "stage_ms": {"query_tower": 0.9, "index": 0.8, "features": 0.1, "ranker": 5.2, "total": 8.0},
    "shortage": None,
    "explanation": {
        "candidates": 500,
        "at_frequency_cap": [{"field": None, "count": 1}],
        "left_out": [{"rule": "cap", "field": "advertiser", "count": 1, "ads": ["ad-3"]}],
        "explored_slots": 0,
    },
}


class Answer(AnswerPart):
    """The ads for one request, best first."""

    model_config = pydantic.ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    request_id: str
    """Id of the request; generated by default."""
    bundle_version: int
    """Version of the release that produced every number in this answer."""
    release: _AbsentIfNone[ReleaseName] = None
    """Role of the release that answered: canary, or stable, which also answers requests for a
    canary if there is none. Absent if the request names no release."""
    degraded: str | None
    """Why only some candidates, or none, were ranked. Null: all were ranked, or the release has no
    ranker."""
    order: Annotated[str, _one_of("utility", "retrieval")]
    """utility, or retrieval if no candidate was ranked; the ads have no scores then."""
    ads: list[RankedAd]
    """At most k ads; fewer if fewer are eligible."""
    absent_heads: list[str]
    """Heads that this release was not trained for."""
    weak_heads: list[str] = []
    """Heads that have a weight in this request but are weak in the release; `GET /v1/bundle` says
    why."""
    stage_ms: dict[str, float]
    """Milliseconds of query_tower, index, features and ranker, of the user store if it was read
    (users), and in total. In a batch, the stages cover all requests that were computed
    together."""
    user_data: _AbsentIfNone[Annotated[str, _one_of("found", "unknown", "late", "failed")]] = None
    """Outcome of the user store: found, or unknown if it has no data on the user that the request
    needs; impressions are needed for frequency caps only. late or failed: the store did not answer,
    so this answer does not use its data. Absent without a user store, or without a user id."""
    shortage: str | None = None
    """Why there are fewer than k ads. Null: there are k."""
    explanation: _AbsentIfNone[Explanation] = None
    """Effect of the rules. Absent unless requested."""
    candidates: _AbsentIfNone[list[RankedAd]] = None
    """All candidates that were ranked, in retrieval order; `rank` is the position in that order.
    Absent unless requested."""

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON object, explanations only if there are any."""
        return self.model_dump()

    def to_pandas(self) -> "pd.DataFrame":
        """Returns a frame with a row for each ad, best first.

        Columns: `rank`, `ad_id`, `utility`, the scores of the heads, such as `click_probability`,
        `retrieval_score` and `propensity`; then the ad's fields, each under its name, or as
        `fields.NAME` if that is the name of another column; then the columns to show, or
        `show.NAME` in the same case. Missing scores are NaN. Without ads, the names of heads and
        fields are unknown: the frame has only the columns of every answer, `rank` (int64), `ad_id`,
        `utility`, `retrieval_score` and `propensity` (float64).
        """
        import pandas as pd

        rows = []
        for ad in self.ads:
            row = {
                "rank": ad.rank,
                "ad_id": ad.ad_id,
                "utility": ad.utility,
                **(ad.model_extra or {}),
                "retrieval_score": ad.retrieval_score,
                "propensity": ad.propensity,
            }
            row = {name: math.nan if value is None else value for name, value in row.items()}
            for part, values in (("fields", ad.fields), ("show", ad.show)):
                row |= {(f"{part}.{n}" if n in row else n): value for n, value in values.items()}
            rows.append(row)
        return pd.DataFrame(rows, columns=None if rows else list(_TYPES)).astype(_TYPES)
