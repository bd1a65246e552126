"""Logs shown ads and joins them with feedback, which gives the next training log."""

from serving.impressions.feedback import Joined, join_feedback
from serving.impressions.feedback_log import FEEDBACK_PATTERN, FeedbackLog
from serving.impressions.impression_log import FILE_PATTERN, ImpressionLog, prepare_directory
from serving.impressions.logged_schema import counts_as_shown, newest_schema, read_file

__all__ = [
    "FEEDBACK_PATTERN",
    "FILE_PATTERN",
    "FeedbackLog",
    "ImpressionLog",
    "Joined",
    "counts_as_shown",
    "join_feedback",
    "newest_schema",
    "prepare_directory",
    "read_file",
]
