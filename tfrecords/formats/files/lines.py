"""Reads text files, plain or gzip, in chunks of whole rows, with bounded memory.

A row is a line, or several lines if a quoted value contains line ends.
"""

import gzip
import pathlib
import re
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from tfrecords.formats.files import paths

_SAMPLE_BYTES = 1 << 20
_MAX_CHUNK_BYTES = 64 << 20
_MAX_QUOTED_BYTES = 256 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAGIC_BYTES = 16
PARQUET = b"PAR1"
TO_UTF8 = "convert the file to UTF-8 (if it is from Windows: iconv -f cp1252 -t utf-8 FILE > NEW)"
_EXPORT = "export the table as Parquet or CSV"
# First bytes of files that are neither text nor Parquet.
_BINARY = {
    rb"PK\x03\x04": "a zip or Excel file; unzip it, or save it as CSV",
    rb"\x28\xb5\x2f\xfd": "compressed by zstd; decompress it, or use gzip",
    rb"BZh91AY&SY": "compressed by bzip2; decompress it, or use gzip",
    rb"\xfd7zXZ": "compressed by xz; decompress it, or use gzip",
    rb"SQLite format 3\x00": f"an SQLite database; {_EXPORT}",
    rb"ARROW1": f"an Arrow or Feather file; {_EXPORT}",
    # A header may begin with ORC, but has no control characters other than Hive's delimiter.
    rb"ORC.{0,6}[\x00\x02-\x08]": f"an ORC file; {_EXPORT}",
    rb"Obj\x01": f"an Avro file; {_EXPORT}",
    rb"\xff\xfe|\xfe\xff": "UTF-16; convert it to UTF-8, with iconv -f utf-16 -t utf-8 FILE > NEW",
}
_EXCEL = re.compile(rb"\"?sep=[^\r\n]\"?\r?\n")


def open_text(path: pathlib.Path) -> BinaryIO:
    """Opens a plain or gzip file, which is recognized by its content.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The path is a directory, or the file is empty.
    """
    if path.is_dir():
        raise ValueError(
            f"{path} is a directory; expected a file. Name the files of a log as "
            f"'{paths.pattern_of(path)}'."
        )
    if not path.exists():
        raise FileNotFoundError(f"No file at {path}; check the path.")
    with path.open("rb") as file:
        magic = file.read(2)
    if not magic:
        raise ValueError(f"{path} is empty; expected a log with at least one line.")
    if magic == b"\x1f\x8b":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb")


def refuse_binary(path: pathlib.Path, first: bytes) -> None:
    """Refuses binary files other than Parquet, by their first `MAGIC_BYTES` or more.

    Raises:
        ValueError: The file is such a binary file.
    """
    for magic, kind in _BINARY.items():
        if re.match(magic, first, re.DOTALL):
            raise ValueError(f"{path} is {kind}.")


