"""What was shown, joined with what came of it: the next training log."""

from serving.impressions.feedback import Joined, join_feedback
from serving.impressions.impression_log import FILE_PATTERN, ImpressionLog, ImpressionLogConfig
from serving.impressions.logged_schema import newest_schema

__all__ = [
    "FILE_PATTERN",
    "ImpressionLog",
    "ImpressionLogConfig",
    "Joined",
    "join_feedback",
    "newest_schema",
]
