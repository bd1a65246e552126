"""Delimited text: Arrow parses chunks, and faults are found row by row.

A chunk without faults is parsed at once. A chunk that fails is split into ever smaller parts, so
that a bad row costs little and is reported with its line and the reason.
"""

import csv
import dataclasses
import io
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from tfrecords import terminal
from tfrecords.columns import NULLS, number_fault
from tfrecords.formats import protocol
from tfrecords.formats.files import lines

STRINGS = pa.dictionary(pa.int32(), pa.string())
NUMBERS = pa.float64()
# Values of any type, unchanged; strings in delimited text.
ANY = pa.null()
# Strings in delimited text.
VECTORS = pa.list_(pa.float32())
_EMPTY_LINE = re.compile(rb"(?:\A|\n)\r?\n")
_PARTS = 16
_BLOCK_BYTES = 1 << 20
_FIRST_ROWS = 100


@dataclasses.dataclass(frozen=True)
class Layout:
    """The layout of a text.

    Attributes:
        types: Columns to read and their types, `STRINGS` or `NUMBERS`.
        delimiter: Text between values.
        quote: Whether double quotes enclose values with delimiters and line ends.
        columns: Returns the names of the columns of a file without a header, given the number of
            values in each of its first rows; None: the first row is a header.
        optional: Columns that a file may lack; they are missing in its rows.
        expected: Description of a row, for messages.
        check: Returns the fault of a row's values, or None; numbers are checked separately.
    """

    types: Mapping[str, pa.DataType]
    delimiter: str = "\t"
    quote: bool = False
    columns: Callable[[Sequence[int]], tuple[str, ...]] | None = None
    optional: frozenset[str] = frozenset()
    expected: str = ""
    check: Callable[[Mapping[str, str]], str | None] | None = None

    def split(self, row: bytes) -> list[str]:
        """Splits a row into its values.

        Raises:
            UnicodeDecodeError: The row is not UTF-8.
        """
        text = row.decode("utf-8").removesuffix("\n").removesuffix("\r")
        if self.quote and '"' in text:
            return next(csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter))
        return text.split(self.delimiter)


class DelimitedLog:
    """A log of delimited text files.

    Args:
        files: The files.
        layout: Their layout.
        derive: Derives the columns of the schema from the columns of the files; None: the same.
        rows_per_chunk: Approximate number of rows of a chunk.
    """

    def __init__(
        self,
        files: protocol.Files,
        layout: Layout,
        derive: Callable[[protocol.Parsed], protocol.Parsed] | None = None,
        rows_per_chunk: int = protocol.ROWS_PER_CHUNK,
    ) -> None:
        self.files: Sequence[pathlib.Path] = tuple(files)
        self.layout = layout
        self._parts = tuple(files.parts())
        self._derive = derive
        self._rows_per_chunk = rows_per_chunk

    def chunks(self) -> Iterator[protocol.Chunk]:
        """See `protocol.Log`."""
        for path, part in self._parts:
            reader, columns = open_rows(path, self.layout)
            for first_line, text, num_rows in reader.chunks(self._rows_per_chunk):
                yield protocol.Chunk(path, part, first_line, num_rows, columns, text)

    def parse(self, chunk: protocol.Chunk) -> protocol.Parsed:
        """See `protocol.Log`."""
        parsed = parse(self.layout, chunk.columns, chunk.payload, chunk.first_line, chunk.num_rows)
        return parsed if self._derive is None else self._derive(parsed)

    def raw(self, chunk: protocol.Chunk, lines_wanted: Sequence[int]) -> list[bytes]:
        """See `protocol.Log`."""
        rows = lines.split_rows(chunk.payload, self.layout.quote, self.layout.delimiter)
        row_of = dict(zip(_line_numbers(rows, chunk.first_line), rows, strict=True))
        return [row_of[line].removesuffix(b"\n").removesuffix(b"\r") for line in lines_wanted]


