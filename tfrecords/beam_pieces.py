"""Where the chunks of a log lie, so that other machines can read them: see `beam`.

A chunk of plain text is a range of its file. Any other (gzip, Parquet, companion files) is
copied into the workspace, whoever reads it then.
"""

import dataclasses
import pathlib
import pickle
from collections.abc import Iterator, Mapping

from tfrecords import workspace
from tfrecords.formats import log

_HEADER_BYTES = 1 << 20
_PROBE_BYTES = 1 << 12


@dataclasses.dataclass(frozen=True)
class Piece:
    """Where the rows of a chunk lie.

    Attributes:
        chunk: The chunk; its payload is None where it is read from its file.
        offset: Where the payload begins in the file, or None.
        size: Bytes of the payload there.
    """

    chunk: log.Chunk
    offset: int | None
    size: int = 0

    def read(self) -> log.Chunk:
        """Returns the chunk with its payload."""
        if self.offset is None:
            return self.chunk
        with self.chunk.path.open("rb") as file:
            file.seek(self.offset)
            return dataclasses.replace(self.chunk, payload=file.read(self.size))


def cut(opened: log.Log, space: workspace.Workspace) -> Iterator[log.Chunk]:
    """Writes the piece of every chunk, and yields the chunks without their rows."""
    ends: dict[pathlib.Path, int] = {}
    for index, chunk in enumerate(opened.chunks()):
        empty = dataclasses.replace(chunk, payload=None, companion=None)
        offset = _offset(chunk, ends)
        if offset is None:
            piece = Piece(chunk, None)
        else:
            piece = Piece(empty, offset, len(chunk.payload))
            ends[chunk.path] = offset + len(chunk.payload)
        if space.note("parse", index) is None:
            space.path("cut", index, ".piece").write_bytes(pickle.dumps(piece))
        yield empty


def load(space: workspace.Workspace, index: int) -> log.Chunk:
    """Returns a chunk with its rows."""
    piece: Piece = pickle.loads(space.path("cut", index, ".piece").read_bytes())
    return piece.read()


def _offset(chunk: log.Chunk, ends: Mapping[pathlib.Path, int]) -> int | None:
    """Returns where a chunk's text begins in its file, or None where it is not there as it is."""
    text = chunk.payload
    if not isinstance(text, bytes) or chunk.companion is not None:
        return None
    with chunk.path.open("rb") as file:
        offset = ends.get(chunk.path)
        if offset is None:  # the first chunk, behind a header or a byte order mark
            offset = file.read(_HEADER_BYTES).find(text[:_PROBE_BYTES])
        file.seek(max(offset, 0))
        return offset if file.read(len(text)) == text and offset >= 0 else None
