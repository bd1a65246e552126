"""Log formats, one module each, with a common protocol."""

from tfrecords.formats import criteo
from tfrecords.formats.files.delimited import STRINGS
from tfrecords.formats.files.lines import open_text
from tfrecords.formats.files.paths import expand_paths
from tfrecords.formats.files.table_files import column_names, is_parquet, open_table
from tfrecords.formats.protocol import LINE_NUMBER, ROWS_PER_CHUNK, Chunk, Files, Log, Parsed
from tfrecords.formats.registry import NAMES, format_named

__all__ = [
    "LINE_NUMBER",
    "NAMES",
    "ROWS_PER_CHUNK",
    "STRINGS",
    "Chunk",
    "Files",
    "Log",
    "Parsed",
    "column_names",
    "criteo",
    "expand_paths",
    "format_named",
    "is_parquet",
    "open_table",
    "open_text",
]
