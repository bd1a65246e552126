"""Delimited text: chunks parsed by Arrow at full speed, faults found row by row.

A chunk without a fault is parsed in one go. A chunk that fails is halved again and again,
so that one bad row costs little and is named with its line and the reason.
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

from tfrecords.columns import NULLS, number_fault
from tfrecords.formats import protocol
from tfrecords.formats.files import lines

STRINGS = pa.dictionary(pa.int32(), pa.string())
NUMBERS = pa.float64()
_EMPTY_LINE = re.compile(rb"(?:\A|\n)\r?\n")
_PARTS = 16
_BLOCK_BYTES = 1 << 20
_FIRST_ROWS = 100


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the text of a log is laid out.

    Attributes:
        types: The columns wanted: `STRINGS` or `NUMBERS` of each.
        delimiter: What stands between values.
        quote: Whether a double quote opens a value that may hold delimiters and line ends.
        columns: Gives the names of the columns of a file without a header, by the number of
            values in each of its first rows; None: the first row is a header.
        optional: Columns that a file may lack; they are missing in its rows.
        expected: How a row should look, for messages.
        check: Says what is wrong with a row's values, beyond their number and numbers.
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
            UnicodeDecodeError: It is not UTF-8.
        """
        text = row.decode("utf-8").removesuffix("\n").removesuffix("\r")
        if self.quote and '"' in text:
            return next(csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter))
        return text.split(self.delimiter)


