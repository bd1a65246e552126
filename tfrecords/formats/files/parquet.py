"""Reads Parquet files as logs; rows are numbered from 1.

Columns are converted to the types that the conversion reads: integers, floats, booleans, strings,
dates, times and lists. Fields of structs have dotted names, such as `device.os`. Dictionaries are
decoded; decimals become floats, or strings if they are whole (they may be ids); times become
microseconds; NaN is missing.
"""

import json
import pathlib
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tfrecords.columns import as_strings
from tfrecords.formats import protocol
from tfrecords.formats.files import delimited


class ParquetLog:
    """A log of one Parquet file.

    Args:
        path: The file.
        types: Columns to read; columns of type `delimited.NUMBERS` are read as numbers, lists of
            type `delimited.VECTORS` as lists of numbers, and lists of type `delimited.ANY` with
            their own type of values.
        lists: Columns that may hold lists.
        rows_per_chunk: Number of rows of a chunk.

    Raises:
        ValueError: The file is not a complete Parquet file, or a column has an unsupported type.
    """

    def __init__(
        self,
        path: pathlib.Path,
        types: Mapping[str, pa.DataType],
        lists: Collection[str] = (),
        rows_per_chunk: int = protocol.ROWS_PER_CHUNK,
    ) -> None:
        self.files: Sequence[pathlib.Path] = (path,)
        self._path = path
        self._types = types
        self._rows_per_chunk = rows_per_chunk
        self._roots = _roots(_open(path).schema_arrow)
        schema = _flat(_open(path).schema_arrow.empty_table()).schema
        self._present = [name for name in types if name in schema.names]
        for name in self._present:
            _check_type(path, schema, name, name in lists)

    def chunks(self) -> Iterator[protocol.Chunk]:
        """See `protocol.Log`."""
        first_line = 1
        for table in self._tables():
            columns = tuple(table.column_names)
            yield protocol.Chunk(self._path, None, first_line, table.num_rows, columns, table)
            first_line += table.num_rows

    def _tables(self) -> Iterator[pa.Table]:
        """Yields runs of `rows_per_chunk` rows, independently of row groups."""
        pending: list[pa.RecordBatch] = []
        count, size = 0, self._rows_per_chunk
        # Structs are read as whole columns.
        columns = list(dict.fromkeys(self._roots.get(name, name) for name in self._present))
        try:
            for batch in _open(self._path).iter_batches(size, columns=columns):
                table = _flat(pa.Table.from_batches([batch]))
                pending += table.select(self._present).to_batches()
                count += batch.num_rows
                while count >= size:
                    table = pa.Table.from_batches(pending)
                    yield table.slice(0, size)
                    pending = table.slice(size).to_batches()
                    count -= size
        except (pa.ArrowException, OSError) as error:
            raise _damaged(self._path, error) from error
        if count:
            yield pa.Table.from_batches(pending)

    def parse(self, chunk: protocol.Chunk) -> protocol.Parsed:
        """See `protocol.Log`."""
        count = chunk.num_rows
        bad, reasons = np.zeros(count, bool), {}
        columns = {}
        for name, kind in self._types.items():
            if name not in self._present:
                columns[name] = pa.chunked_array([pa.nulls(count, kind)])
                continue
            column = chunk.payload[name]
            wrong = _not_utf8(column)
            if wrong.any():
                bad |= wrong
                reasons.update(dict.fromkeys(np.flatnonzero(wrong).tolist(), name))
                column = pc.if_else(pa.array(wrong), pa.scalar(None, column.type), column)
            columns[name] = plain(column, kind)
        numbers = np.arange(chunk.first_line, chunk.first_line + count)
        columns[protocol.LINE_NUMBER] = pa.chunked_array([pa.array(numbers, pa.int64())])
        why = [
            f"{reasons[row]} is not UTF-8; convert it, such as bytes by .map(bytes.hex) of pandas"
            for row in sorted(reasons)
        ]
        return protocol.Parsed(pa.table(columns)).without(bad, why)

    def raw(self, chunk: protocol.Chunk, lines: Sequence[int]) -> list[bytes]:
        """Returns the columns of rows as JSON."""
        rows = chunk.payload.take(pa.array([line - chunk.first_line for line in lines], pa.int64()))
        readable = {
            name: rows[name].cast(pa.binary()) if _is_text(rows[name].type) else rows[name]
            for name in rows.column_names
        }
        return [
            json.dumps(row, default=_shown, ensure_ascii=False).encode()
            for row in pa.table(readable).to_pylist()
        ]


def column_names(path: pathlib.Path) -> tuple[str, ...]:
    """Returns the names of the columns.

    Raises:
        ValueError: The file is not a complete Parquet file.
    """
    return tuple(_flat(_open(path).schema_arrow.empty_table()).column_names)


def _flat(table: pa.Table) -> pa.Table:
    """Returns a table with the fields of structs as columns with dotted names."""
    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    return table


def _roots(schema: pa.Schema) -> dict[str, str]:
    """Returns the struct of each column that is a field of one."""
    structs = [field for field in schema if pa.types.is_struct(field.type)]
    return {
        name: field.name
        for field in structs
        for name in _flat(pa.schema([field]).empty_table()).column_names
    }


