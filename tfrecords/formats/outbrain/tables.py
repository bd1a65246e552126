"""The tables beside Outbrain's clicks, as arrays sorted by their keys: small, and searchable.

Every table is read once and shared by the threads that parse. Ids are integers (int32 where
they fit), other strings are dictionary-encoded; the uuids are one Arrow array. Kaggle's 23 M
events take about 1.1 GB with all columns. A missing number is -1 or NaN.

Shapes: B rows that are looked up, N rows of a table, V values of a list table.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords.formats import protocol
from tfrecords.formats.files import delimited

ID = pa.int64()
# Milliseconds since 1970 at which the log's timestamps are 0.
ORIGIN_MILLISECONDS = 1_465_876_799_998
NOT_KNOWN = ("", "\\N", "--")
_DAY_SECONDS = 86_400
_MOST_PLACES_PER_ID = 4
# The log spans two weeks from its origin; what is published later has a wrong date.
_LATEST_AGE_DAYS = -15
_TIME_PATTERNS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d")


class Keys:
    """Finds ids among sorted ones.

    Args:
        ids: [N] rising, each once.
    """

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids
        self._places: np.ndarray | None = None
        # Kaggle's ids count from 1 with few gaps: a place for each is the faster search.
        if len(ids) and ids[0] >= 0 and ids[-1] < _MOST_PLACES_PER_ID * len(ids):
            self._places = np.full(int(ids[-1]) + 1, -1, np.int32)
            self._places[ids] = np.arange(len(ids), dtype=np.int32)

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, ids: np.ndarray) -> np.ndarray:
        """Returns the place [B] of each of some ids, -1 where there is none."""
        if not len(self):
            return np.full(len(ids), -1, np.int64)
        known = (ids >= 0) & (ids <= self.ids[-1])
        # Of one type, lest the search converts the whole table.
        wanted = np.where(known, ids, 0).astype(self.ids.dtype)
        if self._places is not None:
            return np.where(known, self._places[wanted], -1)
        places = np.searchsorted(self.ids, wanted)
        return np.where(known & (self.ids[places] == wanted), places, -1)


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows found by an integer key.

    Attributes:
        keys: N of them.
        columns: [N] each.
    """

    keys: Keys
    columns: Mapping[str, np.ndarray | pa.Array]

    def numbers(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Returns a column of numbers at some rows [B]; missing is -1, or NaN of floats."""
        column = self.columns[name]
        missing = np.nan if np.issubdtype(column.dtype, np.floating) else -1
        result = np.full(len(rows), missing, column.dtype)
        result[rows >= 0] = column[rows[rows >= 0]]
        return result

    def texts(self, name: str, rows: np.ndarray) -> pa.Array:
        """Returns a column of strings at some rows [B]; null is missing."""
        return self.columns[name].take(pa.array(rows, mask=rows < 0))


@dataclasses.dataclass(frozen=True)
class Lists:
    """Lists of ids found by an integer key.

    Attributes:
        keys: N of them.
        ends: [N + 1] where the list of each begins, and the last one ends.
        values: [V] the lists end to end, the most confident value last.
    """

    keys: Keys
    ends: np.ndarray
    values: np.ndarray

    def lists(self, keys: np.ndarray) -> pa.ListArray:
        """Returns the list [B] of each key, empty where there is none."""
        rows = self.keys.find(keys)
        first, last = (np.where(rows < 0, 0, self.ends[rows + i]) for i in (0, 1))
        offsets = np.append(0, np.cumsum(last - first))
        places = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], last - first)
        return pa.ListArray.from_arrays(
            pa.array(offsets.astype(np.int32)), pa.array(self.values[places])
        )

    def top(self, keys: np.ndarray) -> np.ndarray:
        """Returns the most confident value [B] of each key, -1 where there is none."""
        rows = self.keys.find(keys)
        result = np.full(len(keys), -1, self.values.dtype)
        result[rows >= 0] = self.values[self.ends[rows[rows >= 0] + 1] - 1]
        return result


def read_table(path: pathlib.Path | None, key: str, types: Mapping[str, pa.DataType]) -> Table:
    """Reads a table with one row of each key; None is a table without rows.

    Args:
        path: The file: comma-separated, with a header.
        key: Column of the key, an id.
        types: The other columns wanted: `ID`, `delimited.STRINGS` or `pa.string()`.

    Raises:
        FileNotFoundError, ValueError: As `delimited.open_rows`; a row is bad or a key repeated.
    """
    parts: dict[str, list[np.ndarray | pa.Array]] = {name: [] for name in (key, *types)}
    for table in () if path is None else _read(path, key, types):
        for name, column in parts.items():
            column.append(_compact(table[name]))
    keys = _joined(parts.pop(key), ID)
    columns = {name: _joined(parts.pop(name), kind) for name, kind in types.items()}
    if len(keys) and not (keys[1:] > keys[:-1]).all():
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        columns = {
            n: c[order] if isinstance(c, np.ndarray) else c.take(pa.array(order))
            for n, c in columns.items()
        }
        repeated = keys[1:][keys[1:] == keys[:-1]]
        if len(repeated):
            raise ValueError(
                f"{path}: {key} {repeated[0]} stands in more than one row; remove the others."
            )
    return Table(Keys(keys), columns)


def read_lists(path: pathlib.Path | None, value: str) -> Lists:
    """Reads a table with a row for each value of a document; None is one without rows.

    Args:
        path: The file: document_id, the value, and confidence_level.
        value: Column of the value, an id.

    Raises:
        FileNotFoundError, ValueError: As `read_table`.
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
    keys, places = np.unique(documents, return_inverse=True)
    # Bits of floats that are not negative sort as the floats; one sort by one number is fast.
    bits = (np.maximum(np.nan_to_num(confidence), 0) + np.float32(0)).view(np.int32)
    order = np.argsort((places << 32) | bits, kind="stable")
    ends = np.append(0, np.cumsum(np.bincount(places, minlength=len(keys))))
    return Lists(Keys(keys), ends, values[order])


def published_seconds(texts: pa.DictionaryArray) -> np.ndarray:
    """Returns times of publication as seconds since 1970 [B] float64; NaN is missing."""
    values = texts.dictionary
    stamps = pc.coalesce(
        *(pc.strptime(values, pattern, "s", error_is_null=True) for pattern in _TIME_PATTERNS)
    )
    seconds = stamps.cast(pa.int64()).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return seconds[texts.indices.to_numpy()]


def age_days(published: np.ndarray) -> np.ndarray:
    """Returns the days from a publication to the log's origin [B]; NaN after the log's end."""
    days = (ORIGIN_MILLISECONDS / 1_000 - published) / _DAY_SECONDS
    return np.where(days < _LATEST_AGE_DAYS, np.nan, days)


def id_texts(ids: np.ndarray) -> pa.DictionaryArray:
    """Returns ids [B] as strings; -1 is null."""
    encoded = pa.array(ids, mask=ids < 0).dictionary_encode()
    return pa.DictionaryArray.from_arrays(encoded.indices, encoded.dictionary.cast(pa.string()))


def recode(column: pa.DictionaryArray, values: Sequence[str | None]) -> pa.DictionaryArray:
    """Replaces the distinct values of a column [B]; None is missing."""
    encoded = pa.array(values, pa.string()).dictionary_encode()
    return pa.DictionaryArray.from_arrays(encoded.indices.take(column.indices), encoded.dictionary)


def _read(path: pathlib.Path, key: str, types: Mapping[str, pa.DataType]) -> Iterator[pa.Table]:
    layout = delimited.Layout({key: ID, **types}, ",", quote=True)
    reader, columns = delimited.open_rows(path, layout)
    for first_line, text, num_rows in reader.chunks(protocol.ROWS_PER_CHUNK):
        parsed = delimited.parse(layout, columns, text, first_line, num_rows)
        for line, reason in sorted(parsed.faults.items()):
            raise ValueError(f"{path}, line {line}: {reason}; correct or remove the row.")
        empty = parsed.table.filter(pc.is_null(parsed.table[key]))
        for line in empty[protocol.LINE_NUMBER].to_pylist():
            raise ValueError(f"{path}, line {line}: {key} is empty; correct or remove the row.")
        yield parsed.table


def _compact(column: pa.ChunkedArray) -> np.ndarray | pa.Array:
    """Returns numbers as an array, int32 where they fit, and other columns in one piece."""
    if column.type == delimited.NUMBERS:
        return column.to_numpy().astype(np.float32)
    if column.type != ID:
        return column.combine_chunks()
    ids = column.fill_null(-1).to_numpy()
    fits = not len(ids) or -(2**31) <= ids.min() <= ids.max() < 2**31
    return ids.astype(np.int32) if fits else ids


def _joined(parts: list[np.ndarray | pa.Array], kind: pa.DataType) -> np.ndarray | pa.Array:
    """Joins what `_compact` gave of a column of some type."""
    if kind in (ID, delimited.NUMBERS):
        return np.concatenate(parts or [np.empty(0, np.int32 if kind == ID else np.float32)])
    if not parts:
        return pa.array([], kind)
    column = pa.chunked_array(parts, kind)
    if kind == delimited.STRINGS:
        return column.unify_dictionaries().combine_chunks()
    # 32 bits do not count the bytes of all strings of a large table.
    return column.cast(pa.large_string()).combine_chunks()
