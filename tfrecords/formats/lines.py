"""Line-based logs in bounded memory: blocks of whole lines, rejects, companion files.

Every line has a number (from 1) and ends up either in a block's table or among its
rejected lines.
"""

import dataclasses
import gzip
import io
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

LINE_NUMBER = "__line__"


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A line that could not be used, and why."""

    path: str
    line: int
    reason: str
    raw: bytes

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class Block:
    """Good lines as a table with a column `LINE_NUMBER`, and the rejected lines between."""

    table: pa.Table
    rejected: tuple[Rejected, ...]


def open_log(path: pathlib.Path) -> BinaryIO:
    """Opens a plain or gzip log, told apart by content.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The path is a directory, or the file is empty.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a directory; give the path of one log file.")
    if not path.exists():
        raise FileNotFoundError(f"No log at {path}; check the path.")
    with path.open("rb") as file:
        magic = file.read(2)
    if not magic:
        raise ValueError(f"{path} is empty; expected a log with at least one line.")
    if magic == b"\x1f\x8b":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb")


def split_blocks(path: pathlib.Path, block_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Streams a log in blocks of whole lines.

    Yields:
        The number of the block's first line, and its bytes.

    Raises:
        FileNotFoundError, ValueError: As `open_log`; or the gzip stream is truncated or damaged.
    """
    first_line, rest = 1, b""
    with open_log(path) as file:
        while True:
            try:
                data = file.read(block_bytes)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise ValueError(
                    f"{path}: the gzip stream is truncated or damaged after line "
                    f"{first_line - 1} ({error}); copy the file again."
                ) from error
            if not data:
                break
            text = rest + data
            end = text.rfind(b"\n") + 1
            rest = text[end:]
            if end:
                yield first_line, text[:end]
                first_line += text.count(b"\n", 0, end)
    if rest:
        yield first_line, rest
    elif first_line == 1:
        raise ValueError(f"{path} holds nothing; expected a log with at least one line.")


def count_lines(text: bytes) -> int:
    """Counts lines; the last one needs no line end."""
    return text.count(b"\n") + (not text.endswith(b"\n") and bool(text))


def split(text: bytes) -> list[bytes]:
    """Splits whole lines, without their line ends (LF or CRLF)."""
    return [line.removesuffix(b"\r") for line in text.removesuffix(b"\n").split(b"\n")]


def count_file_lines(path: pathlib.Path, block_bytes: int = 16 << 20) -> int:
    """Counts the lines of a log."""
    return sum(count_lines(text) for _, text in split_blocks(path, block_bytes))


def companion_path(path: pathlib.Path) -> pathlib.Path:
    """Returns where the companion of a log lies: `log.tsv` → `log.extra.tsv`."""
    name = path.name.removesuffix(".gz")
    stem = pathlib.PurePath(name).stem
    return path.with_name(f"{stem}.extra.tsv")


class Companion:
    """Extra columns for a log, one line for each of its lines, read in step with it.

    Args:
        log_path: The log.
        types: The columns wanted and their types: a type guessed block by block can change.

    Raises:
        FileNotFoundError: There is no companion.
        ValueError: The companion lacks a wanted column.
    """

    def __init__(self, log_path: pathlib.Path, types: Mapping[str, pa.DataType]) -> None:
        self.path = companion_path(log_path)
        if not self.path.is_file():
            raise FileNotFoundError(
                f"The schema names the columns {list(types)}, which {log_path} lacks; they "
                f"are read from {self.path}, which does not exist."
            )
        self._types = dict(types)
        self._file = io.BufferedReader(self.path.open("rb", buffering=0), 1 << 20)
        header = self._file.readline().decode("utf-8", errors="replace")
        self._header = header.rstrip("\r\n").split("\t")
        missing = [name for name in types if name not in self._header]
        if missing:
            raise ValueError(f"{self.path} lacks the columns {missing}; it has {self._header}.")
        self._next_line = 1

    def join(self, block: Block) -> Block:
        """Adds the companion's columns to a block; blocks must come in file order.

        Raises:
            ValueError: The companion ends too early, or a line of it cannot be parsed.
        """
        count = block.table.num_rows + len(block.rejected)
        # The header is line 1, so a log line stands one line further down here.
        table = self._parse([self._readline() for _ in range(count)], self._next_line + 1)
        rows = pc.subtract(block.table[LINE_NUMBER], self._next_line)
        self._next_line += count
        joined = block.table
        for name in self._types:
            joined = joined.append_column(name, table[name].take(rows))
        return Block(joined, block.rejected)

    def _parse(self, rows: list[bytes], first_line: int) -> pa.Table:
        text = b"".join(rows)
        try:
            table = pa_csv.read_csv(
                io.BytesIO(text),
                pa_csv.ReadOptions(column_names=self._header, block_size=len(text) + 1),
                pa_csv.ParseOptions(delimiter="\t", quote_char=False, ignore_empty_lines=False),
                pa_csv.ConvertOptions(
                    column_types=self._types,
                    include_columns=list(self._types),
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
            if table.num_rows != len(rows):
                raise pa.ArrowInvalid(f"{len(rows)} lines gave {table.num_rows} rows")
        except pa.ArrowInvalid as error:
            if len(rows) > 1:  # found by name, line by line
                for line, row in enumerate(rows, first_line):
                    self._parse([row], line)
            raise ValueError(
                f"{self.path}, line {first_line}: {error}; expected the tab-separated columns "
                f"{self._header}."
            ) from error
        return table

    def _readline(self) -> bytes:
        line = self._file.readline()
        if not line:
            raise ValueError(f"{self.path} has fewer lines than its log; write one for each line.")
        return line if line.endswith(b"\n") else line + b"\n"

    def close(self) -> None:
        """Closes the file.

        Raises:
            ValueError: Lines are left over.
        """
        left = self._file.readline()
        self._file.close()
        if left:
            raise ValueError(f"{self.path} has more lines than its log; write one for each line.")