def plain(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Converts a column [B] to a type that the conversion reads.

    Args:
        column: Column of the file.
        kind: Target type; `delimited.NUMBERS` converts all types but strings to numbers, and
            `delimited.VECTORS` lists to lists of numbers. Other lists become lists of strings, but
            `delimited.ANY` keeps their numbers and booleans.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    is_text = _is_list(column.type) and _is_text(column.type.value_type)
    if _is_list(column.type) and kind == delimited.VECTORS and not is_text:
        return column.cast(kind, safe=False)
    if _is_list(column.type):
        column = column.cast(pa.list_(column.type.value_type))
        lists = [_plain_list(chunk, kind) for chunk in column.chunks]
        return pa.chunked_array(lists, lists[0].type if lists else _LIST)
    if _is_text(column.type) or pa.types.is_null(column.type):
        return column.cast(pa.string())
    if pa.types.is_date(column.type) and kind != delimited.NUMBERS:
        return column.cast(pa.date32())
    if pa.types.is_temporal(column.type):
        stamps = _microseconds(column)
        if kind != delimited.NUMBERS:
            return stamps
        return pc.divide(stamps.cast(pa.int64()).cast(pa.float64(), safe=False), 1e6)
    is_decimal = pa.types.is_decimal(column.type)
    if is_decimal and column.type.scale == 0 and kind != delimited.NUMBERS:
        return column.cast(pa.string())  # Ids may not be distinct as floats.
    if is_decimal:  # Its texts are read as the nearest numbers; a cast computes 80.35000000000001.
        column = column.cast(pa.string()).cast(pa.float64())
    if kind == delimited.NUMBERS:
        column = column.cast(pa.float64(), safe=False)
    if pa.types.is_floating(column.type):
        if pa.types.is_float16(column.type):
            column = column.cast(pa.float64())
        # As float32, 1.1 has the text 1.1; as float64, its text is 1.100000023841858.
        if kind == delimited.ANY and pa.types.is_float32(column.type):
            column = column.cast(pa.string()).cast(pa.float64())
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    return column


_LIST = pa.list_(pa.string())


def _plain_list(lists: pa.ListArray, kind: pa.DataType) -> pa.ListArray:
    flat = plain(pa.chunked_array([lists.flatten()]), kind)
    is_kept = kind == delimited.ANY and not pa.types.is_temporal(flat.type)
    values = flat.combine_chunks() if is_kept else as_strings(flat)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    offsets = np.append(0, np.cumsum(lengths)).astype(np.int32)
    mask = lists.is_null() if lists.null_count else None
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=mask)


def _microseconds(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.timestamp("us"))
    return column.cast(pa.timestamp("us"))


def _not_utf8(column: pa.ChunkedArray) -> np.ndarray:
    """Returns which rows [B] hold a string that is not UTF-8."""
    wrong = np.zeros(len(column), bool)
    if not _is_text(column.type):
        return wrong
    try:
        column.cast(pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        for row, value in enumerate(column.cast(pa.binary()).to_pylist()):
            try:
                (value or b"").decode("utf-8")
            except UnicodeDecodeError:
                wrong[row] = True
    return wrong


def _is_text(kind: pa.DataType) -> bool:
    checks = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    named = any(getattr(pa.types, f"is_{check}")(kind) for check in checks)
    return named or pa.types.is_fixed_size_binary(kind)


def _is_list(kind: pa.DataType) -> bool:
    checks = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(check(kind) for check in checks)


def _open(path: pathlib.Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: pathlib.Path, error: Exception) -> ValueError:
    if "lists to be of size" in str(error):
        return ValueError(
            f"{path} has fixed-size lists, some of them null, which Arrow cannot read from "
            f"Parquet ({error}). Write them as variable-size lists, or without nulls."
        )
    return ValueError(f"{path} cannot be read as Parquet ({error}). Copy or write it again.")


def _check_type(path: pathlib.Path, schema: pa.Schema, name: str, may_be_list: bool) -> None:
    if schema.names.count(name) > 1:
        raise ValueError(f"{path} has more than one column {name!r}; rename all but one.")
    kind = schema.field(name).type
    if _is_list(kind) and not may_be_list:
        raise ValueError(
            f"{path}: the column {name!r} holds lists ({kind}). Use it in the schema only as a "
            "field of kind 'categorical_list' or 'dense'."
        )
    kind = kind.value_type if _is_list(kind) or pa.types.is_dictionary(kind) else kind
    dated = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
    is_other = isinstance(kind, pa.BaseExtensionType)  # such as UUIDs
    if _is_list(schema.field(name).type) and pa.types.is_struct(kind):
        raise ValueError(
            f"{path}: the column {name!r} holds lists of objects. To read them, write the file as "
            "JSON lines, in which each object can be a row, for example with pandas: "
            f"pd.read_parquet({str(path)!r}).to_json('{path.stem}.jsonl', orient='records', "
            "lines=True, date_format='iso'). Or leave the column out of the schema."
        )
    if is_other or pa.types.is_nested(kind) or (pa.types.is_temporal(kind) and not dated):
        raise ValueError(
            f"{path}: the column {name!r} has the unsupported type {schema.field(name).type}. "
            "Write it as strings or numbers, or leave it out of the schema."
        )


def _shown(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
