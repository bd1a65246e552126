"""Flags of business rules and of the impression log."""

from absl import flags

from serving import config
from serving.cli import config_flags

flags.DEFINE_string(
    "rules",
    None,
    "Business rules for requests without any: a JSON object, or a file with one, "
    'such as {"caps": [{"field": "advertiser", "max": 2}], "frequency_caps": [{"max": 3}], '
    '"diversity": [{"field": "category", "penalty": 0.3}], "exploration": {"share": 0.05}}.',
)
flags.DEFINE_string(
    "impression_log",
    None,
    "Directory of the impression log: Parquet files with the shown ads, which tfrec join_feedback "
    "joins with clicks; default: no log.",
)
config_flags.define_flags(config.ImpressionLogConfig)
FLAGS = flags.FLAGS


def log_config() -> config.ImpressionLogConfig:
    """Returns the impression log config of the flags."""
    return config_flags.from_flags(config.ImpressionLogConfig)