class DelimitedLog:
    """A log of delimited text files.

    Args:
        files: The files.
        layout: How they are laid out.
        derive: Makes what the schema reads of what the files hold; None: they hold it.
        rows_per_chunk: About how many rows are parsed at once.
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
    """Opens a file behind its header and returns the names of its columns.

    Raises:
        FileNotFoundError, ValueError: As `lines.open_text`; or a column wanted is not there.
    """
    reader = lines.RowReader(path, layout.quote, layout.delimiter)
    if layout.columns is not None:
        rows = lines.split_rows(reader.sample(), layout.quote, layout.delimiter)[:_FIRST_ROWS]
        return reader, layout.columns([row.count(layout.delimiter.encode()) + 1 for row in rows])
    first = header(path, layout, reader.first_row())
    columns = tuple(name.strip() for name in first)
    repeated = sorted({name for name in columns if columns.count(name) > 1 and name})
    if set(repeated) & set(layout.types):
        raise ValueError(f"{path}: the header names {repeated} more than once.")
    missing = [n for n in layout.types if n not in columns and n not in layout.optional]
    if missing:
        raise ValueError(
            f"{path}: its header lacks the columns {missing}; it has {_shown(columns)}."
        )
    reader.skip_first_row()
    return reader, columns


def header(path: pathlib.Path, layout: Layout, row: bytes) -> list[str]:
    """Splits the first row of a file into names.

    Raises:
        ValueError: It is not UTF-8, or opens a quote and does not close it.
    """
    try:
        return layout.split(row)
    except UnicodeDecodeError:
        raise ValueError(f"{path}: the header is not UTF-8; convert the file.") from None
    except csv.Error:  # a name longer than any
        raise open_quote(path) from None


def open_quote(path: pathlib.Path) -> ValueError:
    """Returns what is said of a header that opens a quote and does not close it."""
    return ValueError(f"{path}: the header opens a quote that it does not close; remove it.")


def read_table(path: pathlib.Path, layout: Layout) -> pa.Table:
    """Reads a whole file, in which no row may be bad.

    Raises:
        FileNotFoundError, ValueError: As `open_rows`; or a row is bad, named with its line.
    """
    reader, columns = open_rows(path, layout)
    tables = []
    for first_line, text, num_rows in reader.chunks(protocol.ROWS_PER_CHUNK):
        parsed = parse(layout, columns, text, first_line, num_rows)
        for line, reason in sorted(parsed.faults.items()):
            raise ValueError(f"{path}, line {line}: {reason}")
        tables.append(parsed.table)
    if not tables:
        return pa.table({name: pa.array([], kind) for name, kind in layout.types.items()})
    return pa.concat_tables(tables).unify_dictionaries()


def parse(
    layout: Layout, columns: tuple[str, ...], text: bytes, first_line: int, num_rows: int
) -> protocol.Parsed:
    """Parses whole rows: at full speed if all are good, else by ever smaller parts."""
    try:
        table = _parse_table(layout, columns, text, num_rows)
        if len(columns) > 1 and _may_be_empty(table) and _EMPTY_LINE.search(text):
            raise ValueError("a line is empty")  # Arrow makes it a row of missing values
    except (pa.ArrowInvalid, ValueError):
        return _parse_parts(layout, columns, text, first_line)
    quoted = layout.quote and b'"' in text
    if not quoted or text.count(b"\n") + (not text.endswith(b"\n")) == num_rows:
        numbers = np.arange(first_line, first_line + num_rows)
    else:
        rows = lines.split_rows(text, layout.quote, layout.delimiter)
        numbers = np.array(_line_numbers(rows, first_line))
    return protocol.Parsed(table.append_column(protocol.LINE_NUMBER, pa.array(numbers, pa.int64())))


def _parse_table(layout: Layout, columns: tuple[str, ...], text: bytes, count: int) -> pa.Table:
    present = {name: kind for name, kind in layout.types.items() if name in columns}
    # Blocks that fit the cache are read twice as fast as a chunk in one; but a row of several
    # lines, or a very long one, needs one block.
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
    # Columns need unique names here; those that are not wanted are skipped all the same.
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
    # Encoded here: the reader would make a dictionary of each block.
    encoded = {
        name: table[name].combine_chunks().dictionary_encode() if kind == STRINGS else table[name]
        for name, kind in present.items()
    }
    return pa.table(encoded)


def _may_be_empty(table: pa.Table) -> bool:
    """Returns whether a row is all missing, as that of an empty line is."""
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
    if len(rows) <= 2 * _PARTS:
        return _parse_rows(layout, columns, rows, first_line)
    size = -(-len(rows) // _PARTS)
    parts, line = [], first_line
    for first in range(0, len(rows), size):
        own = rows[first : first + size]
        part = b"".join(own)
        parts.append(parse(layout, columns, part, line, len(own)))
        line += part.count(b"\n")
    return protocol.Parsed(
        pa.concat_tables(p.table for p in parts).unify_dictionaries().combine_chunks(),
        {line: reason for p in parts for line, reason in p.faults.items()},
    )


def _parse_rows(
    layout: Layout, columns: tuple[str, ...], rows: Sequence[bytes], first_line: int
) -> protocol.Parsed:
    good: list[bytes] = []
    numbers: list[int] = []
    faults: dict[int, str] = {}
    for line, row in zip(_line_numbers(rows, first_line), rows, strict=True):
        reason = _fault(layout, columns, row)
        if reason is None:
            good.append(row if row.endswith(b"\n") else row + b"\n")
            numbers.append(line)
        else:
            faults[line] = reason
    if good:
        table = _parse_table(layout, columns, b"".join(good), len(good))
    else:
        table = pa.table({name: pa.array([], kind) for name, kind in layout.types.items()})
    return protocol.Parsed(
        table.append_column(protocol.LINE_NUMBER, pa.array(numbers, pa.int64())), faults
    )


def _fault(layout: Layout, columns: tuple[str, ...], row: bytes) -> str | None:
    """Returns why a row cannot be parsed by itself, in plain words, or None if it can."""
    if len(columns) > 1 and not row.strip(b"\r\n"):
        return "the line is empty; remove it"
    try:
        _parse_table(layout, columns, row if row.endswith(b"\n") else row + b"\n", 1)
    except (pa.ArrowInvalid, ValueError) as error:
        return _reason(layout, columns, row) or f"it cannot be parsed: {error}"
    return None


def _reason(layout: Layout, columns: tuple[str, ...], row: bytes) -> str | None:
    try:
        values = layout.split(row)
    except UnicodeDecodeError as error:
        return f"byte {error.start + 1} is not UTF-8; convert the file to UTF-8"
    except csv.Error as error:
        return f"it cannot be split into values ({error}); check its quotes"
    if b"\r" in row.removesuffix(b"\n").removesuffix(b"\r") and not layout.quote:
        return "a carriage return stands inside the line; remove it"
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


def _shown(names: Sequence[str], most: int = 20) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
