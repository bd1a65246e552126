"""Requests and answers: their types, and the checks that a request must pass."""

from serving.requests.deadline import Deadline
from serving.requests.explanations import AdExplanation, AtCap, Explanation, LeftOut, Part
from serving.requests.filter_fields import FilterFields
from serving.requests.messages import Answer, Condition, Filters, RankedAd, Request
from serving.requests.query_fields import (
    Columns,
    QueryFields,
    as_digits,
    as_finite_float,
    check_value,
    shortened,
    suggestion,
)
from serving.requests.rule_fields import RuleFields
from serving.requests.rule_messages import Cap, Diversity, Rules, Seen
from serving.requests.validation import (
    MAX_DEADLINE_MS,
    MAX_REQUEST_ID_LENGTH,
    RELEASES,
    Validator,
    ValidRequest,
    check_release,
)

__all__ = [
    "MAX_DEADLINE_MS",
    "MAX_REQUEST_ID_LENGTH",
    "RELEASES",
    "AdExplanation",
    "Answer",
    "AtCap",
    "Cap",
    "Columns",
    "Condition",
    "Deadline",
    "Diversity",
    "Explanation",
    "FilterFields",
    "Filters",
    "LeftOut",
    "Part",
    "QueryFields",
    "RankedAd",
    "Request",
    "RuleFields",
    "Rules",
    "Seen",
    "ValidRequest",
    "Validator",
    "as_digits",
    "as_finite_float",
    "check_release",
    "check_value",
    "shortened",
    "suggestion",
]
