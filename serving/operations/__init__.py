"""Tools for operators: checks of releases and running servers, and a local service."""

from serving.operations.doctor import (
    CheckFailedError,
    DoctorFinding,
    ServiceCheck,
    check_model_server,
    check_release,
    check_updates,
)
from serving.operations.local_service import describe_answer, open_service

__all__ = [
    "CheckFailedError",
    "DoctorFinding",
    "ServiceCheck",
    "check_model_server",
    "check_release",
    "check_updates",
    "describe_answer",
    "open_service",
]