def open_rows(path: pathlib.Path, layout: Layout) -> tuple[lines.RowReader, tuple[str, ...]]:
    """Opens a file after its header, and returns the names of its columns.

    Raises:
        FileNotFoundError, ValueError: See `lines.open_text`; or a column is missing.
    """
    reader = lines.RowReader(path, layout.quote, layout.delimiter)
    if layout.columns is not None:
        rows = lines.split_rows(reader.sample(), layout.quote, layout.delimiter)[:_FIRST_ROWS]
        return reader, layout.columns([row.count(layout.delimiter.encode()) + 1 for row in rows])
    first = header(path, layout, reader.first_row())
    columns = tuple(name.strip() for name in first)
    repeated = sorted({name for name in columns if columns.count(name) > 1 and name})
    if set(repeated) & set(layout.types):
        raise ValueError(f"{path}: the header names {repeated} more than once; rename all but one.")
    missing = [n for n in layout.types if n not in columns and n not in layout.optional]
    if missing:
        shown = terminal.format_list([repr(name[:40]) for name in columns], 20)
        raise ValueError(f"{path}: the header lacks the columns {missing}; it has {shown}.")
    reader.skip_first_row()
    return reader, columns


def header(path: pathlib.Path, layout: Layout, row: bytes) -> list[str]:
    """Splits the first row of a file into names.

    Raises:
        ValueError: The row is not UTF-8, or a quote is not closed.
    """
    try:
        return layout.split(row)
    except UnicodeDecodeError:
        raise ValueError(f"{path}: the header is not UTF-8; {lines.TO_UTF8}.") from None
    except csv.Error:  # A name is longer than the limit of the csv module.
        raise open_quote(path) from None


def open_quote(path: pathlib.Path) -> ValueError:
    """Returns the error of a header with a quote that is not closed."""
    return ValueError(f"{path}: the header has an unclosed quote; remove it.")


def parse(
    layout: Layout, columns: tuple[str, ...], text: bytes, first_line: int, num_rows: int
) -> protocol.Parsed:
    """Parses whole rows, at once if all are good, otherwise in ever smaller parts."""
    try:
        table = _parse_table(layout, columns, text, num_rows)
        if len(columns) > 1 and _may_be_empty(table) and _EMPTY_LINE.search(text):
            raise ValueError("a line is empty")  # Arrow reads it as a row of missing values.
    except (pa.ArrowInvalid, ValueError) as error:
        if num_rows > 1:
            return _parse_parts(layout, columns, text, first_line)
        reason = _fault(layout, columns, text) or f"it cannot be parsed: {error}"
        types = {**layout.types, protocol.LINE_NUMBER: pa.int64()}
        nothing = pa.table({name: pa.array([], kind) for name, kind in types.items()})
        return protocol.Parsed(nothing, {first_line: reason})
    quoted = layout.quote and b'"' in text
    if not quoted or text.count(b"\n") + (not text.endswith(b"\n")) == num_rows:
        numbers = np.arange(first_line, first_line + num_rows)
    else:
        rows = lines.split_rows(text, layout.quote, layout.delimiter)
        numbers = np.array(_line_numbers(rows, first_line))
    return protocol.Parsed(table.append_column(protocol.LINE_NUMBER, pa.array(numbers, pa.int64())))


def _parse_table(layout: Layout, columns: tuple[str, ...], text: bytes, count: int) -> pa.Table:
    present = {name: kind for name, kind in layout.types.items() if name in columns}
    # Blocks that fit into the cache are read twice as fast as a whole chunk, but rows of several
    # lines and very long rows need a single block.
    whole = len(text) + 1
    try:
        block = whole if layout.quote and b'"' in text else min(_BLOCK_BYTES, whole)
        table = _read(layout, columns, present, text, block)
    except pa.ArrowInvalid:
        if whole <= _BLOCK_BYTES:
            raise
        table = _read(layout, columns, present, text, whole)
    if table.num_rows != count:
        raise ValueError(f"{count} rows gave {table.num_rows}")
    for name, kind in layout.types.items():
        if name not in present:
            table = table.append_column(name, pa.nulls(count, kind))
        elif kind == NUMBERS and np.isinf(table[name].to_numpy()).any():
            raise ValueError(f"{name} is not finite")
    return table.select(list(layout.types))


