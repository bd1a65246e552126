"""Checks what a format returns, so that an error in it names the format, the file and the line."""

import contextlib
import inspect
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tfrecords import terminal
from tfrecords.formats import protocol, tabular
from tfrecords.formats.files import delimited
from tfrecords.formats.log_format import LogFormat
from tfrecords.formats.registry import FORMATS
from tfrecords.schema import Schema

_PARTS = ("files", "chunks", "parse", "raw")
_LISTS = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)
_BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)


def schema_of(form: str) -> Schema | None:
    """Returns the schema of all logs of a format, or None.

    Args:
        form: A name of `FORMATS`, or MODULE:CLASS.

    Raises:
        ValueError: There is no such format, or what it returns is not a schema.
    """
    found = FORMATS.get(form).schema()
    if found is not None and not isinstance(found, Schema):
        raise ValueError(
            f"format {form}: expected schema() to return a tfrecords.schema.Schema or None, got "
            f"{_shown(found)}. Use load_schema(path) for a file and schema_from_json(value) for a "
            "JSON object."
        )
    return found


def open_log(form: str, files: protocol.Files, schema: Schema, rows_per_chunk: int) -> "CheckedLog":
    """Opens a log whose chunks are checked; see `LogFormat.open_log` for the other arguments.

    Args:
        form: A name of `FORMATS`, or MODULE:CLASS.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: There is no such format, the files and the schema do not match, or what it
            opens is not a log.
    """
    found = FORMATS.get(form)
    if getattr(type(found), "read_ads", None) is LogFormat.read_ads:
        found.read_ads(files, schema)  # Refuses a table of ads now, not after the log was parsed.
    opener = found.open_log
    arguments = (files, schema, rows_per_chunk)
    try:
        inspect.signature(opener).bind(*arguments)
    except TypeError as error:
        raise ValueError(
            f"format {form}: expected open_log(files, schema, rows_per_chunk), got "
            f"open_log{inspect.signature(opener)}. Correct its arguments."
        ) from error
    with _errors_named(f"format {form}: open_log"):
        opened = opener(*arguments)
    lacking = [name for name in _PARTS if getattr(opened, name, None) is None]
    if lacking:
        raise ValueError(
            f"format {form}: expected open_log to return a log with {', '.join(_PARTS)}; got "
            f"{_shown(opened)}, without {', '.join(lacking)}. Correct the format."
        )
    return CheckedLog(opened, form, schema)


class CheckedLog:
    """A log of any format, whose chunks, tables and raw rows are checked.

    Args:
        opened: The log.
        form: Name of its format, for messages.
        schema: The schema, whose columns the tables must have.

    Attributes:
        files: All files that the log is read from.
        users_table: Keys of the table of users, if the format joins one, or None.
    """

    def __init__(self, opened: protocol.Log, form: str, schema: Schema) -> None:
        self.files: Sequence[pathlib.Path] = tuple(opened.files)
        self.users_table = getattr(opened, "users_table", None)
        self._opened, self._form, self._columns = opened, form, schema.columns
        self._lists = tabular.list_columns(schema)
        # Columns that are only shown have any type.
        types = tabular.column_types(schema)
        self._typed = [name for name in schema.columns if types[name] != delimited.ANY]

    def chunks(self) -> Iterator[protocol.Chunk]:
        """See `protocol.Log`."""
        with _errors_named(f"format {self._form}: chunks"):
            for chunk in self._opened.chunks():
                if not isinstance(chunk, protocol.Chunk):
                    raise TypeError(f"expected it to yield formats.Chunk, got {_shown(chunk)}")
                yield chunk

    def parse(self, chunk: protocol.Chunk) -> protocol.Parsed:
        """See `protocol.Log`.

        Raises:
            ValueError: The format raises another error, or does not return the rows of the chunk.
        """
        where = self._where(chunk, "parse")
        with _errors_named(where):
            parsed = self._opened.parse(chunk)
        fault = self._fault(parsed, chunk)
        if fault is not None:
            raise ValueError(f"{where}: {fault}. Correct the format.")
        return parsed

    def raw(self, chunk: protocol.Chunk, lines: Sequence[int]) -> list[bytes]:
        """See `protocol.Log`.

        Raises:
            ValueError: The format raises another error, or returns something else.
        """
        where = self._where(chunk, "raw")
        with _errors_named(where):
            rows = self._opened.raw(chunk, lines)
        if not isinstance(rows, list) or not all(isinstance(row, bytes) for row in rows):
            fault = f"expected a list of bytes, got {_shown(rows)}"
        elif len(rows) != len(lines):
            fault = f"expected the rows of {len(lines)} lines, got {len(rows)}"
        else:
            return rows
        raise ValueError(f"{where}: {fault}. Correct the format.")

    def _where(self, chunk: protocol.Chunk, method: str) -> str:
        return f"format {self._form}, {chunk.path}, rows from line {chunk.first_line}: {method}"

    def _fault(self, parsed: Any, chunk: protocol.Chunk) -> str | None:
        """Returns what is wrong with a parsed chunk, or None."""
        if not isinstance(parsed, protocol.Parsed):
            return f"expected a formats.Parsed, got {_shown(parsed)}"
        if not isinstance(parsed.table, pa.Table):
            return f"expected a pyarrow.Table of rows, got {_shown(parsed.table)}"
        if not isinstance(parsed.faults, Mapping):
            return f"expected faults by line number, got {_shown(parsed.faults)}"
        return (
            self._fault_of_columns(parsed.table)
            or _fault_of_lines(parsed)
            or _fault_of_counts(parsed, chunk)
        )

    def _fault_of_columns(self, table: pa.Table) -> str | None:
        names = table.column_names
        for name in (*self._columns, protocol.LINE_NUMBER):
            if name not in names:
                return (
                    f"the table lacks the column {name!r}; it has {terminal.format_list(names, 20)}"
                )
            if names.count(name) > 1:
                return f"the table has several columns {name!r}; expected one"
        for name in self._typed:
            fault = _fault_of_type(table[name], name in self._lists)
            if fault is not None:
                return f"the column {name!r} {fault}"
        return None


