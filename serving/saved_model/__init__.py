"""Runs SavedModels in sessions, with TensorFlow's status codes and per-call deadlines."""

from serving.saved_model.session_runner import (
    IN_CALLER,
    SessionRunner,
    StatusError,
    deadline_at,
    feeds_of,
    invalid_argument,
    not_found,
    session_config,
    status_from_exception,
)

__all__ = [
    "IN_CALLER",
    "SessionRunner",
    "StatusError",
    "deadline_at",
    "feeds_of",
    "invalid_argument",
    "not_found",
    "session_config",
    "status_from_exception",
]
