"""A log as every format presents it: chunks of rows that are parsed independently.

A format is a module of this package with

    schema() -> Schema | None             its convention; None: the schema file must say
    open_log(files, schema) -> Log

Chunks are cut from the files one after another, and parsed in any order by several
threads. How a log is cut depends on its bytes alone, so what is made of it does not depend
on the number of threads. Every row has a line number (from 1, of its first line in its
file) and ends up either in a table or among the faults.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

# A chunk's training rows are the records of one shard, so they shuffle well among shards.
ROWS_PER_CHUNK = 64 * 4_096
LINE_NUMBER = "__line__"


@dataclasses.dataclass(frozen=True)
class Files:
    """The files of one log.

    Attributes:
        log: Rows, in order.
        validation: Rows that are the validation split, or none.
        test: Rows that are the test split, or none.
        users: Table of the users' fields, joined by the user key, or None.
        ads: Table of the ads' fields, joined by the ad key, or None.
    """

    log: tuple[pathlib.Path, ...]
    validation: tuple[pathlib.Path, ...] = ()
    test: tuple[pathlib.Path, ...] = ()
    users: pathlib.Path | None = None
    ads: pathlib.Path | None = None

    def parts(self) -> Iterator[tuple[pathlib.Path, str | None]]:
        """Yields each file of rows with the split that it is, or None."""
        by_file = bool(self.validation or self.test)
        for part, paths in (
            ("train" if by_file else None, self.log),
            ("validation", self.validation),
            ("test", self.test),
        ):
            for path in paths:
                yield path, part

    def __iter__(self) -> Iterator[pathlib.Path]:
        yield from (path for path, _ in self.parts())
        yield from (path for path in (self.users, self.ads) if path is not None)


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Whole rows of one file, not yet parsed.

    Attributes:
        path: The file.
        part: The split that the file is, or None.
        first_line: Line number of the first row.
        num_rows: Rows of the chunk.
        columns: Names of the columns of the file.
        payload: The rows as the format reads them; text is bytes.
        companion: Text of the rows' companion lines, or None.
    """

    path: pathlib.Path
    part: str | None
    first_line: int
    num_rows: int
    columns: tuple[str, ...]
    payload: Any
    companion: bytes | None = None


@dataclasses.dataclass(frozen=True)
class Parsed:
    """A parsed chunk.

    Attributes:
        table: Good rows: every column that the schema reads, and `LINE_NUMBER`. Numbers may
            be any numeric type, strings plain or dictionary-encoded, lists of strings plain
            or joined by the field's separator; null is missing.
        faults: Line number to what is wrong with a row that is not in the table.
    """

    table: pa.Table
    faults: Mapping[int, str] = dataclasses.field(default_factory=dict)

    def without(self, bad: np.ndarray, reasons: Sequence[str]) -> "Parsed":
        """Moves the rows where `bad` [B] is true to the faults, each with its reason."""
        if not bad.any():
            return self
        lines = self.table[LINE_NUMBER].to_numpy()[bad].tolist()
        return Parsed(
            self.table.filter(pa.array(~bad)),
            {**self.faults, **dict(zip(lines, reasons, strict=True))},
        )


class Log(Protocol):
    """A log that is read in chunks.

    Attributes:
        files: Every file that it is read from: the log is another if one of them changes.
    """

    files: Sequence[pathlib.Path]

    def chunks(self) -> Iterator[Chunk]:
        """Yields the chunks in order.

        Raises:
            FileNotFoundError: A file does not exist.
            ValueError: A file is empty, truncated or has not the columns wanted.
        """

    def parse(self, chunk: Chunk) -> Parsed:
        """Parses a chunk; may be called by several threads at once."""

    def raw(self, chunk: Chunk, lines: Sequence[int]) -> list[bytes]:
        """Returns rows of a chunk as they stand in the file, by rising line numbers."""
