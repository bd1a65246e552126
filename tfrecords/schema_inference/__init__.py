"""Proposes a schema for a log from its first rows."""

from tfrecords.schema_inference.proposal import propose, write_proposal

__all__ = [
    "propose",
    "write_proposal",
]
