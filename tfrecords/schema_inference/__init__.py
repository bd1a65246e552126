"""Proposes a schema for a log from its first rows."""

from tfrecords.schema_inference.proposal import write_proposal

__all__ = [
    "write_proposal",
]
