"""The first rows of a log, and properties of their columns.

Shapes: B rows of the sample, V distinct values of a column.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tfrecords import formats
from tfrecords.columns import (
    RowFaults,
    checked_numbers,
    checked_truths,
    distinct,
    filtered_lists,
    is_missing_number,
    number_fault,
    parse_times,
)
from tfrecords.schema_inference import known_names

# Maximum share of keys with deviating rows, such as a request in which an hour ends.
_MAX_DEVIATIONS = 0.01
ROWS = 100_000
LOG, USERS, ADS = "log", "users", "ads"
_RECBOLE = re.compile(r"(.+):(token|token_seq|float|float_seq)")
# Approximate compression ratio of gzip.
_GZIP_FACTOR = 5
_PROBED = 200
# 0, 0.0, no, No, NO, false, … and their opposites.
_MAX_TRUTHS = 20
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a sample.

    Attributes:
        name: Name in the file.
        table: `LOG`, `USERS` or `ADS`.
        values: Distinct texts, "" if missing [V].
        codes: Index of each row's value [B].
        is_list: Whether the file's type is a list; then texts are the joined values.
        is_time: Whether the file's type is a time.
    """

    name: str
    table: str
    values: list[str]
    codes: np.ndarray
    is_list: bool = False
    is_time: bool = False

    @property
    def plain_name(self) -> str:
        """The name without RecBole's type: `user_id:token` → `user_id`."""
        match = _RECBOLE.fullmatch(self.name)
        return match[1] if match else self.name

    @property
    def declared(self) -> str | None:
        """RecBole's type, or None."""
        match = _RECBOLE.fullmatch(self.name)
        return match[2] if match else None

    @functools.cached_property
    def words(self) -> tuple[str, ...]:
        """The words of the name, in lower case: `userAge` → user, age."""
        spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", self.plain_name)
        return tuple(word for word in re.split(r"[\W_]+", spaced.lower()) if word)

    @property
    def plain_words(self) -> str:
        """The words of the name, joined by "_"."""
        return "_".join(self.words)

    @property
    def core(self) -> str:
        """The core of the name: `is_click_bool` → click."""
        return known_names.core(self.words)

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """Number of rows of each distinct value [V]."""
        return np.bincount(self.codes, minlength=len(self.values))

    @functools.cached_property
    def is_missing(self) -> np.ndarray:
        """Whether each distinct value is a missing one [V]."""
        return np.array([is_missing_number(value) for value in self.values], bool)

    @property
    def present(self) -> np.ndarray:
        """Whether each row has a value [B]."""
        return ~self.is_missing[self.codes]

    @property
    def missing_share(self) -> float:
        return float(1 - self.present.mean()) if len(self.codes) else 1.0

    @functools.cached_property
    def known(self) -> list[str]:
        """The distinct values that are not missing."""
        return [v for v, gone in zip(self.values, self.is_missing, strict=True) if not gone]

    @functools.cached_property
    def numbers(self) -> np.ndarray:
        """The known values as numbers; NaN for texts, and for all values if most are texts."""
        if (parsed := _parsed(self.known)) is not None:
            return parsed
        texts = pa.chunked_array([pa.array(self.known, pa.string())])
        numbers = checked_numbers(RowFaults(len(self.known)), self.name, texts)
        return np.where(np.abs(numbers) <= _FLOAT32_MAX, numbers, np.nan)

    @property
    def is_numeric(self) -> bool:
        """Whether all known values are numbers."""
        return bool(self.known) and not self.is_list and not np.isnan(self.numbers).any()

    @property
    def is_whole(self) -> bool:
        """Whether all known values are whole numbers."""
        return self.is_numeric and bool((self.numbers == np.floor(self.numbers)).all())

    @functools.cached_property
    def is_truth(self) -> bool:
        """Whether all known values are 0 or 1, or false or true."""
        if len(self.known) > _MAX_TRUTHS:
            return False
        faults = RowFaults(len(self.known))
        texts = pa.chunked_array([pa.array(self.known, pa.string())])
        checked_truths(faults, self.name, texts)
        return bool(self.known) and not self.is_list and not faults.any()

    @functools.cached_property
    def times(self) -> np.ndarray:
        """The known values as times; NaN for other values."""
        if self.is_numeric:
            return self.numbers
        return parse_times(self.known)

    def by_row(self, of_known: np.ndarray) -> np.ndarray:
        """Returns values of the known values by row [B]; NaN for missing ones."""
        spread = np.full(len(self.values), np.nan)
        spread[~self.is_missing] = of_known
        return spread[self.codes]


