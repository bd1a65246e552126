"""Turns one request into one answer: query tower, index, ranker, rules."""

from serving.orchestrator.admission import RETRY_AFTER_SECONDS, Admission
from serving.orchestrator.event_intake import EventIntake
from serving.orchestrator.micro_batching import answer_each
from serving.orchestrator.orchestrator import Orchestrator, describe_release
from serving.orchestrator.service_metrics import (
    METRICS_CONTENT_TYPE,
    METRICS_DIRECTORY_VARIABLE,
    ServiceMetrics,
)
from serving.orchestrator.user_data import UserData

__all__ = [
    "METRICS_CONTENT_TYPE",
    "METRICS_DIRECTORY_VARIABLE",
    "RETRY_AFTER_SECONDS",
    "Admission",
    "EventIntake",
    "Orchestrator",
    "ServiceMetrics",
    "UserData",
    "answer_each",
    "describe_release",
]
