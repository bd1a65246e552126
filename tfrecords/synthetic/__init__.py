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

__all__ = [
    "AD_COLUMNS",
    "CATEGORICAL",
    "NUMERIC",
    "SyntheticLog",
    "World",
    "WorldConfig",
    "load_world",
    "schema",
    "write_log",
]
