"""Columns in the names of folders, such as `dt=2024-05-01`, as Hive and Spark write them."""

import dataclasses
import pathlib
import re
import urllib.parse
from collections.abc import Collection, Iterator, Sequence

import pyarrow as pa

from tfrecords.formats import protocol

_FOLDER = re.compile(r"([A-Za-z_][\w.-]*)=(.+)")
_NULL = "__HIVE_DEFAULT_PARTITION__"


def values_of(path: pathlib.Path) -> dict[str, str | None]:
    """Returns the columns in the names of the folders of a path, and their values."""
    found = [match.groups() for part in path.parent.parts if (match := _FOLDER.fullmatch(part))]
    return {name: None if text == _NULL else urllib.parse.unquote(text) for name, text in found}


class InFolders:
    """A log with additional columns from the names of its file's folders.

    Args:
        log: The log of one file.
        names: The columns, none of which the file has. Their values are strings.
    """

    def __init__(self, log: protocol.Log, names: Collection[str]) -> None:
        self.files: Sequence[pathlib.Path] = log.files
        self._log, self._names = log, tuple(names)

    def chunks(self) -> Iterator[protocol.Chunk]:
        """See `protocol.Log`."""
        for chunk in self._log.chunks():
            yield dataclasses.replace(chunk, columns=(*chunk.columns, *self._names))

    def parse(self, chunk: protocol.Chunk) -> protocol.Parsed:
        """See `protocol.Log`."""
        logged = chunk.columns[: -len(self._names)]
        parsed = self._log.parse(dataclasses.replace(chunk, columns=logged))
        values, table = values_of(chunk.path), parsed.table
        for name in self._names:
            column = pa.repeat(pa.scalar(values[name], pa.string()), table.num_rows)
            table = table.append_column(name, column)
        return dataclasses.replace(parsed, table=table)

    def raw(self, chunk: protocol.Chunk, lines: Sequence[int]) -> list[bytes]:
        """See `protocol.Log`."""
        return self._log.raw(chunk, lines)
