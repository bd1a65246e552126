"""The protocol of log formats: chunks of rows that are parsed independently.

A format is a `log_format.LogFormat`, or a module with its functions:

    schema() -> Schema | None             its convention; None: a schema file is required
    open_log(files, schema, rows_per_chunk) -> Log
    read_ads(files, schema) -> Table | None

Chunks are cut from the files in order, and parsed in any order by several threads. The cuts depend
on the bytes of the log only, so that the result does not depend on the number of threads. A row
has the line number of its first line in its file, from 1, and ends up in a table or is rejected.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

# The training rows of a chunk form a shard, so that rows are shuffled well across shards.
ROWS_PER_CHUNK = 64 * 4_096
LINE_NUMBER = "__line__"
# Rows of one line, such as the objects of a list, have their own numbers.
_ROW_OF_LINE = 1 << 40


def numbered(line: int, index: int) -> int:
    """Returns the number of a row, given its line, from 1, and its index in the line, from 0."""
    return line + index * _ROW_OF_LINE


def line_of(number: int) -> int:
    """Returns the line of the number of a row."""
    return number % _ROW_OF_LINE


@dataclasses.dataclass(frozen=True)
class Files:
    """The files of a log.

    Attributes:
        log: Files of rows, in order.
        validation: Files of the validation split, or none.
        test: Files of the test split, or none.
        users: Table of users' fields, joined by the user key, or None.
        ads: Table of ads' fields, joined by the ad key, or None.
    """

    log: tuple[pathlib.Path, ...]
    validation: tuple[pathlib.Path, ...] = ()
    test: tuple[pathlib.Path, ...] = ()
    users: pathlib.Path | None = None
    ads: pathlib.Path | None = None

    def parts(self) -> Iterator[tuple[pathlib.Path, str | None]]:
        """Yields each file of rows with its split, or None."""
        by_file = bool(self.validation or self.test)
        for part, paths in (
            ("train" if by_file else None, self.log),
            ("validation", self.validation),
            ("test", self.test),
        ):
            for path in paths:
                yield path, part

    def to_json(self) -> dict[str, list[str]]:
        """Returns the absolute paths of each role that has files."""
        side_tables = (("users", self.users), ("ads", self.ads))
        roles = [*self.parts(), *((path, role) for role, path in side_tables if path is not None)]
        paths: dict[str, list[str]] = {}
        for path, role in roles:
            paths.setdefault(role or "log", []).append(str(path.resolve()))
        return paths

    def __iter__(self) -> Iterator[pathlib.Path]:
        yield from (path for path, _ in self.parts())
        yield from (path for path in (self.users, self.ads) if path is not None)


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Whole rows of a file, before parsing.

    Attributes:
        path: The file.
        part: Split of the file, or None.
        first_line: Line number of the first row.
        num_rows: Number of rows.
        columns: Names of the columns of the file.
        payload: The rows, in a form that the format defines; text is bytes.
    """

    path: pathlib.Path
    part: str | None
    first_line: int
    num_rows: int
    columns: tuple[str, ...]
    payload: Any


@dataclasses.dataclass(frozen=True)
class Matches:
    """Rows of a chunk whose key is in a table, and rows whose key is not.

    Attributes:
        rows: Number of rows with a key.
        unmatched: Number of rows whose key is not in the table.
        examples: Up to three such keys.
    """

    rows: int
    unmatched: int
    examples: list[str]


@dataclasses.dataclass(frozen=True)
class Parsed:
    """A parsed chunk.

    Attributes:
        table: Good rows: the columns that the schema reads, and `LINE_NUMBER`. Numbers have any
            numeric type, strings are plain or dictionary-encoded, and lists of strings or numbers
            are lists or joined by the field's separator; null is missing.
        faults: Line number -> reason, for the rejected rows.
        num_rows: Number of rows, including rejected ones; None: the chunk's.
        users: Matches of the table of users, if one is joined.
    """

    table: pa.Table
    faults: Mapping[int, str] = dataclasses.field(default_factory=dict)
    num_rows: int | None = None
    users: Matches | None = None

    def without(self, bad: np.ndarray, reasons: Sequence[str]) -> "Parsed":
        """Moves the rows where `bad` [B] is true to the faults, with their reasons."""
        if not bad.any():
            return self
        lines = self.table[LINE_NUMBER].to_numpy()[bad].tolist()
        return Parsed(
            self.table.filter(pa.array(~bad)),
            {**self.faults, **dict(zip(lines, reasons, strict=True))},
            self.num_rows,
            self.users,
        )


class Log(Protocol):
    """A log that is read in chunks.

    Attributes:
        files: All files that the log is read from.
    """

    files: Sequence[pathlib.Path]

    def chunks(self) -> Iterator[Chunk]:
        """Yields the chunks in order.

        Raises:
            FileNotFoundError: A file does not exist.
            ValueError: A file is empty, truncated, or lacks a column.
        """

    def parse(self, chunk: Chunk) -> Parsed:
        """Parses a chunk; may be called by several threads at once."""

    def raw(self, chunk: Chunk, lines: Sequence[int]) -> list[bytes]:
        """Returns the rows at some ascending line numbers of a chunk as they are in the file.

        Numbers of `numbered` rows are converted to lines by `line_of`.
        """


def refuse_faults(path: pathlib.Path, unit: str, faults: Mapping[int, str]) -> None:
    """Raises ValueError for the fault with the lowest number, if any; a unit is a line or a row."""
    if faults:
        number, reason = min((line_of(n), fault) for n, fault in faults.items())
        raise ValueError(f"{path}, {unit} {number}: {reason}. Correct or remove the row.")


def good_tables(log: Log) -> Iterator[pa.Table]:
    """Yields the parsed chunks of a log.

    Raises:
        ValueError: A row is bad.
    """
    for chunk in log.chunks():
        parsed = log.parse(chunk)
        unit = "line" if isinstance(chunk.payload, bytes) else "row"
        refuse_faults(chunk.path, unit, parsed.faults)
        yield parsed.table


def read_all(log: Log, types: Mapping[str, pa.DataType]) -> pa.Table:
    """Reads all rows of a log with columns of some types.

    The errors are the same as for `good_tables`.
    """
    tables = list(good_tables(log))
    if not tables:
        return pa.table({name: pa.array([], kind) for name, kind in types.items()})
    return pa.concat_tables(tables).unify_dictionaries()
