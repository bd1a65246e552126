"""Reads tables that a schema file describes: CSV, TSV, JSON lines or Parquet files.

If the log lacks the column of a field, it is read from the table of users, joined by the user key,
or of ads, joined by the ad key. Keys, labels, times, positions and splits must be in the log; only
files of the test split may lack labels. Log files may differ in the order of columns and in the
delimiter, but must be all text, all JSON lines or all Parquet.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Collection, Iterator, Mapping, Sequence

import pyarrow as pa

from tfrecords import terminal
from tfrecords.columns import (
    RowFaults,
    checked_numbers,
    checked_vectors,
    is_text,
    written_numbers,
)
from tfrecords.formats import protocol
from tfrecords.formats.files import delimited, side_tables, table_files
from tfrecords.schema import LABELS, Schema

# Line 1 may name the delimiter, and the next one the columns.
_MAX_FIRST_LINE = 3


def schema() -> Schema | None:
    """Returns None: a schema file is required."""
    return None


def open_log(
    files: protocol.Files, schema: Schema, rows_per_chunk: int = protocol.ROWS_PER_CHUNK
) -> protocol.Log:
    """Opens a log and the tables joined to it.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: Log files are of several kinds, a column is missing, or a table of users or ads
            has a bad row or lacks its key.
    """
    return TabularLog(files, schema, rows_per_chunk)


def read_ads(files: protocol.Files, schema: Schema) -> pa.Table | None:
    """Reads additional ads, or returns None.

    Columns that only the log has are missing in these ads.

    Raises:
        FileNotFoundError, ValueError: See `open_log`.
    """
    if files.ads is None:
        return None
    names = table_files.readable_names(files.ads, schema.columns)
    _check_key(files.ads, "ad_key", schema.ad_key, names)
    shown = [name for name in schema.show if name in names]
    needed = dict.fromkeys((*schema.ad_key, *(f.source for f in schema.logged_ad_fields), *shown))
    types = column_types(schema)
    present_types = {name: types[name] for name in needed if name in names}
    table = table_files.read(
        files.ads,
        typed(present_types, schema, table_files.is_json(files.ads)),
        list_columns(schema),
        schema.decimal,
    )
    parsed = _with_numbers(protocol.Parsed(table), schema)
    table, faults = parsed.table, _faults_of_numbers(schema, parsed.table)
    parsed = parsed.without(faults.bad, faults.reasons())
    unit = "row" if table_files.is_parquet(files.ads) else "line"
    protocol.refuse_faults(files.ads, unit, parsed.faults)
    for name in needed:
        if name not in names:
            table = table.append_column(name, pa.nulls(table.num_rows, types[name]))
    return table


def column_types(schema: Schema) -> dict[str, pa.DataType]:
    """Returns the types of columns: numbers or vectors only for columns of such fields."""
    kinds: dict[str, set[str]] = {name: set() for name in schema.columns}
    for field in schema.logged_fields:
        kinds[field.source].add(field.kind)
    readers = {"numeric": delimited.NUMBERS, "dense": delimited.VECTORS}
    types = {
        name: readers.get(next(iter(kind)), delimited.STRINGS)
        if len(kind) == 1 and name not in _log_columns(schema)
        else delimited.STRINGS
        for name, kind in kinds.items()
    }
    only_shown = [n for n in schema.show if not kinds[n] and n not in _log_columns(schema)]
    return {**types, **dict.fromkeys(only_shown, delimited.ANY)}


def _numbers(schema: Schema) -> set[str]:
    """Returns the columns that hold only numbers by their roles."""
    types = column_types(schema)
    rating = schema.click if schema.click_threshold is not None else None
    amounts = {column for label, column in schema.labels.items() if LABELS[label].is_amount}
    roles = {*amounts, schema.position, rating}
    non_numeric = {field.source for field in schema.logged_fields if field.kind != "numeric"}
    found = {name for name, kind in types.items() if kind == delimited.NUMBERS or name in roles}
    return found - non_numeric - set(schema.ad_key)


def typed(
    types: Mapping[str, pa.DataType], schema: Schema, is_json: bool
) -> dict[str, pa.DataType]:
    """Returns the types to read columns with, if the schema sets the decimal sign of numbers.

    Formatted numbers of JSON values are read as numbers; those of other files as texts.
    """
    if schema.decimal is None:
        return dict(types)
    kind = delimited.NUMBERS if is_json else delimited.STRINGS
    return {**types, **dict.fromkeys(_numbers(schema) & types.keys(), kind)}


def _with_numbers(parsed: protocol.Parsed, schema: Schema) -> protocol.Parsed:
    """Converts texts of formatted numbers, if the schema sets their decimal sign."""
    if schema.decimal is None:
        return parsed
    faults = RowFaults(parsed.table.num_rows)
    table = parsed.table
    for name in sorted(_numbers(schema) & set(table.column_names)):
        if is_text(table[name]):
            numbers = written_numbers(faults, name, table[name], schema.decimal)
            table = table.set_column(table.column_names.index(name), name, pa.array(numbers))
    converted = dataclasses.replace(parsed, table=table)
    return converted.without(faults.bad, faults.reasons())


class TabularLog:
    """A log of tables.

    Args:
        files: The files.
        schema: The schema.
        rows_per_chunk: Approximate number of rows of a chunk.

    Attributes:
        files: All files that the log is read from.
        users_table: Keys of the table of users, if it is joined, or None.
    """

    def __init__(
        self, files: protocol.Files, schema: Schema, rows_per_chunk: int = protocol.ROWS_PER_CHUNK
    ) -> None:
        self.files: Sequence[pathlib.Path] = tuple(files)
        self._parts = tuple(files.parts())
        self._columns = schema.columns
        _check_kinds([path for path, _ in self._parts])
        types, lists = column_types(schema), list_columns(schema)
        log_columns, table_columns = _sources(files, schema)
        self._logs = {
            path: table_files.open_table(
                path,
                typed(
                    {name: types[name] for name in log_columns}, schema, table_files.is_json(path)
                ),
                lists,
                _may_lack(schema, part),
                rows_per_chunk,
                schema.header,
                schema.decimal,
            )
            for path, part in self._parts
        }
        self._tables = JoinedTables(files, schema, table_columns)
        self.users_table = self._tables.users_table

    def chunks(self) -> Iterator[protocol.Chunk]:
        """See `protocol.Log`."""
        for path, part in self._parts:
            for chunk in self._logs[path].chunks():
                yield dataclasses.replace(chunk, part=part)

    def parse(self, chunk: protocol.Chunk) -> protocol.Parsed:
        """See `protocol.Log`.

        Raises:
            ValueError: A table has none of the keys of the first chunk.
        """
        parsed = self._tables.join(self._logs[chunk.path].parse(chunk), chunk)
        table = parsed.table.select([*self._columns, protocol.LINE_NUMBER])
        return dataclasses.replace(parsed, table=table)

    def raw(self, chunk: protocol.Chunk, lines: Sequence[int]) -> list[bytes]:
        """See `protocol.Log`; rows of a Parquet file are returned as JSON."""
        return self._logs[chunk.path].raw(chunk, lines)


class JoinedTables:
    """The tables of users and ads that are joined to a log.

    Args:
        files: The files of the log.
        schema: The schema.
        columns: Table -> the columns that are read from it.

    Attributes:
        users_table: Keys of the table of users, if it is joined, or None.

    Raises:
        FileNotFoundError, ValueError: See `side_tables.SideTable`.
    """

    def __init__(
        self,
        files: protocol.Files,
        schema: Schema,
        columns: Mapping[pathlib.Path, Sequence[str]],
    ) -> None:
        types, lists = column_types(schema), list_columns(schema)
        keys = _keys_of_tables(files, schema)
        self._schema, self._first_path = schema, next(files.parts())[0]
        self._tables = [
            side_tables.SideTable(
                path,
                keys[path],
                typed({name: types[name] for name in names}, schema, table_files.is_json(path)),
                lists,
                schema.decimal,
            )
            for path, names in columns.items()
            if names
        ]
        user_keys = (table.keys for table in self._tables if table.path == files.users)
        self.users_table = next(user_keys, None)

    def join(self, parsed: protocol.Parsed, chunk: protocol.Chunk) -> protocol.Parsed:
        """Adds the columns of the tables to the rows of a chunk, and converts formatted numbers.

        Raises:
            ValueError: A table has none of the keys of the first chunk.
        """
        # A header, and a line that names the delimiter, come before the rows of a text.
        is_first = chunk.path == self._first_path and chunk.first_line <= _MAX_FIRST_LINE
        for table in self._tables:
            parsed, matches = table.join(parsed, must_match=is_first)
            if table.keys is self.users_table:
                parsed = dataclasses.replace(parsed, users=matches)
        return _with_numbers(parsed, self._schema)


def columns_of_tables(
    files: protocol.Files, schema: Schema, in_log: Collection[str]
) -> dict[pathlib.Path, list[str]]:
    """Returns the columns that each table of users and ads provides, because the log lacks them.

    Args:
        files: The files of the log.
        schema: The schema.
        in_log: Columns of the log.

    Raises:
        FileNotFoundError, ValueError: A table cannot be read, or lacks its key.
    """
    keys = _keys_of_tables(files, schema)
    names = {path: table_files.readable_names(path, schema.columns) for path in keys}
    for path, key in keys.items():
        _check_key(path, "ad_key" if path == files.ads else "user_key", key, names[path])
    table_columns: dict[pathlib.Path, list[str]] = {path: [] for path in keys}
    for name in schema.columns:
        # The table of the field's side comes first.
        ordered = sorted(keys, key=lambda path: (path == files.ads) != _is_ad(schema, name))
        having = [path for path in ordered if name in names[path]]
        if having and name not in in_log and name not in _log_columns(schema):
            table_columns[having[0]].append(name)
    return table_columns


def _keys_of_tables(files: protocol.Files, schema: Schema) -> dict[pathlib.Path, tuple[str, ...]]:
    """Returns the key of each table of users or ads."""
    keys: dict[pathlib.Path, tuple[str, ...]] = {}
    if files.users is not None:
        keys[files.users] = () if schema.user_key is None else (schema.user_key,)
    if files.ads is not None:
        keys[files.ads] = schema.ad_key
    return keys


def _sources(
    files: protocol.Files, schema: Schema
) -> tuple[list[str], dict[pathlib.Path, list[str]]]:
    """Returns the columns of the log, and those of each joined table."""
    needed = schema.columns
    logs = list(files.parts())
    log_paths = {path for path, _ in logs}
    names = {
        path: table_files.readable_names(path, needed, schema.header if path in log_paths else ())
        for path in files
    }
    first = logs[0][0]
    in_log = [name for name in needed if name in names[first]]
    for path, part in logs[1:]:
        optional = _may_lack(schema, part)
        lacking = [n for n in in_log if n not in names[path] and n not in optional]
        if lacking:
            raise ValueError(_lacks(path, lacking, first))
    in_tables = columns_of_tables(files, schema, in_log)
    found = {*in_log, *itertools.chain.from_iterable(in_tables.values())}
    lacking = [name for name in needed if name not in found]
    for path, _ in logs[1:]:
        if extra := [name for name in lacking if name in names[path]]:
            raise ValueError(_lacks(first, extra, path))
    if lacking:
        raise ValueError(_nowhere(lacking[0], schema, first, names))
    return in_log, in_tables


def _may_lack(schema: Schema, part: str | None) -> set[str]:
    """Returns the columns that a file of a split may lack: labels, but not the types of events."""
    types = None if schema.events is None else schema.events.column
    return {name for name in schema.labels.values() if part == "test" and name != types}


def _log_columns(schema: Schema) -> set[str]:
    """Returns the columns of keys and labels, which must be in the log."""
    keys = (schema.request_key, schema.time, schema.position, schema.user_key, schema.split)
    return {*schema.ad_key, *schema.labels.values(), *(key for key in keys if key is not None)}


def list_columns(schema: Schema) -> set[str]:
    """Returns the columns that may hold lists."""
    lists = [field for field in schema.logged_fields if field.is_list or field.kind == "dense"]
    scalars = {field.source for field in schema.logged_fields if field not in lists}
    columns = {field.source for field in lists} | set(schema.show)
    return columns - scalars - _log_columns(schema)


def _is_ad(schema: Schema, column: str) -> bool:
    return any(field.source == column for field in schema.logged_ad_fields)


def _check_kinds(paths: Sequence[pathlib.Path]) -> None:
    by_kind: dict[str, pathlib.Path] = {}
    for path in paths:
        kind = "JSON lines" if table_files.is_json(path) else "text"
        by_kind["Parquet" if table_files.is_parquet(path) else kind] = path
    if len(by_kind) > 1:
        found = " and ".join(f"{path} is {kind}" for kind, path in sorted(by_kind.items()))
        raise ValueError(
            f"{found}; expected log files of one kind. Convert them separately, or write all of "
            "them as one kind."
        )


def _check_key(path: pathlib.Path, role: str, key: Sequence[str], names: Collection[str]) -> None:
    if not key:
        raise ValueError(f"{path} is joined by the {role}; name one in the schema.")
    missing = [name for name in key if name not in names]
    if missing:
        raise ValueError(
            f"{path} is joined by the schema's {role} {list(key)}, but lacks {missing}; it has "
            f"{list(names)}. Use the log's name of the key."
        )


def _faults_of_numbers(schema: Schema, table: pa.Table) -> RowFaults:
    faults = RowFaults(table.num_rows)
    for field in schema.logged_ad_fields:
        if field.source in table.column_names and field.kind == "numeric":
            checked_numbers(faults, field.source, table[field.source])
        elif field.source in table.column_names and field.kind == "dense":
            checked_vectors(faults, field, table[field.source])
    return faults


def _lacks(path: pathlib.Path, columns: Sequence[str], other: pathlib.Path) -> str:
    """Returns the message about columns that only one of two files of a log has."""
    return (
        f"{path} lacks the columns {list(columns)}, which {other} has. Add them, or give a table "
        "of ads or users as --ads_path or --users_path."
    )


def _nowhere(
    name: str,
    schema: Schema,
    log_path: pathlib.Path,
    names: Mapping[pathlib.Path, Sequence[str]],
) -> str:
    """Returns the message about a missing column."""
    must_be_in_log = name in _log_columns(schema)
    searched = {log_path: names[log_path]} if must_be_in_log else names
    hint = terminal.suggestion_for(
        name, [column for header in searched.values() for column in header]
    )
    places = "; ".join(f"{path} with {list(columns)[:50]}" for path, columns in searched.items())
    reason = ", which must be in the log (a key or label)" if must_be_in_log else ""
    advice = "Correct the schema" + (
        "." if must_be_in_log else ", or give the table of users or ads that has it."
    )
    return (
        f"Schema {schema.name!r} reads the column {name!r}{reason}; it is not in {places}.{hint} "
        f"{advice}"
    )
