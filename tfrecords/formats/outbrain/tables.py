"""The tables joined to Outbrain's clicks, as arrays that are found by their keys.

A table is read once and shared by the threads that parse. Ids are integers (int32 if they fit),
other strings are dictionary-encoded; uuids are one Arrow array. Kaggle's 23 M events take about
1.1 GB with all columns. A missing number is -1 or NaN.

Shapes: B rows to look up, N rows of a table.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords.columns import KeyIndex
from tfrecords.formats import protocol
from tfrecords.formats.files import delimited

ID = pa.int64()
# Milliseconds since 1970 at which the log's timestamps are 0.
ORIGIN_MILLISECONDS = 1_465_876_799_998
NOT_KNOWN = ("", "\\N", "--")
_DAY_SECONDS = 86_400
# The log spans two weeks from its origin; later dates of publication are wrong.
_LATEST_AGE_DAYS = -15
_TIME_PATTERNS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d")


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows found by an integer key.

    Attributes:
        keys: Keys [N].
        columns: Columns [N].
    """

    keys: KeyIndex
    columns: Mapping[str, np.ndarray | pa.Array]

    def numbers(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Returns a column of numbers at some rows [B]; missing is -1, or NaN for floats."""
        column = self.columns[name]
        missing = np.nan if np.issubdtype(column.dtype, np.floating) else -1
        result = np.full(len(rows), missing, column.dtype)
        result[rows >= 0] = column[rows[rows >= 0]]
        return result

    def values(self, name: str, rows: np.ndarray) -> pa.Array:
        """Returns a column of strings or lists at some rows [B]; null is missing."""
        return self.columns[name].take(pa.array(rows, mask=rows < 0))


def read_table(path: pathlib.Path | None, key: str, types: Mapping[str, pa.DataType]) -> Table:
    """Reads a table with one row per key.

    Args:
        path: The file, comma-separated with a header; None: a table without rows.
        key: Column of the key, an id.
        types: Other columns and their types: `ID`, `delimited.STRINGS` or `pa.string()`.

    Raises:
        FileNotFoundError, ValueError: See `delimited.open_rows`; or a row is bad or a key
            repeated.
    """
    parts: dict[str, list[np.ndarray | pa.Array]] = {name: [] for name in (key, *types)}
    for table in () if path is None else _read(path, key, types):
        for name, column in parts.items():
            column.append(_compact(table[name]))
    keys = _joined(parts.pop(key), ID)
    columns = {name: _joined(parts.pop(name), kind) for name, kind in types.items()}
    if not (keys[1:] > keys[:-1]).all():
        ordered = np.sort(keys)
        repeated = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(repeated):
            raise ValueError(
                f"{path}: {key} {repeated[0]} is in more than one row; remove all but one."
            )
    return Table(KeyIndex(keys), columns)


def read_lists(path: pathlib.Path | None, value: str, listed: str) -> Table:
    """Reads a table with one row per value of a document.

    Args:
        path: The file with document_id, the value and confidence_level; None: no rows.
        value: Column of the value, an id.
        listed: Column for the list of a document's values.

    Returns:
        A table of documents with the value of the highest confidence, and all values by ascending
        confidence.

    Raises:
        FileNotFoundError, ValueError: See `read_table`.
    """
    types = {value: ID, "confidence_level": delimited.NUMBERS}
    parts: list[list[np.ndarray]] = [[], [], []]
    for table in () if path is None else _read(path, "document_id", types):
        table = table.filter(pc.is_valid(table[value]))
        for part, name in zip(parts, ("document_id", *types), strict=True):
            part.append(_compact(table[name]))
    documents, values, confidence = (
        _joined(part, kind) for part, kind in zip(parts, (ID, *types.values()), strict=True)
    )
    keys, indices = np.unique(documents, return_inverse=True)
    # The bits of nonnegative floats sort like the floats, and sorting by one integer is fast.
    bits = (np.maximum(np.nan_to_num(confidence), 0) + np.float32(0)).view(np.int32)
    order = np.argsort((indices << 32) | bits, kind="stable")
    ends = np.append(0, np.cumsum(np.bincount(indices, minlength=len(keys))))
    values = values[order]
    lists = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(values))
    return Table(KeyIndex(keys), {value: values[ends[1:] - 1], listed: lists})


def published_seconds(texts: pa.DictionaryArray) -> np.ndarray:
    """Parses times of publication as seconds since 1970 [B] float64; NaN is missing."""
    values = texts.dictionary
    stamps = pc.coalesce(
        *(pc.strptime(values, pattern, "s", error_is_null=True) for pattern in _TIME_PATTERNS)
    )
    seconds = stamps.cast(pa.int64()).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return seconds[texts.indices.to_numpy()]


def age_days(published: np.ndarray) -> np.ndarray:
    """Returns the days from publication to the log's origin [B]; NaN for wrong dates."""
    days = (ORIGIN_MILLISECONDS / 1_000 - published) / _DAY_SECONDS
    return np.where(days < _LATEST_AGE_DAYS, np.nan, days)


def id_texts(ids: np.ndarray) -> pa.DictionaryArray:
    """Returns ids [B] as strings; -1 is null."""
    encoded = pa.array(ids, mask=ids < 0).dictionary_encode()
    return pa.DictionaryArray.from_arrays(encoded.indices, encoded.dictionary.cast(pa.string()))


def _read(path: pathlib.Path, key: str, types: Mapping[str, pa.DataType]) -> Iterator[pa.Table]:
    layout = delimited.Layout({key: ID, **types}, ",", quote=True)
    for table in protocol.good_tables(delimited.DelimitedLog(protocol.Files((path,)), layout)):
        empty = table.filter(pc.is_null(table[key]))
        for line in empty[protocol.LINE_NUMBER].to_pylist():
            raise ValueError(f"{path}, line {line}: {key} is empty. Correct or remove the row.")
        yield table


def _compact(column: pa.ChunkedArray) -> np.ndarray | pa.Array:
    """Returns numbers as an array, int32 if they fit, and other columns in one piece."""
    if column.type == delimited.NUMBERS:
        return column.to_numpy().astype(np.float32)
    if column.type != ID:
        return column.combine_chunks()
    ids = column.fill_null(-1).to_numpy()
    fits = not len(ids) or -(2**31) <= ids.min() <= ids.max() < 2**31
    return ids.astype(np.int32) if fits else ids


def _joined(parts: list[np.ndarray | pa.Array], kind: pa.DataType) -> np.ndarray | pa.Array:
    """Joins the results of `_compact` for a column of some type."""
    if kind in (ID, delimited.NUMBERS):
        return np.concatenate(parts or [np.empty(0, np.int32 if kind == ID else np.float32)])
    if not parts:
        return pa.array([], kind)
    column = pa.chunked_array(parts, kind)
    if kind == delimited.STRINGS:
        return column.unify_dictionaries().combine_chunks()
    # 32 bits do not count the bytes of all strings of a large table.
    return column.cast(pa.large_string()).combine_chunks()