class RowReader:
    """Reads a text file in runs of whole rows.

    Args:
        path: The file; a byte order mark is dropped.
        quote: Whether double quotes enclose values with delimiters and line ends.
        delimiter: Text between values, which distinguishes opening quotes from others.

    Raises:
        FileNotFoundError, ValueError: See `open_text`; or the file is not text.
    """

    def __init__(self, path: pathlib.Path, quote: bool = False, delimiter: str = "\t") -> None:
        self.path = path
        self.line = 1
        self._quote = quote
        self._delimiter = delimiter.encode()
        self._file = open_text(path)
        self._rest = self._read(_SAMPLE_BYTES).removeprefix(_BYTE_ORDER_MARK)
        refuse_binary(path, self._rest[:MAGIC_BYTES])
        if self._rest.startswith(PARQUET):
            raise ValueError(
                f"{path} is Parquet; expected text. Write it as text, or read it with "
                "--format=tabular and a schema (decompressed, if it is in a gzip file)."
            )
        if separator := _EXCEL.match(self._rest):  # The first line names the delimiter.
            self._rest, self.line = self._rest[separator.end() :], 2
        if not self._rest:
            raise ValueError(f"{path} is empty; expected a log with at least one line.")
        lines = self._rest.count(b"\n")
        self._bytes_per_line = max(1, len(self._rest) // max(lines, 1))

    def first_row(self) -> bytes:
        """Returns the first row; only before any rows are read.

        Raises:
            ValueError: The lines end with a carriage return alone.
        """
        if b"\n" not in self._rest and self._rest.count(b"\r") > 1:
            raise ValueError(
                f"{self.path}: its lines end with a carriage return alone; expected line feeds. "
                "Convert it, for example with: tr '\\r' '\\n' < IN > OUT"
            )
        return split_rows(self._rest, self._quote, self._delimiter.decode())[0]

    def sample(self) -> bytes:
        """Returns about 1 MiB of the first lines; only before any rows are read."""
        is_all = len(self._rest) < _SAMPLE_BYTES - len(_BYTE_ORDER_MARK)
        return self._rest if is_all else self._rest[: self._rest.rfind(b"\n") + 1] or self._rest

    def skip_first_row(self) -> None:
        """Skips the first row, a header."""
        first = self.first_row()
        self._rest = self._rest[len(first) :]
        self.line += max(first.count(b"\n"), 1)

    def chunks(self, rows: int) -> Iterator[tuple[int, bytes, int]]:
        """Yields the first line number, text and number of rows of runs of about `rows` rows.

        Raises:
            ValueError: The file is damaged, a quote is not closed, or text follows the closing
                quote of a value of several lines, which means that the value contains rows.
        """
        size = num_bytes = min(max(rows * self._bytes_per_line, 1), _MAX_CHUNK_BYTES)
        while self._fill(num_bytes):
            end = self._last_end(num_bytes)
            if not end and len(self._rest) > num_bytes and num_bytes <= _MAX_QUOTED_BYTES:
                num_bytes *= 2
                continue
            if not end or len(self._rest) <= num_bytes:
                # The last row needs no line end, but an open quote may contain later rows.
                last = self._rest[end:]
                if b"\n" in last and not len(row_ends(last + b"\n", self._delimiter)):
                    line = self.line + self._rest.count(b"\n", 0, end)
                    raise ValueError(
                        f"{self.path}, line {line}: the row has an unclosed quote. Close it, or "
                        "double it if it is text."
                    )
                end = len(self._rest)
            text, self._rest, num_bytes = self._rest[:end], self._rest[end:], size
            num_lines = text.count(b"\n")
            if self._quote and b'"' in text:
                num_rows = self._count_quoted(text)
            else:
                num_rows = num_lines + (not text.endswith(b"\n"))
            yield self.line, text, num_rows
            self.line += num_lines
        self._file.close()

    def _fill(self, size: int) -> bool:
        """Buffers more than `size` bytes if possible; returns whether any are left."""
        parts, have = [self._rest], len(self._rest)
        while have <= size:
            data = self._read(max(size + 1 - have, _SAMPLE_BYTES))
            if not data:
                break
            parts.append(data)
            have += len(data)
        self._rest = b"".join(parts)
        return bool(self._rest)

    def _count_quoted(self, text: bytes) -> int:
        ends = row_ends(text, self._delimiter)
        start = _misquoted(text, self._delimiter, ends)
        if start is not None:
            line = self.line + text.count(b"\n", 0, start)
            raise ValueError(
                f"{self.path}, line {line}: text follows a closing quote in a value of several "
                "lines. Double quotes instead of escaping them with a backslash (Spark: option "
                "escape='\"')."
            )
        return len(ends) + (not len(ends) or int(ends[-1]) < len(text))

    def _read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(
                f"{self.path}: the gzip stream is truncated or damaged after line "
                f"{self.line - 1} ({error}). Copy the file again."
            ) from error

    def _last_end(self, limit: int) -> int:
        """Returns the end of the last whole row within the next `limit` bytes, or 0."""
        if not (self._quote and self._rest.find(b'"', 0, limit) >= 0):
            return self._rest.rfind(b"\n", 0, limit) + 1
        ends = row_ends(self._rest[:limit], self._delimiter)
        return int(ends[-1]) if len(ends) else 0


def row_ends(text: bytes, delimiter: bytes) -> np.ndarray:
    """Returns the ends of rows, after their line ends; line ends inside quotes do not count."""
    array = np.frombuffer(text, np.uint8)
    newlines = np.flatnonzero(array == 10)
    quotes = _quotes(text, array, delimiter)
    outside = np.searchsorted(quotes, newlines) % 2 == 0
    return newlines[outside] + 1


def _misquoted(text: bytes, delimiter: bytes, ends: np.ndarray) -> int | None:
    """Returns the start of a row of several lines with text after a closing quote, or None."""
    if text.count(b"\n") == len(ends):  # All rows have one line.
        return None
    array = np.frombuffer(text, np.uint8)
    closing = _quotes(text, array, delimiter)[1::2]
    closing = closing[closing + 1 < len(text)]
    bad = closing[~np.isin(array[closing + 1], [10, 13, 34, delimiter[0]])]
    starts = np.append(0, ends)[np.searchsorted(ends, bad, side="right")]
    first, last = np.searchsorted(np.flatnonzero(array == 10), [starts, bad])
    several = starts[first < last]
    return int(several[0]) if len(several) else None


def _quotes(text: bytes, array: np.ndarray, delimiter: bytes) -> np.ndarray:
    """Returns the positions of alternating opening and closing quotes."""
    quotes = np.flatnonzero(array == 34)
    # Every other quote opens a value: it is at its start, or half of a doubled quote.
    opening = quotes[::2]
    before = np.where(opening > 0, array[opening - 1], 10)
    if not np.isin(before, [10, 34, delimiter[0]]).all():
        quotes = _real_quotes(text, quotes, delimiter)
    return quotes


def _real_quotes(text: bytes, quotes: np.ndarray, delimiter: bytes) -> np.ndarray:
    """Drops quotes inside unquoted values, which are text."""
    starts = (10, delimiter[0])
    real: list[int] = []
    for quote in quotes.tolist():
        inside, doubled = len(real) % 2, bool(real) and real[-1] == quote - 1
        if inside or doubled or quote == 0 or text[quote - 1] in starts:
            real.append(quote)
    return np.array(real, np.int64)


def split_rows(text: bytes, quote: bool = False, delimiter: str = "\t") -> list[bytes]:
    """Splits text into rows with their line ends; the last one may lack it."""
    if not text:
        return []
    if quote and b'"' in text:
        ends = row_ends(text, delimiter.encode()).tolist()
    else:
        ends = (np.flatnonzero(np.frombuffer(text, np.uint8) == 10) + 1).tolist()
    if not ends or ends[-1] < len(text):
        ends.append(len(text))
    return [text[first:last] for first, last in zip([0, *ends[:-1]], ends, strict=True)]
