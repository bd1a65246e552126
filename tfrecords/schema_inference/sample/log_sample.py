"""The first rows of the files of a log, and properties of their columns.

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

from tfrecords import formats
from tfrecords.columns import (
    TRUTHS,
    RowFaults,
    checked_numbers,
    distinct,
    filtered_lists,
    is_missing_number,
    number_fault,
    parse_times,
)
from tfrecords.schema import texts_of
from tfrecords.schema_inference import known_names
from tfrecords.schema_inference.sample import file_columns, file_recipes, sample_files, writing

# Maximum share of keys with deviating rows, such as a request in which an hour ends, and of rows
# that deviate from others of their ad.
_MAX_DEVIATIONS = 0.01
LOG, USERS, ADS = "log", "users", "ads"
_RECBOLE = re.compile(r"(.+):(token|token_seq|float|float_seq)")
_PROBED = 200
# A year or a time of day.
_DATED = re.compile(r"\b(19|20)\d\d\b|\d:\d\d")
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
        time_format: Format of the times that it holds; None: numbers, ISO 8601 or no times.
        list_name: Name of the list of objects that holds it, or "".
        in_folder: Whether the names of folders have it, such as `dt=2024-05-01`.
    """

    name: str
    table: str
    values: list[str]
    codes: np.ndarray
    is_list: bool = False
    is_time: bool = False
    time_format: str | None = None
    list_name: str = ""
    in_folder: bool = False

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
        return _words(self.plain_name)

    @property
    def plain_words(self) -> str:
        """The words of the name, joined by "_"."""
        return "_".join(self.words)

    @functools.cached_property
    def last_words(self) -> tuple[str, ...]:
        """The words of the name behind its last dot: `context.traits.userId` → user, id."""
        return _words(self.plain_name.rpartition(".")[2])

    @functools.cached_property
    def object_words(self) -> tuple[str, ...]:
        """The words of the name in its object: `items.isClick` → is, click.

        Objects of users, the context and ads belong to the name, except for a list of ads.
        """
        if self.list_name and self.plain_name.startswith(f"{self.list_name}."):
            return _words(self.plain_name[len(self.list_name) + 1 :])
        parent_words = _words(self.plain_name.rpartition(".")[0])
        is_property = known_names.OF_QUERY.union(known_names.ADS).intersection(parent_words)
        return self.words if is_property else self.last_words

    @property
    def plain_object_words(self) -> str:
        """`object_words`, joined by "_"."""
        return "_".join(self.object_words)

    @property
    def core(self) -> str:
        """The core of the name: `is_click_bool` and `items.click` → click."""
        return known_names.core(self.object_words)

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
    def truths(self) -> np.ndarray:
        """The known values as 0 (also no, false …) or 1; NaN for other values."""
        return np.array([TRUTHS.get(v.strip().lower(), np.nan) for v in self.known], np.float64)

    @property
    def is_truth(self) -> bool:
        """Whether all known values are 0 or 1, or false or true."""
        is_short = 0 < len(self.known) <= _MAX_TRUTHS and not self.is_list
        return is_short and not bool(np.isnan(self.truths).any())

    @functools.cached_property
    def times(self) -> np.ndarray:
        """The known values as times; NaN for other values."""
        if self.is_numeric and self.time_format is None:
            return self.numbers
        return parse_times(self.known, self.time_format)

    def by_row(self, known_values: np.ndarray) -> np.ndarray:
        """Returns values of the known values by row [B]; NaN for missing ones."""
        spread = np.full(len(self.values), np.nan)
        spread[~self.is_missing] = known_values
        return spread[self.codes]

    def of_rows(self, rows: np.ndarray) -> "Column":
        """Returns the column of the rows that a mask [B] selects."""
        used, codes = np.unique(self.codes[rows], return_inverse=True)
        return dataclasses.replace(self, values=[self.values[i] for i in used], codes=codes)


@dataclasses.dataclass(frozen=True)
class Sample:
    """The first rows of some files of a table.

    Attributes:
        table: `LOG`, `USERS` or `ADS`.
        path: The first file.
        columns: Columns by name, in the order of the file.
        num_rows: Number of rows B.
        total_rows: Approximate number of rows of all files.
        notes: Notes on unreadable values.
        header: Names of the columns of a file without a header line, or none.
        decimal: Decimal sign of formatted numbers, such as `€1,234.50`; None: numbers are plain.
    """

    table: str
    path: pathlib.Path
    columns: Mapping[str, Column]
    num_rows: int
    total_rows: int
    notes: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    decimal: str | None = None


