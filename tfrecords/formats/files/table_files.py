"""Reads tables in files: Parquet, JSON lines or delimited text, recognized by content.

The delimiter of a text is the one with which the header has the most of the wanted columns, and
the rows have as many values as the header. Double quotes enclose values, as in CSV. In database
dumps (separated by tabs or `\\x01`), they do so only if the quotes in the first rows are valid CSV;
otherwise, quotes are text.
"""

import collections
import csv
import dataclasses
import io
import pathlib
import re
import shlex
from collections.abc import Collection, Mapping

import pyarrow as pa

from tfrecords.formats import protocol
from tfrecords.formats.files import delimited, folders, json_lines, lines, parquet
from tfrecords.schema import Schema

# The last one is the default of Hive.
DELIMITERS = ("\t", ",", ";", "|", "\x01")
_OF_DATABASES = ("\t", "\x01")
# The most common separator of more than one character.
_LONG = "::"
_ROWS_COMPARED = 20


def is_parquet(path: pathlib.Path) -> bool:
    """Returns whether a file is Parquet, not text.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is a directory, empty, or of another binary format.
    """
    with lines.open_text(path):
        pass
    with path.open("rb") as file:
        first = file.read(lines.MAGIC_BYTES)
    lines.refuse_binary(path, first)
    return first.startswith(lines.PARQUET)


