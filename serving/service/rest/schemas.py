"""The REST bodies around `requests.Request` and `requests.Answer`, as pydantic models."""

from typing import Any, Literal

import pydantic

from serving.config import MAX_BATCH_SIZE
from serving.requests import Answer, EventKind, Request


class _Described(pydantic.BaseModel):
    """Base of replies, which only the OpenAPI document uses; replies may have more keys."""

    model_config = pydantic.ConfigDict(use_attribute_docstrings=True)


class BatchRequest(pydantic.BaseModel):
    """Many requests."""

    model_config = pydantic.ConfigDict(extra="forbid")

    requests: list[Request] = pydantic.Field(max_length=MAX_BATCH_SIZE)


class BatchAnswer(pydantic.BaseModel):
    """The answers of a batch, in the order of its requests."""

    responses: list[Answer]


class RawField(_Described):
    """A raw field of queries or ads."""

    name: str
    """Name of the field."""
    kind: Literal["categorical", "numeric", "categorical_list", "numeric_list", "dense", "text"]
    """Kind of its values."""
    length: int | None = None
    """Number of values of a vector; absent for other kinds."""
    of: str | None = None
    """History whose events the list describes; absent for other fields."""


class RequestLimits(_Described):
    """Limits and defaults of requests."""

    num_candidates: int
    """Number of candidates that are ranked."""
    default_k: int
    """Number of ads of a request without k."""
    max_k: int
    """Maximum k."""
    max_ads_per_call: int
    """Maximum number of ads and candidates in the answers to a call."""
    default_deadline_ms: float
    """Deadline of a request without one, in milliseconds."""


class LoadedRelease(_Described):
    """A loaded release, and the requests to it since it was loaded."""

    version: int
    """Release version."""
    role: Literal["stable", "canary", "ending"]
    """An ending release answers only the requests that it has."""
    in_flight: int
    """Number of requests in flight."""
    answered: int
    """Number of answers."""
    degraded: int
    """Number of degraded answers."""
    failed: int
    """Number of requests that failed."""


class BundleBody(_Described):
    """A served release, and the state of the process that describes it."""

    version: int
    """Release version."""
    created: str
    """Time of publication, ISO 8601 in UTC."""
    training_id: str
    """Id of the training run."""
    dataset_fingerprint: str
    """Fingerprint of the schema and the vocabularies; empty without a data set."""
    query_fields: list[RawField]
    """Fields of `user` and `context`."""
    ad_fields: list[RawField]
    """Fields of ads."""
    parts: list[str]
    """Parts of the release; ranker is optional."""
    heads: dict[str, bool]
    """Head to whether it is trained."""
    weak_heads: dict[str, str]
    """Weak head to the reason and a remedy."""
    outputs: dict[str, str]
    """Trained head to its score in answers."""
    weights: dict[str, float]
    """Trained head to its default weight."""
    weights_source: Literal["schema", "values", "standardized", "equal"]
    """Source of the default weights."""
    index: dict[str, Any]
    """Kind, parameters and recall of the ad index."""
    metrics: dict[str, Any]
    """Metrics of the evaluation."""
    live: dict[str, Any]
    """State of the live updates; num_ads is the current number of ads."""
    impression_log: dict[str, Any] | None
    """State of the impression log. Null: there is no log."""
    user_store: dict[str, Any] | None
    """State of the user store. Null: there is no store."""
    limits: RequestLimits
    """Limits and defaults of requests."""
    sample_requests: list[dict[str, Any]]
    """Raw query fields of requests that were tested at the export."""
    releases: list[LoadedRelease]
    """All loaded releases."""
    refused: str | None
    """Why a newer release is not served. Null: none was refused."""


class KeptEvent(_Described):
    """An event of a user as the user store keeps it."""

    event_id: str
    """Id of the event."""
    kind: EventKind
    """Kind of the event."""
    ad_id: str
    """Id of the ad."""
    time: float
    """Time of the event, in seconds since 1970."""
    amount: float | None
    """Revenue. Null for other kinds."""


class UserBody(_Described):
    """The stored data of a user."""

    profile: dict[str, Any]
    """Raw query fields that describe the user."""
    actions: list[KeptEvent]
    """Clicks, engagements and revenue, oldest first."""
    impressions: list[KeptEvent]
    """Impressions, oldest first."""


class ReadyBody(_Described):
    """A service that is ready."""

    status: Literal["ready"]
    """ready."""
    degraded: str | None
    """Current problems: why answers are in retrieval order, lack live updates or users,
    or are not logged. Null: none."""
    refused: str | None = None
    """Why a newer release is not served. Absent if no release was refused."""


class ErrorDetail(pydantic.BaseModel):
    """Details of an error."""

    code: str
    message: str


class ErrorBody(pydantic.BaseModel):
    """Any error."""

    error: ErrorDetail


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request is refused."},
    "5XX": {"model": ErrorBody, "description": "The service cannot answer at the moment."},
}
