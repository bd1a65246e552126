"""Proposes a schema for a log from its first rows."""

from tfrecords.schema_inference.proposal import format_notes, propose, write_proposal

__all__ = [
    "format_notes",
    "propose",
    "write_proposal",
]
