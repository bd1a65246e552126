"""The REST bodies as pydantic models: they check types and document the service.

What a release accepts (its fields, heads and limits) is checked by `validation`, so that REST
and in-process callers read the same messages.
"""

from typing import Annotated, Any

import pydantic

from serving import requests
from serving.config import MAX_BATCH_SIZE


class CapBody(pydantic.BaseModel):
    """At most so many ads of the answer with the same value of a field."""

    model_config = pydantic.ConfigDict(extra="forbid")

    field: Annotated[str, pydantic.Strict()] = pydantic.Field(
        description="Name of a categorical or list field of the ads."
    )
    most: Annotated[int, pydantic.Strict()] = pydantic.Field(description="At least 1.")


class FrequencyCapBody(pydantic.BaseModel):
    """What the user has seen so often, as `seen` says, does not come."""

    model_config = pydantic.ConfigDict(extra="forbid")

    field: Annotated[str, pydantic.Strict()] | None = pydantic.Field(
        None, description="Ad field whose values are counted; null = the ads themselves."
    )
    most: Annotated[int, pydantic.Strict()] = pydantic.Field(
        description="Seen so many times, it does not come any more."
    )


class DiversityBody(pydantic.BaseModel):
    """Makes an ad worth less for each ad above it with the same value of a field."""

    model_config = pydantic.ConfigDict(extra="forbid")

    field: Annotated[str, pydantic.Strict()] = pydantic.Field(
        description="Name of a categorical or list field of the ads."
    )
    penalty: Annotated[float, pydantic.Strict()] = pydantic.Field(
        description="Share of the worth that each such ad above takes, 0 to 1."
    )


class ExplorationBody(pydantic.BaseModel):
    """Gives a share of the slots to ads drawn evenly from the candidates."""

    model_config = pydantic.ConfigDict(extra="forbid")

    share: Annotated[float, pydantic.Strict()] = pydantic.Field(
        description="Probability with which a slot is drawn, 0 to 1."
    )
    among: Annotated[int, pydantic.Strict()] | None = pydantic.Field(
        None, description="Draws from so many of the best candidates; null = from all."
    )


class RulesBody(pydantic.BaseModel):
    """What the answer as a whole must keep to.

    A part that is null is the service's default; an empty list, or a share of 0, turns it off.
    """

    model_config = pydantic.ConfigDict(extra="forbid")

    caps: list[CapBody] | None = None
    frequency_caps: list[FrequencyCapBody] | None = None
    diversity: list[DiversityBody] | None = None
    exploration: ExplorationBody | None = None


class SeenBody(pydantic.BaseModel):
    """How often the user has seen what."""

    model_config = pydantic.ConfigDict(extra="forbid")

    ads: dict[str, Annotated[int, pydantic.Strict()]] | None = pydantic.Field(
        None, description="Ad id -> times."
    )
    fields: dict[str, dict[str, Annotated[int, pydantic.Strict()]]] | None = pydantic.Field(
        None, description="Ad field -> value -> times."
    )


class PartBody(pydantic.BaseModel):
    """What one head gives to a utility: score times weight."""

    score: float
    weight: float
    part: float


class AdExplanationBody(pydantic.BaseModel):
    """Why one ad is in its slot."""

    parts: dict[str, PartBody] | None = pydantic.Field(
        description="Of each head; they sum to the utility. Null in a degraded answer."
    )
    place_without_rules: int
    diversity_factor: float
    explored: bool


class LeftOutBody(pydantic.BaseModel):
    """Candidates that stood above the last ad of the answer and did not come."""

    rule: str = pydantic.Field(description="cap, diversity or exploration.")
    field: str | None
    count: int
    ads: list[str] = pydantic.Field(description="The best of them, at most ten.")


class AtCapBody(pydantic.BaseModel):
    """How many values of a field, or ads where it is null, were seen too often."""

    field: str | None
    count: int


class ExplanationBody(pydantic.BaseModel):
    """What the rules did to the answer."""

    candidates: int
    at_frequency_cap: list[AtCapBody]
    left_out: list[LeftOutBody]
    explored_slots: int


class ConditionBody(pydantic.BaseModel):
    """What one display field of an eligible ad must hold; every part that is given must.

    A missing value fails every part but `none_of`.
    """

    model_config = pydantic.ConfigDict(extra="forbid")

    field: Annotated[str, pydantic.Strict()] = pydantic.Field(description="Name of an ad field.")
    any_of: list[Any] | None = pydantic.Field(
        None, description="At least one of these values; numbers of a numeric field."
    )
    none_of: list[Any] | None = pydantic.Field(None, description="None of these values.")
    all_of: list[Any] | None = pydantic.Field(
        None, description="Each of these values, in a list field."
    )
    at_least: Annotated[float, pydantic.Strict()] | None = pydantic.Field(
        None, description="The least number, in a numeric field."
    )
    at_most: Annotated[float, pydantic.Strict()] | None = pydantic.Field(
        None, description="The greatest number, in a numeric field."
    )


class FiltersBody(pydantic.BaseModel):
    """Which ads may answer: those that meet every condition and both lists."""

    model_config = pydantic.ConfigDict(extra="forbid")

    conditions: list[ConditionBody] | None = pydantic.Field(
        None, description="All of them must hold."
    )
    allowed_ads: list[Any] | None = pydantic.Field(
        None, description="Ad ids; no other ad comes. Unknown ids are simply not there."
    )
    excluded_ads: list[Any] | None = pydantic.Field(None, description="Ad ids that do not come.")


