"""Flags of business rules and of the impression log, shared by the commands that answer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from absl import flags

from serving import config
from serving.cli.flags import json_flag

if TYPE_CHECKING:
    from serving import impressions

flags.DEFINE_string(
    "rules",
    None,
    "Business rules of requests that name none: a JSON object, or a file with one, "
    'such as {"caps": [{"field": "advertiser", "max": 2}], "frequency_caps": [{"max": 3}], '
    '"diversity": [{"field": "category", "penalty": 0.3}], "exploration": {"share": 0.05}}.',
)
flags.DEFINE_string(
    "impression_log",
    None,
    "Directory for the log of what was shown, in Parquet files that tfrec join_feedback joins "
    "with clicks; default: nothing is logged.",
)
flags.DEFINE_float(
    "impression_log_seconds",
    config.ImpressionLogConfig().seconds_per_file,
    "Age of its first row at which a file of the impression log is written.",
    lower_bound=0.1,
)
FLAGS = flags.FLAGS


def rules() -> dict[str, Any] | None:
    """Returns the default rules that the flag gives.

    Raises:
        FileNotFoundError, ValueError: As `json_flag.value`.
    """
    return json_flag.value("rules")


@contextlib.contextmanager
def open_log() -> Iterator[impressions.ImpressionLog | None]:
    """Opens the impression log that the flags ask for, and writes the rest of it at the end.

    Raises:
        ImpressionLogError: The directory cannot be written.
    """
    if FLAGS.impression_log is None:
        yield None
        return
    from serving import impressions

    log = impressions.ImpressionLog(FLAGS.impression_log, log_config())
    try:
        yield log
    finally:
        log.close()


def log_config() -> config.ImpressionLogConfig:
    """Returns how the flags want the impression log written."""
    return config.ImpressionLogConfig(seconds_per_file=FLAGS.impression_log_seconds)
