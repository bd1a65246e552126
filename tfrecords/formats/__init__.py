"""Log formats, one module each, with a common protocol, and base classes for others."""

from tfrecords.formats import criteo
from tfrecords.formats.checked_log import open_log, schema_of
from tfrecords.formats.files.delimited import ANY, STRINGS
from tfrecords.formats.files.folders import values_of as values_of_folders
from tfrecords.formats.files.lines import open_text
from tfrecords.formats.files.paths import expand_paths
from tfrecords.formats.files.table_files import (
    column_names,
    is_json,
    is_parquet,
    lists_of_objects,
    open_table,
    shown_names,
    text_layout,
)
from tfrecords.formats.log_format import LineFormat, LogFormat
from tfrecords.formats.protocol import (
    LINE_NUMBER,
    ROWS_PER_CHUNK,
    Chunk,
    Files,
    Log,
    Matches,
    Parsed,
    line_of,
    numbered,
)
from tfrecords.formats.registry import FORMATS, name_by_columns

__all__ = [
    "ANY",
    "FORMATS",
    "LINE_NUMBER",
    "ROWS_PER_CHUNK",
    "STRINGS",
    "Chunk",
    "Files",
    "LineFormat",
    "Log",
    "LogFormat",
    "Matches",
    "Parsed",
    "column_names",
    "criteo",
    "expand_paths",
    "is_json",
    "is_parquet",
    "line_of",
    "lists_of_objects",
    "name_by_columns",
    "numbered",
    "open_log",
    "open_table",
    "open_text",
    "schema_of",
    "shown_names",
    "text_layout",
    "values_of_folders",
]