@dataclasses.dataclass(frozen=True)
class Sample:
    """The first rows of a table.

    Attributes:
        table: `LOG`, `USERS` or `ADS`.
        columns: Columns by name, in the order of the file.
        num_rows: Number of rows B.
        total_rows: Approximate number of rows of all files.
        notes: Notes on what could not be read.
    """

    table: str
    columns: Mapping[str, Column]
    num_rows: int
    total_rows: int
    notes: tuple[str, ...] = ()


def read(paths: Sequence[pathlib.Path], table: str) -> Sample:
    """Reads the first rows of the first file.

    Raises:
        FileNotFoundError, ValueError: The file cannot be read or has no rows.
    """
    path = paths[0]
    names, notes = _readable(path)
    opened = formats.open_table(path, dict.fromkeys(names, formats.STRINGS), names, (), ROWS)
    chunks = opened.chunks()
    chunk = next(chunks, None)
    if chunk is None:
        raise ValueError(f"{path} has no rows below its header.")
    parsed = opened.parse(chunk)
    rows = parsed.table.slice(0, ROWS)
    if not rows.num_rows:
        line, reason = min(parsed.faults.items())
        raise ValueError(f"{path} has no valid rows; line {line}: {reason}.")
    if parsed.faults:
        line, reason = min(parsed.faults.items())
        notes.append(f"{path}: {len(parsed.faults)} bad rows, the first on line {line}: {reason}.")
    columns = {name: _column(name, table, rows[name]) for name in names}
    total = sum(_total_rows(path, chunk) for path in paths)
    if len(paths) == 1 and next(chunks, None) is None:
        total = chunk.num_rows
    return Sample(table, columns, rows.num_rows, total, tuple(notes))


def _parsed(texts: Sequence[str]) -> np.ndarray | None:
    """Parses numbers [V] the fast way, or returns None if it does not work."""
    probe = texts[:: -(-len(texts) // _PROBED) or 1]
    bad = [number_fault("", text) is not None for text in probe]
    if sum(bad) > 0.5 * len(bad):
        return np.full(len(texts), np.nan)
    try:
        numbers = pa.array(texts, pa.string()).cast(pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        return None
    return numbers if (np.abs(numbers) <= _FLOAT32_MAX).all() else None


def _readable(path: pathlib.Path) -> tuple[list[str], list[str]]:
    names, notes = [], []
    found = formats.column_names(path, ())
    for name in dict.fromkeys(found):
        if not name:
            notes.append(f"Left out: a column of {path} without a name, such as a row number.")
        elif found.count(name) > 1:
            notes.append(f"Left out: several columns of {path} are named {name!r}. Rename them.")
        elif formats.is_parquet(path) and (fault := _fault(path, name)):
            notes.append(f"Left out: {fault}")
        else:
            names.append(name)
    return names, notes


def _fault(path: pathlib.Path, name: str) -> str | None:
    try:
        formats.open_table(path, {name: formats.STRINGS}, [name])
    except ValueError as error:
        return str(error)
    return None


def _column(name: str, table: str, column: pa.ChunkedArray) -> Column:
    is_list, is_time = pa.types.is_list(column.type), pa.types.is_temporal(column.type)
    if is_list:
        lists = column.combine_chunks()
        values = lists.flatten()
        known = filtered_lists(lists, values, pc.is_valid(values))
        column = pa.chunked_array([pc.binary_join(known, "|")])
    values, codes = distinct(column)
    return Column(name, table, values, codes, is_list, is_time)


def _total_rows(path: pathlib.Path, chunk: formats.Chunk) -> int:
    if formats.is_parquet(path):
        return pq.read_metadata(path).num_rows
    with path.open("rb") as file:
        factor = _GZIP_FACTOR if file.read(2) == b"\x1f\x8b" else 1
    return int(path.stat().st_size * factor * chunk.num_rows / max(len(chunk.payload), 1))


def is_constant_per_ad(column: Column, ad: Column) -> bool:
    """Returns whether repeated ads, if they have most of the rows, have one value each."""
    repeated = ad.counts > 1
    if repeated[ad.codes].mean() < 0.5 or len(ad.known) < 2:
        return False
    return not _differs(column, ad)[repeated].any()


def varies_within(column: Column, key: Column) -> bool:
    """Returns whether rows with equal keys often have different values."""
    repeated = key.counts > 1
    return bool(repeated.any() and _differs(column, key)[repeated].mean() > _MAX_DEVIATIONS)


def _differs(column: Column, key: Column) -> np.ndarray:
    """Returns for each value of the key [K] whether the column has several values."""
    first = np.zeros(len(key.values), np.int64)
    # The last assignment to an index counts; in reverse order, this is the first row.
    first[key.codes[::-1]] = column.codes[::-1]
    differs = np.zeros(len(key.values), bool)
    differs[key.codes[column.codes != first[key.codes]]] = True
    return differs