def is_json(path: pathlib.Path) -> bool:
    """Returns whether a file is JSON lines; see `is_parquet` for other errors.

    Raises:
        ValueError: It is one JSON list.
    """
    if is_parquet(path):
        return False
    with lines.open_text(path) as file:
        first = file.read(lines.MAGIC_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
    if first.startswith(b"["):
        raise ValueError(
            f"{path} is a JSON list; expected JSON lines, an object on each line. Convert it, for "
            f"example with: jq -c '.[]' {path.name} > {path.stem}.jsonl"
        )
    return first.startswith(b"{")


def column_names(
    path: pathlib.Path, wanted: Collection[str], header: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Returns the names of the columns in a file; its folders may have others.

    Args:
        path: The file.
        wanted: Expected names, by which the delimiter is chosen.
        header: Names of the columns of a delimited text without a header line, or none.

    Raises:
        FileNotFoundError, ValueError: See `is_parquet`; or the header cannot be read.
    """
    if is_parquet(path):
        return parquet.column_names(path)
    if is_json(path):
        return tuple(json_lines.names_of(path)[0])
    return text_layout(path, wanted, header)[1]


def readable_names(
    path: pathlib.Path, wanted: Collection[str], header: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Returns the columns in a file, then those in the names of its folders; see `column_names`."""
    return tuple(dict.fromkeys((*column_names(path, wanted, header), *folders.values_of(path))))


def lists_of_objects(path: pathlib.Path) -> dict[str, str]:
    """Returns the list of objects of each column of JSON lines that is inside one."""
    return json_lines.names_of(path)[1] if is_json(path) else {}


def shown_names(ads: pathlib.Path | None, schema: Schema) -> tuple[str, ...]:
    """Returns the columns to show that a table of ads has; none without a table."""
    if ads is None or not schema.show:
        return ()
    names = readable_names(ads, schema.columns)
    return tuple(name for name in schema.show if name in names)


def open_table(
    path: pathlib.Path,
    types: Mapping[str, pa.DataType],
    lists: Collection[str] = (),
    optional: Collection[str] = (),
    rows_per_chunk: int = protocol.ROWS_PER_CHUNK,
    header: tuple[str, ...] = (),
    decimal: str | None = None,
) -> protocol.Log:
    """Opens a table as a log.

    Args:
        path: The file.
        types: Columns to read and their types, `delimited.STRINGS`, `NUMBERS`, `VECTORS` or `ANY`.
        lists: Columns that may hold lists.
        optional: Columns that the file may lack; they are missing in its rows.
        rows_per_chunk: Approximate number of rows of a chunk.
        header: See `column_names`.
        decimal: Decimal sign of numbers in texts of JSON lines; None: plain numbers.

    Raises:
        FileNotFoundError, ValueError: See `column_names`; or a column has an unsupported type.
    """
    in_folders = types.keys() & folders.values_of(path).keys()
    if in_folders:
        in_folders -= set(column_names(path, types, header))
    types = {name: kind for name, kind in types.items() if name not in in_folders}
    log: protocol.Log
    if is_parquet(path):
        log = parquet.ParquetLog(path, types, lists, rows_per_chunk)
    elif is_json(path):
        log = json_lines.JsonLinesLog(path, types, lists, optional, rows_per_chunk, decimal)
    else:
        as_strings = (delimited.ANY, delimited.VECTORS)
        plain = {n: delimited.STRINGS if kind in as_strings else kind for n, kind in types.items()}
        layout, _ = text_layout(path, plain, header)
        layout = dataclasses.replace(
            layout,
            types=plain,
            columns=(lambda _: header) if header else None,
            optional=frozenset(optional),
        )
        log = delimited.DelimitedLog(protocol.Files((path,)), layout, None, rows_per_chunk)
    return folders.InFolders(log, sorted(in_folders)) if in_folders else log


def read(
    path: pathlib.Path,
    types: Mapping[str, pa.DataType],
    lists: Collection[str] = (),
    decimal: str | None = None,
) -> pa.Table:
    """Reads all rows of some columns of a table.

    Raises:
        FileNotFoundError, ValueError: See `open_table`; or a row is bad.
    """
    return protocol.read_all(open_table(path, types, lists, decimal=decimal), types)


def text_layout(
    path: pathlib.Path, wanted: Collection[str], header: tuple[str, ...] = ()
) -> tuple[delimited.Layout, tuple[str, ...]]:
    """Detects the delimiter and the quotes of a text, and returns the names of its columns, too.

    Raises:
        FileNotFoundError, ValueError: See `is_parquet`; or the header is not UTF-8, has a quote
            that is not closed, or has an unknown delimiter.
    """
    sample = lines.RowReader(path).sample()
    found: list[tuple[delimited.Layout, tuple[str, ...]]] = []
    first_line = sample.partition(b"\n")[0]
    for delimiter in [d for d in DELIMITERS if d.encode() in first_line] or [","]:
        layout = delimited.Layout({}, delimiter, quote=True)
        first = lines.split_rows(sample, True, delimiter)[0]
        names = tuple(name.strip() for name in delimited.header(path, layout, first))
        quote = delimiter not in _OF_DATABASES or _balanced(sample, delimiter, len(names))
        if header and len(names) != len(header):
            continue
        found.append((dataclasses.replace(layout, quote=quote), header or names))
    if not found:
        raise ValueError(
            f"{path}: expected {len(header)} columns, the schema's header, but its first line "
            f"{first_line[:60].decode('utf-8', 'replace')!r} has more or fewer values. Correct "
            "the header in the schema."
        )
    layout, names = max(found, key=lambda pair: _fit(pair[0], pair[1], wanted, sample))
    first = lines.split_rows(sample, layout.quote, layout.delimiter)[0]
    if b"\n" in first.strip() and not _balanced(first, layout.delimiter, len(names)):
        raise delimited.open_quote(path)
    if not header and set(names).isdisjoint(wanted):
        _check_delimiter(path, sample, len(names) == 1)
    return layout, names


def _check_delimiter(path: pathlib.Path, sample: bytes, is_one_column: bool) -> None:
    """Refuses values separated by `::`, or, in a text of one column, by another character."""
    rows = [row.decode("utf-8", "replace") for row in lines.split_rows(sample)[:_ROWS_COMPARED]]
    first = rows[0].strip("\r\n")
    found = _LONG if _LONG in first and len({row.count(_LONG) for row in rows}) == 1 else None
    counts = collections.Counter(c for c in first if not (c.isalnum() or c in "_\"'"))
    for character, count in counts.most_common(1 if is_one_column and found is None else 0):
        if count > 1 and all(row.count(character) >= count for row in rows):
            found = character
    if found is None or len(rows) == 1:
        return
    pattern = re.sub(r"([].[*^$/\\])", r"\\\1", found)
    source, target = shlex.quote(str(path)), shlex.quote(f"{path.stem}.tsv")
    raise ValueError(
        f"{path}: the first line {first[:60]!r} is separated by {found!r}; expected columns "
        "separated by a tab, a comma, a semicolon, a vertical bar, or \\x01 (Hive's default). "
        f"Write it with one of these, such as: sed 's/{pattern}/\\t/g' {source} > {target}"
    )


def _fit(
    layout: delimited.Layout, names: Collection[str], wanted: Collection[str], sample: bytes
) -> tuple[int, bool, int]:
    """Returns how well a layout and the names of its columns fit; larger is better."""
    rows = lines.split_rows(sample, layout.quote, layout.delimiter)[1:_ROWS_COMPARED]
    try:
        even = all(len(layout.split(row)) == len(names) for row in rows)
    except (UnicodeDecodeError, csv.Error):
        even = False
    return len(set(wanted) & set(names)), even and len(names) > 1, len(names)


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