def read(paths: Sequence[pathlib.Path], table: str) -> Sample:
    """Reads the first rows of files that are spread over the list, and of more if these are short.

    The first file names the columns.

    Raises:
        FileNotFoundError, ValueError: A file cannot be read, there are no rows, or the files are
            tables of different rows.
    """
    path = paths[0]
    if len(paths) > 1:
        file_recipes.refuse_tables(paths)
    header, notes = file_columns.header(path) if table == LOG else ((), [])
    if header:
        names = list(header)
    else:
        names, notes = file_columns.readable(path)
        notes += file_columns.only_later(paths)
    in_folders = [n for n in formats.values_of_folders(path) if n not in names and table == LOG]
    parts = sample_files.parts(paths, [*names, *in_folders], header, notes, table == LOG)
    lists = formats.lists_of_objects(path)
    columns = {
        name: dataclasses.replace(
            _column(name, table, sample_files.joined([part.rows[name] for part in parts]), notes),
            list_name=lists.get(name, ""),
            in_folder=name in in_folders,
        )
        for name in (*names, *in_folders)
    }
    decimal = _with_plain_numbers(columns, notes)
    total = sample_files.total_rows(paths, parts)
    num_rows = sum(part.rows.num_rows for part in parts)
    if len(paths) > 1:
        notes.append(f"The sample has {num_rows:,} rows of {len(parts)} of {len(paths)} files.")
    return Sample(table, path, columns, num_rows, total, tuple(notes), header, decimal)


def percent(share: float, digits: int = 1) -> str:
    """Returns a share as percent; one that would be rounded to 0 is "less than 0.1%"."""
    smallest = 10.0 ** -(digits + 2)
    return f"less than {smallest:.{digits}%}" if 0 < share < smallest else f"{share:.{digits}%}"


def _words(name: str) -> tuple[str, ...]:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return tuple(word for word in re.split(r"[\W_]+", spaced.lower()) if word)


def _with_plain_numbers(columns: dict[str, Column], notes: list[str]) -> str | None:
    """Replaces formatted numbers by plain ones, and returns their decimal sign."""
    texts = {
        name: (column.known, column.is_list or column.is_time or column.is_numeric)
        for name, column in columns.items()
    }
    sign, written = writing.decimal(texts)
    has_points = [
        column.name
        for column in columns.values()
        if column.is_numeric and any("." in v for v in column.known)
    ]
    if sign == "," and has_points:
        notes.append(
            f"{written[0]!r} has decimal commas and {has_points[0]!r} has decimal points; expected "
            "one decimal sign per file, so the former is categorical. Write it with points."
        )
        return None
    for name in written:
        column = columns[name]
        if sign is not None:
            values = writing.in_digits(column.values, sign)
            columns[name] = dataclasses.replace(column, values=values)
            example = next(value for value in column.known if writing.is_formatted(value, sign))
            notes.append(
                f"{name!r} holds numbers such as {example[:40]!r}, read with the decimal sign "
                f"{sign!r} (decimal)."
            )
            if len(found := writing.currencies(column.known)) > 1:
                notes.append(
                    f"! {name!r} has amounts in several currencies, such as {found[0]!r} and "
                    f"{found[1]!r}, which count as the same. Convert them to one before the "
                    "conversion."
                )
    return sign


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


def _column(name: str, table: str, column: pa.ChunkedArray, notes: list[str]) -> Column:
    is_list, is_time = pa.types.is_list(column.type), pa.types.is_temporal(column.type)
    if is_list:
        lists = column.combine_chunks()
        values = lists.flatten()
        known = filtered_lists(lists, values, pc.is_valid(values))
        column = pa.chunked_array([pc.binary_join(known, "|")])
    values, codes = distinct(column)
    if not is_time and not is_list and writing.are_lists(values):
        notes.append(f"{name!r} holds lists in brackets, such as {max(values, key=len)[:40]!r}.")
        values, is_list = ["|".join(texts_of(value, "|")) for value in values], True
    found = Column(name, table, values, codes, is_list, is_time)
    words = {*known_names.TIME_WORDS, "day", "datum", "zeit"}
    is_named = not words.isdisjoint(found.words) or found.plain_words in known_names.TIMES
    # Other columns may hold times too.
    if is_list or is_time or not (is_named or all(map(_DATED.search, found.known[:_PROBED]))):
        return found
    counts = found.counts[~found.is_missing]
    time_format = writing.time_format(found.known, counts)
    found = dataclasses.replace(found, time_format=time_format)
    return _without_odd_times(found, counts, notes)


