"""Turns one request into one answer: query tower, index, ranker, rules.

Importing it does not load TensorFlow. `Orchestrator` and `describe_release` load it on first use;
what accepts events does not need it.
"""

from typing import TYPE_CHECKING, Any

from serving.orchestrator.admission import RETRY_AFTER_SECONDS, Admission
from serving.orchestrator.event_intake import EventIntake
from serving.orchestrator.micro_batching import answer_each
from serving.orchestrator.service_metrics import (
    METRICS_CONTENT_TYPE,
    METRICS_DIRECTORY_VARIABLE,
    ServiceMetrics,
)
from serving.orchestrator.user_data import UserData

if TYPE_CHECKING:
    from serving.orchestrator.orchestrator import Orchestrator
    from serving.orchestrator.release_description import describe_release

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


def __getattr__(name: str) -> Any:
    if name == "Orchestrator":
        from serving.orchestrator import orchestrator

        return orchestrator.Orchestrator
    if name == "describe_release":
        from serving.orchestrator import release_description

        return release_description.describe_release
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
