"""Tables in files, told apart by content: Parquet, or delimited text with a header line.

The delimiter of a text is the one with which its header names the most of the columns
wanted, and the rows below have as many values as it has names. A double quote quotes, as
in CSV; in a tab-separated text it does so only if the quotes at its beginning are balanced
as CSV wants it, else it is text.
"""

import csv
import dataclasses
import io
import pathlib
from collections.abc import Collection, Mapping

import pyarrow as pa

from tfrecords.formats import protocol
from tfrecords.formats.files import delimited, lines, parquet

DELIMITERS = ("\t", ",", ";", "|")
_ROWS_COMPARED = 20
_PARQUET = b"PAR1"
_MAGIC_BYTES = 10
# What other packed files begin with.
_PACKED = {
    b"PK\x03\x04": "a zip or Excel file; unzip it, or save it as CSV",
    b"\x28\xb5\x2f\xfd": "packed by zstd; unpack it, or use gzip",
    b"BZh91AY&SY": "packed by bzip2; unpack it, or use gzip",
    b"\xfd7zXZ": "packed by xz; unpack it, or use gzip",
}


@dataclasses.dataclass(frozen=True)
class Text:
    """How a delimited text is written.

    Attributes:
        delimiter: What stands between values.
        quote: Whether double quotes quote.
        columns: The names in its header.
    """

    delimiter: str
    quote: bool
    columns: tuple[str, ...]


def is_parquet(path: pathlib.Path) -> bool:
    """Returns whether a file is Parquet; else it is text.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is a directory, empty, or packed other than by gzip.
    """
    with lines.open_text(path):
        pass
    with path.open("rb") as file:
        first = file.read(_MAGIC_BYTES)
    for magic, what in _PACKED.items():
        if first.startswith(magic):
            raise ValueError(f"{path} is {what}.")
    return first.startswith(_PARQUET)


def column_names(path: pathlib.Path, wanted: Collection[str]) -> tuple[str, ...]:
    """Returns the names of a table's columns.

    Args:
        path: The file.
        wanted: Names that tell one delimiter from another.

    Raises:
        FileNotFoundError, ValueError: As `is_parquet`, or the header cannot be read.
    """
    return parquet.column_names(path) if is_parquet(path) else text(path, wanted).columns


def open_table(
    path: pathlib.Path,
    types: Mapping[str, pa.DataType],
    lists: Collection[str] = (),
    optional: Collection[str] = (),
    rows_per_chunk: int = protocol.ROWS_PER_CHUNK,
) -> protocol.Log:
    """Opens a table as a log.

    Args:
        path: The file.
        types: The columns wanted: `delimited.STRINGS` or `delimited.NUMBERS` of each.
        lists: Those of them that may hold lists.
        optional: Those that are missing in every row if the file lacks them.
        rows_per_chunk: About how many rows are parsed at once.

    Raises:
        FileNotFoundError, ValueError: As `column_names`, or a column's type cannot be read.
    """
    if is_parquet(path):
        return parquet.ParquetLog(path, types, lists, rows_per_chunk)
    layout = _layout(text(path, types), types, optional)
    return delimited.DelimitedLog(protocol.Files((path,)), layout, None, rows_per_chunk)


def read(
    path: pathlib.Path, types: Mapping[str, pa.DataType], lists: Collection[str] = ()
) -> pa.Table:
    """Reads the whole of a table's wanted columns; no row may be bad.

    Raises:
        FileNotFoundError, ValueError: As `open_table`, or a row is bad, named with its line.
    """
    if is_parquet(path):
        return parquet.read_table(path, types, lists)
    return delimited.read_table(path, _layout(text(path, types), types))


def text(path: pathlib.Path, wanted: Collection[str]) -> Text:
    """Finds out how a delimited text is written.

    Raises:
        FileNotFoundError, ValueError: As `is_parquet`, or the header is not UTF-8, or leaves a
            quote open.
    """
    sample = lines.RowReader(path).sample()
    found = []
    first_line = sample.partition(b"\n")[0]
    for delimiter in [d for d in DELIMITERS if d.encode() in first_line] or [","]:
        layout = delimited.Layout({}, delimiter, quote=True)
        first = lines.split_rows(sample, True, delimiter)[0]
        names = tuple(name.strip() for name in delimited.header(path, layout, first))
        quote = delimiter != "\t" or _balanced(sample, delimiter, len(names))
        found.append(Text(delimiter, quote, names))
    best = max(found, key=lambda text: _fit(text, wanted, sample))
    first = lines.split_rows(sample, best.quote, best.delimiter)[0]
    if b"\n" in first.strip() and not _balanced(first, best.delimiter, len(best.columns)):
        raise delimited.open_quote(path)
    return best


def _fit(text: Text, wanted: Collection[str], sample: bytes) -> tuple[int, bool, int]:
    """Returns how well a way of reading fits: the larger, the better."""
    layout = delimited.Layout({}, text.delimiter, text.quote)
    rows = lines.split_rows(sample, text.quote, text.delimiter)[1:_ROWS_COMPARED]
    try:
        even = all(len(layout.split(row)) == len(text.columns) for row in rows)
    except (UnicodeDecodeError, csv.Error):
        even = False
    num_columns = len(text.columns)
    return len(set(wanted) & set(text.columns)), even and num_columns > 1, num_columns


def _layout(
    found: Text, types: Mapping[str, pa.DataType], optional: Collection[str] = ()
) -> delimited.Layout:
    return delimited.Layout(types, found.delimiter, found.quote, optional=frozenset(optional))


def _balanced(sample: bytes, delimiter: str, num_columns: int) -> bool:
    """Returns whether there are quotes and they are those of a strict CSV."""
    rows = lines.split_rows(sample, True, delimiter)
    # The last row may be cut.
    rows = [row for row in (rows[:-1] if len(rows) > _ROWS_COMPARED else rows) if b'"' in row]
    try:
        for row in rows:
            file = io.StringIO(row.decode("utf-8", "replace").rstrip("\r\n"), newline="")
            values = next(csv.reader(file, delimiter=delimiter, strict=True))
            if len(values) != num_columns:
                return False
    except csv.Error:
        return False
    return bool(rows)
