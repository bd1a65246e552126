"""Synthetic worlds with known ground truth, and logs sampled from them."""

from tfrecords.synthetic.bilinear_population import AD_COLUMNS, CATEGORICAL, NUMERIC, schema
from tfrecords.synthetic.log import TRUTH_COLUMNS, SyntheticLog, load_world, write_log
from tfrecords.synthetic.topics import CONTENTS, TopicQueries, TopicWorld, TopicWorldConfig
from tfrecords.synthetic.world import (
    WORLDS,
    AnyConfig,
    SequenceConfig,
    ShopConfig,
    World,
    WorldConfig,
)

__all__ = [
    "AD_COLUMNS",
    "CATEGORICAL",
    "CONTENTS",
    "NUMERIC",
    "TRUTH_COLUMNS",
    "WORLDS",
    "AnyConfig",
    "SequenceConfig",
    "ShopConfig",
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
