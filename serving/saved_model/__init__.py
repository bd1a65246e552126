"""Runs SavedModels in sessions, with TensorFlow's status codes and per-call deadlines."""

from serving.saved_model.call_deadline import deadline_at
from serving.saved_model.rpc_status import (
    StatusError,
    failed_precondition,
    invalid_argument,
    not_found,
    status_from_exception,
    unimplemented,
)
from serving.saved_model.session_runner import (
    IN_CALLER,
    TIMED_OUT,
    SessionRunner,
    feeds_of,
    session_config,
)

__all__ = [
    "IN_CALLER",
    "TIMED_OUT",
    "SessionRunner",
    "StatusError",
    "deadline_at",
    "failed_precondition",
    "feeds_of",
    "invalid_argument",
    "not_found",
    "session_config",
    "status_from_exception",
    "unimplemented",
]
