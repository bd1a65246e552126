"""Converts parsed rows to an encoder, an ad catalog and sharded TFRecords."""

from tfrecords.conversion.catalog import ads_of_table
from tfrecords.conversion.event_rates import smoothed_rates
from tfrecords.conversion.negatives import NegativeSampler
from tfrecords.conversion.packing import Packer
from tfrecords.conversion.stages import (
    SplitLog,
    StageOptions,
    Stages,
    load_split,
    save_split,
)
from tfrecords.conversion.workspace import (
    Workspace,
    check_output,
    lock_directory,
)

__all__ = [
    "NegativeSampler",
    "Packer",
    "SplitLog",
    "StageOptions",
    "Stages",
    "Workspace",
    "ads_of_table",
    "check_output",
    "load_split",
    "lock_directory",
    "save_split",
    "smoothed_rates",
]