class RequestBody(pydantic.BaseModel):
    """One request; all of it is optional, null and absent are the same."""

    model_config = pydantic.ConfigDict(extra="forbid")

    user: dict[str, Any] | None = pydantic.Field(
        None,
        description="Raw query fields that describe the user: a string, a number, or for a list "
        "field a list of strings, the latest last. Null = missing value.",
    )
    context: dict[str, Any] | None = pydantic.Field(
        None, description="Raw query fields that describe the situation; merged with user."
    )
    k: Annotated[int, pydantic.Strict()] | None = pydantic.Field(
        None, description="Ads wanted; default 10. More than the catalogue holds gives all of it."
    )
    weights: dict[str, Annotated[float, pydantic.Strict()]] | None = pydantic.Field(
        None,
        description="Utility weight of click, engagement and revenue; 1 for a head not named.",
    )
    deadline_ms: Annotated[float, pydantic.Strict()] | None = pydantic.Field(
        None, description="Time for the answer; when it runs out, ads come in retrieval order."
    )
    request_id: Annotated[str, pydantic.Strict()] | None = pydantic.Field(
        None, description="Comes back in the answer."
    )
    filters: FiltersBody | None = pydantic.Field(
        None, description="Which ads are eligible; fewer than k may be, or none."
    )
    rules: RulesBody | None = pydantic.Field(
        None, description="Caps, diversity and exploration; what is null is the service's default."
    )
    seen: SeenBody | None = pydantic.Field(
        None, description="How often the user has seen what, for frequency caps."
    )
    explain: Annotated[bool, pydantic.Strict()] | None = pydantic.Field(
        None, description="Whether the answer says why it is as it is."
    )
    release: Annotated[str, pydantic.Strict()] | None = pydantic.Field(
        None,
        description="stable or canary, to be answered by that release; without a canary both are "
        "the stable one. Null = by the canary's share.",
    )
    dry_run: Annotated[bool, pydantic.Strict()] | None = pydantic.Field(
        None,
        description="Whether nobody is shown the answer: it stays out of the impression log and of "
        "the metrics of answers.",
    )

    def to_request(self) -> requests.Request:
        """Returns the request that the orchestrator takes."""
        return requests.Request(
            user=self.user or {},
            context=self.context or {},
            k=self.k,
            weights=self.weights,
            deadline_ms=self.deadline_ms,
            request_id=self.request_id,
            filters=None if self.filters is None else self.filters.model_dump(),
            rules=None if self.rules is None else self.rules.model_dump(),
            seen=None if self.seen is None else self.seen.model_dump(),
            explain=bool(self.explain),
            release=self.release,
            dry_run=bool(self.dry_run),
        )


class BatchRequestBody(pydantic.BaseModel):
    """Many requests."""

    model_config = pydantic.ConfigDict(extra="forbid")

    requests: list[RequestBody] = pydantic.Field(max_length=MAX_BATCH_SIZE)


class AdBody(pydantic.BaseModel):
    """One ranked ad."""

    rank: int
    ad_id: str
    utility: float | None
    click_probability: float | None
    engagement_probability: float | None
    expected_revenue: float | None
    retrieval_score: float
    fields: dict[str, Any]
    propensity: float = pydantic.Field(
        description="Probability of this ad in this slot, given the ads above it."
    )
    explanation: AdExplanationBody | None = pydantic.Field(
        None, description="Absent unless the request asks."
    )


class AnswerBody(pydantic.BaseModel):
    """The ads for one request, best first."""

    model_config = pydantic.ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "request_id": "42",
                    "bundle_version": 3,
                    "degraded": None,
                    "order": "utility",
                    "ads": [
                        {
                            "rank": 1,
                            "ad_id": "ad-17",
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
                                "place_without_rules": 2,
                                "diversity_factor": 1.0,
                                "explored": False,
                            },
                        }
                    ],
                    "absent_heads": [],
                    "stage_ms": {
                        "query_tower": 0.9,
                        "index": 0.8,
                        "features": 0.1,
                        "ranker": 5.2,
                        "total": 8.0,
                    },
                    "shortage": None,
                    "explanation": {
                        "candidates": 500,
                        "at_frequency_cap": [{"field": None, "count": 1}],
                        "left_out": [
                            {"rule": "cap", "field": "advertiser", "count": 1, "ads": ["ad-3"]}
                        ],
                        "explored_slots": 0,
                    },
                }
            ]
        }
    )

    request_id: str
    bundle_version: int
    degraded: str | None = pydantic.Field(
        description="Null, or why fewer candidates were ranked than were found, or none."
    )
    order: str = pydantic.Field(
        description="utility, or retrieval where no candidate was ranked: no scores then."
    )
    ads: list[AdBody]
    absent_heads: list[str]
    stage_ms: dict[str, float]
    shortage: str | None = pydantic.Field(
        None, description="Null, or why there are fewer ads than asked for."
    )
    explanation: ExplanationBody | None = pydantic.Field(
        None, description="Absent unless the request asks."
    )


class BatchAnswerBody(pydantic.BaseModel):
    """The answers of a batch, in the order of its requests."""

    responses: list[AnswerBody]


class ReadyBody(pydantic.BaseModel):
    """A service that is ready."""

    status: str = pydantic.Field(description="ready.")
    degraded: str | None = pydantic.Field(
        description="Null, or why answers come in retrieval order now."
    )
    refused: str | None = pydantic.Field(
        None, description="Why a newer release is not served; absent where there is none."
    )


class ErrorDetail(pydantic.BaseModel):
    """What went wrong."""

    code: str
    message: str


class ErrorBody(pydantic.BaseModel):
    """Any error."""

    model_config = pydantic.ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "code": "invalid_request",
                        "message": "k: expected an integer of at least 1, got 0 (int).",
                    }
                }
            ]
        }
    )

    error: ErrorDetail