@contextlib.contextmanager
def _errors_named(where: str) -> Iterator[None]:
    """Converts unexpected errors of a format's code to ValueErrors that name the place.

    ValueErrors are not changed, and neither are system errors, after which a conversion can resume.
    """
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and not isinstance(error, pa.ArrowException):
            raise
        raise ValueError(
            f"{where}: {type(error).__name__}: {str(error).rstrip('.')}. Correct the format."
        ) from error


def _fault_of_type(column: pa.ChunkedArray, may_be_list: bool) -> str | None:
    kind, expected = _value_type(column.type), "strings or numbers"
    if may_be_list:
        expected += ", or lists of them"
        kind = _value_type(kind.value_type) if isinstance(kind, _LISTS) else kind
    if pa.types.is_nested(kind):
        return f"has the Arrow type {column.type}; expected {expected}"
    if kind == column.type and any(is_binary(kind) for is_binary in _BINARY):
        try:
            column.cast(pa.string())
        except pa.ArrowException as error:
            return f"has bytes that are not UTF-8 ({error}); expected {expected}"
    return None


def _value_type(kind: pa.DataType) -> pa.DataType:
    """Returns the type of a dictionary's values; other types unchanged."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _fault_of_lines(parsed: protocol.Parsed) -> str | None:
    column = parsed.table[protocol.LINE_NUMBER]
    if not pa.types.is_integer(column.type) or column.null_count:
        return (
            f"expected a whole number in {protocol.LINE_NUMBER!r} for each row, got "
            f"{column.type} with {column.null_count} missing"
        )
    lines = column.to_numpy()
    ordered = np.sort(lines, kind="stable")
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        return (
            f"{protocol.LINE_NUMBER!r} is {protocol.line_of(int(repeated[0]))} in several rows; "
            "expected a distinct number for each row. Number the rows of a line by "
            "formats.numbered(line, index)"
        )
    common = np.intersect1d(lines, np.array(list(parsed.faults), np.int64))
    if len(common):
        return f"line {protocol.line_of(int(common[0]))} is both in the table and in the faults"
    return None


def _fault_of_counts(parsed: protocol.Parsed, chunk: protocol.Chunk) -> str | None:
    expected = chunk.num_rows if parsed.num_rows is None else parsed.num_rows
    good, bad = parsed.table.num_rows, len(parsed.faults)
    if good + bad == expected:
        return None
    return (
        f"expected {expected} rows (num_rows) in the table or the faults, got {good} in the table "
        f"and {bad} in the faults"
    )


def _shown(value: Any) -> str:
    return "None" if value is None else f"{type(value).__name__} {str(value)[:60]!r}"
