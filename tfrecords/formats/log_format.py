"""Base classes for your own log formats.

    class JsonLines(formats.LineFormat):
        def parse_line(self, line):
            return json.loads(line)

Use it with `tfrec convert --format=MODULE:CLASS`, or an entry point in `tfrec.log_formats`.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tfrecords import plugins, terminal
from tfrecords.formats import protocol, tabular
from tfrecords.formats.files import json_lines, lines
from tfrecords.schema import Schema


class LogFormat(plugins.Plugin):
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
        """Reads additional ads from `files.ads`; None if there is no such table.

        Raises:
            ValueError: A table of ads is given, but the format does not support one.
        """
        if files.ads is not None:
            raise ValueError(
                f"{type(self).__name__} reads no table of ads, but {files.ads} was given. Leave it "
                "out, or implement `read_ads`."
            )
        return None


class LineFormat(LogFormat):
    """A format of text files, plain or gzip, in which each line is a row or several.

    Fields whose columns the first lines lack are read from the tables of users and ads, if given.
    """

    def parse_line(self, line: str) -> Mapping[str, Any] | list[Mapping[str, Any]]:
        """Parses a line; called by several threads at once.

        Args:
            line: The line without its end.

        Returns:
            The row's values by column: numbers, strings, lists of strings or of numbers for fields
            of that kind, or None if missing. Other columns are ignored. Or a list of such rows,
            which may be empty.

        Raises:
            ValueError: The line is bad; the message says why, and the line is rejected. Other
                errors, such as a KeyError, also reject the line.
        """
        raise NotImplementedError(f"{type(self).__name__} has no `parse_line`.")

    def open_log(
        self, files: protocol.Files, schema: Schema, rows_per_chunk: int = protocol.ROWS_PER_CHUNK
    ) -> protocol.Log:
        """See `LogFormat`."""
        return _LineLog(self, files, schema, rows_per_chunk)

    def read_ads(self, files: protocol.Files, schema: Schema) -> pa.Table | None:
        """See `LogFormat`."""
        return tabular.read_ads(files, schema)


class _LineLog(json_lines.ObjectLog):
    """A log of lines that a format parses."""

    def __init__(
        self, form: LineFormat, files: protocol.Files, schema: Schema, rows_per_chunk: int
    ) -> None:
        types = tabular.typed(tabular.column_types(schema), schema, is_json=True)
        self._form, self._columns = form, schema.columns
        first = next(files.parts())[0]
        has_tables = files.users is not None or files.ads is not None
        sample = lines.RowReader(first).sample() if has_tables else b""
        joined = tabular.columns_of_tables(files, schema, self._names_in(sample))
        self._tables = tabular.JoinedTables(files, schema, joined)
        self.users_table = self._tables.users_table
        elsewhere = {name for names in joined.values() for name in names}
        types = {name: kind for name, kind in types.items() if name not in elsewhere}
        lists = tabular.list_columns(schema)
        super().__init__(files, types, lists, rows_per_chunk, schema.decimal)

    def rows_of(self, line: bytes) -> list[Mapping[str, Any]]:
        """See `json_lines.ObjectLog`."""
        try:
            found = self._form.parse_line(line.decode("utf-8").rstrip("\r\n"))
        except (ValueError, NotImplementedError, OSError, MemoryError):
            raise
        except Exception as error:  # A line may lack a key or a value.
            raise ValueError(f"parse_line: {type(error).__name__}: {error}") from error
        rows = found if isinstance(found, list) else [found]
        for row in rows:
            if not isinstance(row, Mapping):
                raise ValueError(
                    "parse_line: expected a mapping of values by column, or a list of such "
                    f"mappings, got {found!r:.40}"
                )
        return [{name: _plain(value) for name, value in row.items()} for row in rows]

    def parse(self, chunk: protocol.Chunk) -> protocol.Parsed:
        """See `protocol.Log`.

        Raises:
            ValueError: No line of the first chunk of a file has one of the columns; or a table has
                none of its keys.
        """
        parsed = super().parse(chunk)
        table = parsed.table
        empty = [name for name in self._types if table[name].null_count == table.num_rows]
        if table.num_rows and empty and chunk.first_line == 1 and chunk.part != "test":
            self._check_names(chunk, empty)
        parsed = self._tables.join(parsed, chunk)
        table = parsed.table.select([*self._columns, protocol.LINE_NUMBER])
        return dataclasses.replace(parsed, table=table)

    def _names_in(self, text: bytes) -> set[str]:
        """Returns the columns of the good lines of a text."""
        named: set[str] = set()
        for line in lines.split_rows(text):
            with contextlib.suppress(ValueError):
                named.update(*self.rows_of(line))
        return named

    def _check_names(self, chunk: protocol.Chunk, empty: Sequence[str]) -> None:
        named = self._names_in(chunk.payload)
        lacking = [name for name in empty if name not in named]
        if lacking:
            raise ValueError(
                f"{chunk.path}: no line has the column {lacking[0]!r} of the schema; the lines "
                f"have {terminal.format_list(sorted(named), 20)}."
                f"{terminal.suggestion_for(lacking[0], named)} Correct the schema."
            )


def _plain(value: Any) -> Any:
    """Converts a NumPy value or a tuple to a JSON value."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value
