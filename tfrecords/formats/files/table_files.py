"""Reads tables in files: Parquet, or delimited text with a header line, recognized by content.

The delimiter of a text is the one with which the header has the most of the wanted columns, and
the rows have as many values as the header. Double quotes enclose values, as in CSV; in a
tab-separated text only if the quotes at its beginning are those of valid CSV, otherwise they are
text.
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
# First bytes of other compressed files.
_PACKED = {
    b"PK\x03\x04": "a zip or Excel file; unzip it, or save it as CSV",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; decompress it, or use gzip",
    b"BZh91AY&SY": "compressed by bzip2; decompress it, or use gzip",
    b"\xfd7zXZ": "compressed by xz; decompress it, or use gzip",
}


@dataclasses.dataclass(frozen=True)
class Text:
    """The layout of a delimited text.

    Attributes:
        delimiter: Text between values.
        quote: Whether double quotes enclose values.
        columns: Names in the header.
    """

    delimiter: str
    quote: bool
    columns: tuple[str, ...]


def is_parquet(path: pathlib.Path) -> bool:
    """Returns whether a file is Parquet, not text.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is a directory, empty, or compressed by another program than gzip.
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
        wanted: Expected names, by which the delimiter is chosen.

    Raises:
        FileNotFoundError, ValueError: As in `is_parquet`, or the header cannot be read.
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
        types: Columns to read and their types: `delimited.STRINGS`, `NUMBERS` or `VECTORS`.
        lists: Columns that may hold lists.
        optional: Columns that the file may lack; they are missing in its rows.
        rows_per_chunk: Approximate number of rows of a chunk.

    Raises:
        FileNotFoundError, ValueError: As in `column_names`, or a column has an unsupported type.
    """
    if is_parquet(path):
        return parquet.ParquetLog(path, types, lists, rows_per_chunk)
    types = {n: delimited.STRINGS if k == delimited.VECTORS else k for n, k in types.items()}
    found = text(path, types)
    layout = delimited.Layout(types, found.delimiter, found.quote, optional=frozenset(optional))
    return delimited.DelimitedLog(protocol.Files((path,)), layout, None, rows_per_chunk)


def read(
    path: pathlib.Path, types: Mapping[str, pa.DataType], lists: Collection[str] = ()
) -> pa.Table:
    """Reads all rows of some columns of a table.

    Raises:
        FileNotFoundError, ValueError: As in `open_table`, or a row is bad.
    """
    return protocol.read_all(open_table(path, types, lists), types)


def text(path: pathlib.Path, wanted: Collection[str]) -> Text:
    """Detects the layout of a delimited text.

    Raises:
        FileNotFoundError, ValueError: As in `is_parquet`, or the header is not UTF-8 or has a
            quote that is not closed.
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
    """Returns how well a layout fits; larger is better."""
    layout = delimited.Layout({}, text.delimiter, text.quote)
    rows = lines.split_rows(sample, text.quote, text.delimiter)[1:_ROWS_COMPARED]
    try:
        even = all(len(layout.split(row)) == len(text.columns) for row in rows)
    except (UnicodeDecodeError, csv.Error):
        even = False
    num_columns = len(text.columns)
    return len(set(wanted) & set(text.columns)), even and num_columns > 1, num_columns


def _balanced(sample: bytes, delimiter: str, num_columns: int) -> bool:
    """Returns whether the text has quotes, all of them valid in strict CSV."""
    rows = lines.split_rows(sample, True, delimiter)
    # The last row may be incomplete.
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
