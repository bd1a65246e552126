"""A synthetic world with known ground truth, and logs sampled from it."""

from tfrecords.synthetic.log import (
    AD_COLUMNS,
    CATEGORICAL,
    NUMERIC,
    SyntheticLog,
    load_world,
    schema,
    write_log,
)
from tfrecords.synthetic.population import WorldConfig
from tfrecords.synthetic.synthetic_world import World
from tfrecords.synthetic.topics import CONTENTS, TopicQueries, TopicWorld, TopicWorldConfig

__all__ = [
    "AD_COLUMNS",
    "CATEGORICAL",
    "CONTENTS",
    "NUMERIC",
    "SyntheticLog",
    "TopicQueries",
    "TopicWorld",
    "TopicWorldConfig",
    "World",
    "WorldConfig",
    "load_world",
    "schema",
    "write_log",
]
