"""Synthetic worlds with known ground truth, and logs sampled from them."""

from tfrecords.synthetic.bilinear_population import schema
from tfrecords.synthetic.log import TRUTH_COLUMNS, SyntheticLog, load_world, write_log
from tfrecords.synthetic.topics import CONTENTS, TopicWorld, TopicWorldConfig
from tfrecords.synthetic.world import WORLDS, AnyConfig, World, WorldConfig

__all__ = [
    "CONTENTS",
    "TRUTH_COLUMNS",
    "WORLDS",
    "AnyConfig",
    "SyntheticLog",
    "TopicWorld",
    "TopicWorldConfig",
    "World",
    "WorldConfig",
    "load_world",
    "schema",
    "write_log",
]