def _read(
    layout: Layout,
    columns: tuple[str, ...],
    present: Mapping[str, pa.DataType],
    text: bytes,
    block_size: int,
) -> pa.Table:
    # Arrow needs unique names, also for the columns that it skips.
    names = [name if columns.index(name) == i else f"{name}#{i}" for i, name in enumerate(columns)]
    table = pa_csv.read_csv(
        pa.BufferReader(text),
        pa_csv.ReadOptions(column_names=names, block_size=block_size, use_threads=False),
        pa_csv.ParseOptions(
            delimiter=layout.delimiter,
            quote_char='"' if layout.quote else False,
            double_quote=layout.quote,
            newlines_in_values=layout.quote and b'"' in text,
            ignore_empty_lines=False,
        ),
        pa_csv.ConvertOptions(
            column_types={n: pa.string() if k == STRINGS else k for n, k in present.items()},
            include_columns=list(present),
            null_values=list(NULLS),
            strings_can_be_null=False,
        ),
    )
    # Encoded here, because Arrow's reader would make a dictionary for each block.
    encoded = {
        name: table[name].combine_chunks().dictionary_encode() if kind == STRINGS else table[name]
        for name, kind in present.items()
    }
    return pa.table(encoded)


def _may_be_empty(table: pa.Table) -> bool:
    """Returns whether all values of some row are missing, as in an empty line."""
    empty = np.ones(table.num_rows, bool)
    for column in table.columns:
        if pa.types.is_dictionary(column.type):
            array = column.combine_chunks()
            blank = pc.index(array.dictionary, "").as_py()
            missing = array.indices.to_numpy(zero_copy_only=False) == blank
        else:
            missing = column.is_null().to_numpy()
        empty &= missing
        if not empty.any():
            return False
    return True


def _parse_parts(
    layout: Layout, columns: tuple[str, ...], text: bytes, first_line: int
) -> protocol.Parsed:
    rows = lines.split_rows(text, layout.quote, layout.delimiter)
    size = -(-len(rows) // _PARTS)
    parts, line = [], first_line
    for first in range(0, len(rows), size):
        part_rows = rows[first : first + size]
        part = b"".join(part_rows)
        parts.append(parse(layout, columns, part, line, len(part_rows)))
        line += part.count(b"\n")
    return protocol.Parsed(
        pa.concat_tables(p.table for p in parts).unify_dictionaries().combine_chunks(),
        {line: reason for p in parts for line, reason in p.faults.items()},
    )


def _fault(layout: Layout, columns: tuple[str, ...], row: bytes) -> str | None:
    """Returns why a row cannot be parsed, or None if it is not known."""
    if len(columns) > 1 and not row.strip(b"\r\n"):
        return "the line is empty; remove it"
    try:
        values = layout.split(row)
    except UnicodeDecodeError as error:
        return f"byte {error.start + 1} is not UTF-8; {lines.TO_UTF8}"
    except csv.Error as error:
        return f"it cannot be split into values ({error}); check its quotes"
    is_quoted = layout.quote and b'"' in row
    if b"\r" in row.removesuffix(b"\n").removesuffix(b"\r") and not is_quoted:
        return "the line contains a carriage return; remove it"
    if len(values) != len(columns):
        expected = layout.expected or f"{len(columns)} columns"
        num_lines = row.rstrip(b"\r\n").count(b"\n") + 1
        where = f" in a row of {num_lines} lines: is a quote left open?" if num_lines > 1 else ""
        return f"expected {expected}, got {len(values)} columns{where}"
    named = dict(zip(columns, values, strict=True))
    reason = layout.check(named) if layout.check else None
    for name, kind in layout.types.items():
        if reason is None and kind == NUMBERS:
            reason = number_fault(name, named.get(name, ""))
    return reason


def _line_numbers(rows: Sequence[bytes], first_line: int) -> list[int]:
    counts = np.array([row.count(b"\n") for row in rows], np.int64)
    return (first_line + np.cumsum(counts) - counts).tolist()
