"""Requests and answers: one definition, and the checks that a request must pass."""

from serving.requests.answer import (
    AdExplanation,
    Answer,
    AtCap,
    Explanation,
    LeftOut,
    RankedAd,
    UtilityPart,
)
from serving.requests.deadline import Deadline
from serving.requests.event import (
    MAX_SECONDS_AHEAD,
    Event,
    EventBatch,
    EventFields,
    EventsAdded,
    UserDeleted,
    UserProfile,
)
from serving.requests.filter_fields import FilterFields
from serving.requests.parsing import joined, parse, refusal, shortened
from serving.requests.query_fields import Columns, QueryFields, as_finite_float, check_value
from serving.requests.request import (
    MAX_DEADLINE_MS,
    MAX_REQUEST_ID_LENGTH,
    RELEASES,
    Cap,
    Condition,
    Diversity,
    Exploration,
    Filters,
    FrequencyCap,
    ReleaseName,
    Request,
    RequestFields,
    Rules,
    Seen,
    as_digits,
)
from serving.requests.rule_fields import StoreLimits
from serving.requests.validation import Validator, ValidRequest

__all__ = [
    "MAX_DEADLINE_MS",
    "MAX_REQUEST_ID_LENGTH",
    "MAX_SECONDS_AHEAD",
    "RELEASES",
    "AdExplanation",
    "Answer",
    "AtCap",
    "Cap",
    "Columns",
    "Condition",
    "Deadline",
    "Diversity",
    "Event",
    "EventBatch",
    "EventFields",
    "EventsAdded",
    "Explanation",
    "Exploration",
    "FilterFields",
    "Filters",
    "FrequencyCap",
    "LeftOut",
    "QueryFields",
    "RankedAd",
    "ReleaseName",
    "Request",
    "RequestFields",
    "Rules",
    "Seen",
    "StoreLimits",
    "UserDeleted",
    "UserProfile",
    "UtilityPart",
    "ValidRequest",
    "Validator",
    "as_digits",
    "as_finite_float",
    "check_value",
    "joined",
    "parse",
    "refusal",
    "shortened",
]