def _without_odd_times(column: Column, counts: np.ndarray, notes: list[str]) -> Column:
    """Returns a column of times without its few other values; `counts` are of known values [V]."""
    is_odd = np.isnan(parse_times(column.known, column.time_format))
    share = counts[is_odd].sum() / max(counts.sum(), 1)
    if not 0 < share <= known_names.MAX_REJECTED:
        return column
    odd = [column.known[index] for index in np.flatnonzero(is_odd)]
    notes.append(
        f"{percent(share, 2)} of the rows have a {column.name!r} such as {odd[0][:40]!r}, which is "
        "not a time like the others. Correct these rows."
    )
    gone = set(odd)
    return dataclasses.replace(column, values=["" if v in gone else v for v in column.values])


def is_constant_per_ad(column: Column, ad: Column) -> bool:
    """Returns whether ads with several values have the same one, if most values are of such ads.

    Rows without an ad are ignored, and rows without a value, unless the column has a single value.
    A few rows may deviate from the usual value of their ad. Their number is compared with the
    number of rows with rare values: all of these deviate if the column is unrelated to the ad, such
    as a rare label.
    """
    is_known = column.present if len(column.known) > 1 else np.ones(len(column.codes), bool)
    rows = np.flatnonzero(is_known & ad.present)
    codes, ads = column.codes[rows], ad.codes[rows]
    repeated = np.bincount(ads, minlength=len(ad.values)) > 1
    if not len(rows) or repeated[ads].mean() < 0.5 or len(ad.known) < 2:
        return False
    tolerated = _MAX_DEVIATIONS * (len(rows) - np.bincount(codes).max())
    # At least one row deviates for each ad whose values differ.
    if _differs(codes, ads, len(ad.values)).sum() > tolerated:
        return False
    return _deviating_rows(codes, ads, len(ad.values)) <= tolerated


def share_of_changes(column: Column, ad: Column, time: Column | None) -> float:
    """Returns how often an ad's value differs from its previous row; 1: as often as by chance.

    The time orders the rows; without one, they are in order. Rows without a value are ignored,
    unless the column has a single value.
    """
    rows = np.flatnonzero(column.present) if len(column.known) > 1 else np.arange(len(ad.codes))
    if time is not None:
        rows = rows[np.argsort(time.by_row(time.times)[rows], kind="stable")]
    rows = rows[np.argsort(ad.codes[rows], kind="stable")]
    codes, ads = column.codes[rows], ad.codes[rows]
    follows = ads[1:] == ads[:-1]
    changes = (codes[1:] != codes[:-1])[follows]
    # If each row had the value of any row, a value would stay with its share of the rows.
    by_chance = 1 - np.sum((np.bincount(codes) / max(len(codes), 1)) ** 2)
    return float(changes.sum() / max(by_chance * len(changes), 1e-9))


def varies_within(column: Column, key: Column) -> bool:
    """Returns whether rows with equal keys often have different values."""
    repeated = key.counts > 1
    differs = _differs(column.codes, key.codes, len(key.values))
    return bool(repeated.any() and differs[repeated].mean() > _MAX_DEVIATIONS)


def _differs(codes: np.ndarray, keys: np.ndarray, num_keys: int) -> np.ndarray:
    """Returns for each key [K] whether its rows have several codes, given both by row."""
    first = np.zeros(num_keys, np.int64)
    # The last assignment to an index counts; in reverse order, this is the first row.
    first[keys[::-1]] = codes[::-1]
    differs = np.zeros(num_keys, bool)
    differs[keys[codes != first[keys]]] = True
    return differs


def _deviating_rows(codes: np.ndarray, keys: np.ndarray, num_keys: int) -> int:
    """Returns the number of rows whose code is not the most common one of their key."""
    num_codes = int(codes.max()) + 1
    pairs, counts = np.unique(keys.astype(np.int64) * num_codes + codes, return_counts=True)
    usual = np.zeros(num_keys, np.int64)
    np.maximum.at(usual, pairs // num_codes, counts)
    return len(codes) - int(usual.sum())
