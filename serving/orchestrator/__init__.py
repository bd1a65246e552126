"""Turns one request into one answer: query tower, index, ranker, rules."""

from serving.orchestrator.admission import RETRY_AFTER_SECONDS
from serving.orchestrator.answers import ranked_answer
from serving.orchestrator.candidates import RequestCandidates
from serving.orchestrator.orchestrator import Orchestrator
from serving.orchestrator.release_description import describe_release
from serving.orchestrator.request_batch import Answered
from serving.orchestrator.service_metrics import (
    METRICS_CONTENT_TYPE,
    METRICS_DIRECTORY_VARIABLE,
    ServiceMetrics,
)

__all__ = [
    "METRICS_CONTENT_TYPE",
    "METRICS_DIRECTORY_VARIABLE",
    "RETRY_AFTER_SECONDS",
    "Answered",
    "Orchestrator",
    "RequestCandidates",
    "ServiceMetrics",
    "describe_release",
    "ranked_answer",
]
