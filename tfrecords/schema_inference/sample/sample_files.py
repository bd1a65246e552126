"""Reads the first rows of some files of a table.

Shapes: B rows of a file.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tfrecords import formats
from tfrecords.columns import as_strings, decoded
from tfrecords.schema_inference import known_names
from tfrecords.schema_inference.sample import writing

ROWS = 100_000
# Number of files, spread over the list of files, whose first rows are read.
_SPREAD = 10
# Approximate compression ratio of gzip.
_GZIP_FACTOR = 5


@dataclasses.dataclass(frozen=True)
class Part:
    """The first rows of a file.

    Attributes:
        rows: The valid rows.
        chunk: The first chunk of the file; None: it has no rows.
        is_whole: Whether these are all rows of the file.
        num_read: Number of rows of the chunk, including invalid ones.
        fault: Line and reason of the first invalid row, or None.
    """

    rows: pa.Table
    chunk: formats.Chunk | None
    is_whole: bool
    num_read: int = 0
    fault: tuple[int, str] | None = None


def parts(
    paths: Sequence[pathlib.Path],
    names: Sequence[str],
    header: tuple[str, ...],
    notes: list[str],
    is_log: bool = True,
) -> list[Part]:
    """Reads `ROWS` rows of some files, in the order of the files.

    Args:
        paths: The files.
        names: Columns to read.
        header: Names of the columns of text files without a header line.
        notes: Notes on invalid rows and repeated headers are added to it.
        is_log: Whether a few invalid rows are tolerated, unlike in a table of users or ads.

    Raises:
        ValueError: There are no valid rows.
    """
    step = -(-len(paths) // _SPREAD)
    # Larger files make up for smaller ones.
    spread = sorted(range(0, len(paths), step), key=lambda index: paths[index].stat().st_size)
    parts: dict[int, Part] = {}
    count = 0
    for turn, index in enumerate((*spread, *(i for i in range(len(paths)) if i % step))):
        if count == ROWS:
            break
        num_rows = -(-(ROWS - count) // max(len(spread) - turn, 1))
        parts[index] = _first_rows(paths[index], names, header, num_rows, notes, is_log)
        count += parts[index].rows.num_rows
    found = [parts[index] for index in sorted(parts)]
    if count:
        return found
    if all(part.chunk is None for part in found):
        raise ValueError(f"{paths[0]} has no rows below its header.")
    path, fault = next((part.chunk.path, part.fault) for part in found if part.chunk)
    if fault is None:
        raise ValueError(f"{path} has no rows, only repeated header lines.")
    hint = " If the header is further down, remove the lines above it." if len(names) == 1 else ""
    raise ValueError(f"{path} has no valid rows; line {fault[0]}: {fault[1]}.{hint}")


def _first_rows(
    path: pathlib.Path,
    names: Sequence[str],
    header: tuple[str, ...],
    num_rows: int,
    notes: list[str],
    is_log: bool,
) -> Part:
    """Reads the first rows of a file, and adds notes on invalid ones."""
    types = dict.fromkeys(names, formats.STRINGS)
    opened = formats.open_table(path, types, names, names, num_rows, header)
    chunks = opened.chunks()
    chunk = next(chunks, None)
    if chunk is None:
        return Part(pa.table({name: pa.array([], pa.string()) for name in names}), None, True)
    parsed = opened.parse(chunk)
    rows = parsed.table.slice(0, num_rows)
    num_read = chunk.num_rows if parsed.num_rows is None else parsed.num_rows
    is_whole = next(chunks, None) is None and rows.num_rows == parsed.table.num_rows
    line, reason = min(
        ((formats.line_of(number), fault) for number, fault in parsed.faults.items()),
        default=(chunk.first_line, "no line has rows"),
    )
    if not rows.num_rows:
        return Part(rows, chunk, is_whole, num_read, (line, reason))
    if parsed.faults:
        num_bad, max_bad = len(parsed.faults), known_names.MAX_REJECTED if is_log else 0
        note = f"! {path}: {num_bad:,} bad rows, the first on line {line}: {reason}."
        if num_bad > max_bad * num_read:
            limit = f"more than {max_bad:.0%} of such rows" if is_log else "such rows"
            note += (
                f" The proposal is based on the other rows, and a conversion refuses {limit}: "
                "correct the file, then propose again."
            )
        notes.append(note)
    return Part(_without_headers(path, rows, names, notes), chunk, is_whole, num_read)


def joined(columns: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    """Returns a column of several files; as texts if their types differ."""
    kinds = {column.type for column in columns if column.null_count < len(column)}
    if len(kinds) > 1:
        columns = [pa.chunked_array([_texts(column)]) for column in columns]
    elif kinds:
        kind = next(iter(kinds))
        # A file without the column has nulls of another type.
        columns = [
            c if c.type == kind else pa.chunked_array([pa.nulls(len(c), kind)]) for c in columns
        ]
    return pa.chunked_array([chunk for column in columns for chunk in column.chunks])


def _texts(column: pa.ChunkedArray) -> pa.Array:
    if pa.types.is_list(column.type):
        return pc.binary_join(column.combine_chunks(), "|")
    return decoded(as_strings(column))


def total_rows(paths: Sequence[pathlib.Path], read: Sequence[Part]) -> int:
    """Returns the number of rows of all files, approximate unless all of them were read."""
    if len(read) == len(paths) and all(part.is_whole for part in read):
        return sum(part.num_read for part in read)
    largest = max(read, key=lambda part: part.num_read)
    return sum(_total_rows(path, largest) for path in paths)


def _total_rows(path: pathlib.Path, read: Part) -> int:
    """Returns the number of rows of a file, by the size of the rows that were read of another."""
    if read.chunk is None or formats.is_parquet(path):
        return pq.read_metadata(path).num_rows if formats.is_parquet(path) else 0
    with path.open("rb") as file:
        factor = _GZIP_FACTOR if file.read(2) == b"\x1f\x8b" else 1
    return int(path.stat().st_size * factor * read.num_read / max(len(read.chunk.payload), 1))


def _without_headers(
    path: pathlib.Path, rows: pa.Table, names: Sequence[str], notes: list[str]
) -> pa.Table:
    """Returns rows without those that repeat the header, on which a note is added."""
    repeated = writing.repeated_headers(rows, names)
    if not repeated.any():
        return rows
    line = formats.line_of(rows[formats.LINE_NUMBER][int(repeated.argmax())].as_py())
    notes.append(
        f"{path}: line {line} repeats the header (such lines in the sample: {repeated.sum()}). "
        "Remove such lines; the proposal does not count them."
    )
    kept = rows.filter(pa.array(~repeated))
    # As texts, because the dictionaries still have the names.
    return pa.table({name: kept[name].cast(pa.string()) for name in names})
