"""Logs shown ads and joins them with feedback, which gives the next training log."""

from serving.impressions.feedback import Joined, join_feedback
from serving.impressions.feedback_log import FEEDBACK_PATTERN, FeedbackLog
from serving.impressions.impression_log import FILE_PATTERN, ImpressionLog, prepare_directory
from serving.impressions.logged_schema import read_file

__all__ = [
    "FEEDBACK_PATTERN",
    "FILE_PATTERN",
    "FeedbackLog",
    "ImpressionLog",
    "Joined",
    "join_feedback",
    "prepare_directory",
    "read_file",
]
