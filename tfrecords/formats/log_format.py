"""Base classes of log formats of your own.

    class JsonLines(formats.LineFormat):
        def parse_line(self, line):
            return json.loads(line)

`tfrec convert --format=MODULE:CLASS`, or an entry point of the group `tfrec.log_formats`, uses it.
"""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tfrecords import terminal
from tfrecords.formats import protocol
from tfrecords.formats.files import lines
from tfrecords.schema import Schema


class LogFormat:
    """A log format: opens logs that are read in chunks; see `protocol`.

    A module with these three functions is a format too.
    """

    def schema(self) -> Schema | None:
        """Returns the schema of all logs of the format; None: a schema file is required."""
        return None

    def open_log(
        self, files: protocol.Files, schema: Schema, rows_per_chunk: int = protocol.ROWS_PER_CHUNK
    ) -> protocol.Log:
        """Opens a log.

        Args:
            files: The files of the log.
            schema: The schema, whose columns the chunks have.
            rows_per_chunk: Approximate number of rows of a chunk.

        Raises:
            FileNotFoundError: A file does not exist.
            ValueError: The files and the schema do not match.
        """
        raise NotImplementedError(f"{type(self).__name__} has no `open_log`.")

    def read_ads(self, files: protocol.Files, schema: Schema) -> pa.Table | None:
        """Reads ads to add to those of the log: `files.ads`, or None.

        Raises:
            ValueError: A table of ads is given, and the format reads none.
        """
        if files.ads is not None:
            raise ValueError(
                f"{type(self).__name__} reads no table of ads, but {files.ads} was given. Leave it "
                "out, or implement `read_ads`."
            )
        return None


class LineFormat(LogFormat):
    """A format of text files, plain or gzip, in which each line is a row."""

    def parse_line(self, line: str) -> Mapping[str, Any]:
        """Parses a line; called by several threads at once.

        Args:
            line: The line without its end.

        Returns:
            The row's values by column: numbers, strings, lists of strings or of numbers for fields
            of that kind, or None if missing. Other columns are ignored.

        Raises:
            ValueError: The line is bad; the message says why, and the row is rejected.
        """
        raise NotImplementedError(f"{type(self).__name__} has no `parse_line`.")

    def open_log(
        self, files: protocol.Files, schema: Schema, rows_per_chunk: int = protocol.ROWS_PER_CHUNK
    ) -> protocol.Log:
        """See `LogFormat`.

        Raises:
            ValueError: There is a table of users.
        """
        if files.users is not None:
            raise ValueError(
                f"{type(self).__name__} reads no table of users, but {files.users} was given. "
                "Leave it out."
            )
        return _LineLog(self, files, schema, rows_per_chunk)


class _LineLog:
    def __init__(
        self, form: LineFormat, files: protocol.Files, schema: Schema, rows_per_chunk: int
    ) -> None:
        self.files: Sequence[pathlib.Path] = tuple(files)
        self._parts = tuple(files.parts())
        self._form, self._rows_per_chunk = form, rows_per_chunk
        kinds = {
            column: {f.kind for f in schema.logged_fields if f.source == column}
            for column in schema.columns
        }
        self._types = {
            column: _TYPES.get(next(iter(kind)) if len(kind) == 1 else "", pa.string())
            for column, kind in kinds.items()
        }

    def chunks(self) -> Iterator[protocol.Chunk]:
        """See `protocol.Log`."""
        for path, part in self._parts:
            for first, text, count in lines.RowReader(path).chunks(self._rows_per_chunk):
                yield protocol.Chunk(path, part, first, count, tuple(self._types), text)

    def parse(self, chunk: protocol.Chunk) -> protocol.Parsed:
        """See `protocol.Log`.

        Raises:
            ValueError: No line of the first chunk of a file has one of the columns.
        """
        rows, numbers, faults, named = [], [], {}, set[str]()
        for number, raw in enumerate(lines.split_rows(chunk.payload), chunk.first_line):
            try:
                values = self._form.parse_line(raw.decode("utf-8").rstrip("\r\n"))
                rows.append([_value(values.get(name), kind) for name, kind in self._types.items()])
                numbers.append(number)
                named |= values.keys()
            except ValueError as error:
                faults[number] = str(error) or type(error).__name__
        if rows and chunk.first_line == 1 and chunk.part != "test":
            self._check_names(chunk.path, named)
        columns = zip(*rows, strict=True) if rows else [[] for _ in self._types]
        table = {
            name: pa.array(column, kind)
            for (name, kind), column in zip(self._types.items(), columns, strict=True)
        }
        table[protocol.LINE_NUMBER] = pa.array(numbers, pa.int64())
        return protocol.Parsed(pa.table(table), faults)

    def _check_names(self, path: pathlib.Path, named: set[str]) -> None:
        lacking = [name for name in self._types if name not in named]
        if lacking:
            raise ValueError(
                f"{path}: no line has the column {lacking[0]!r} of the schema; the lines have "
                f"{terminal.format_list(sorted(named), 20)}."
                f"{terminal.suggestion_for(lacking[0], named)} Correct the schema."
            )

    def raw(self, chunk: protocol.Chunk, lines_wanted: Sequence[int]) -> list[bytes]:
        """See `protocol.Log`."""
        rows = lines.split_rows(chunk.payload)
        return [rows[line - chunk.first_line] for line in lines_wanted]


_TYPES = {
    "numeric": pa.float64(),
    "categorical_list": pa.list_(pa.string()),
    "dense": pa.list_(pa.float64()),
}


def _value(value: Any, kind: pa.DataType) -> Any:
    """Converts a value to what Arrow takes for a type.

    Raises:
        ValueError: It is of another type.
    """
    if value is None:
        return None
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple) != pa.types.is_list(kind) or isinstance(value, dict):
        raise ValueError(
            f"expected {'a list' if pa.types.is_list(kind) else 'one value'}, got {value!r:.40}"
        )
    if pa.types.is_list(kind) and pa.types.is_floating(kind.value_type):
        return [float(one) for one in value]
    if pa.types.is_list(kind):
        return [str(one) for one in value]
    if pa.types.is_floating(kind):
        return float(value)
    return str(int(value)) if isinstance(value, bool) else str(value)
