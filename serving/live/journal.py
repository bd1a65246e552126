"""An append-only file of records that distinguishes interrupted writes from damage.

    file     two commits (at 0 and 4096, so that one bad sector damages only one), then records
    commit   magic (4 bytes), sequence number (8, little-endian), generation (8), end offset of the
             committed records (8), their checksum (4), CRC-32 of the commit so far (4)
    record   length of the payload (8), checksum (4), payload

The checksum of a record is the CRC-32 of all payloads up to it, so it also fixes their order.

A record is synced to disk, then the commit that includes it, and only then is it acknowledged.
Commits alternate between the two offsets, so the previous one survives an interrupted write. Data
beyond the latest commit was never acknowledged; the next writer moves it to a file next to the
journal. Anything else that does not match the commit is damage, and is never removed.
"""

import dataclasses
import logging
import os
import pathlib
import struct
import zlib
from collections.abc import Sequence
from typing import BinaryIO

from serving import errors
from tfrecords import files

_logger = logging.getLogger(__name__)

_MAGIC = b"tfj2"
_COMMIT = struct.Struct("<4sQ8sQII")
_RECORD = struct.Struct("<QI")
_COMMIT_OFFSETS = (0, 4096)
_FIRST_RECORD = 8192
# The remains of an interrupted write are moved to files with this pattern.
CUT_PATTERN = "cut-*"


@dataclasses.dataclass(frozen=True)
class Commit:
    """The extent of a journal, stored apart from its records.

    Attributes:
        generation: Random value that changes when the journal is rewritten.
        end: End offset of the committed records.
        checksum: Checksum of the last committed record.
        sequence: Number of commits before this one.
        is_certain: Whether both commits are readable. Otherwise a later one may have been damaged,
            and complete records beyond `end` count as committed.
    """

    generation: bytes
    end: int
    checksum: int
    sequence: int = 0
    is_certain: bool = True


START = Commit(b"", _FIRST_RECORD, 0)


def read_commit(file: BinaryIO) -> Commit:
    """Returns the latest commit.

    Raises:
        LiveIndexError: Neither commit is readable.
    """
    found = [_parse_commit(os.pread(file.fileno(), _COMMIT.size, at)) for at in _COMMIT_OFFSETS]
    readable = [commit for commit in found if commit is not None]
    if not readable:
        raise errors.LiveIndexError(
            f"{file.name} is not a journal of updates, or its start is damaged. Restore it from a "
            "copy, or remove it to serve the release without its updates."
        )
    latest = max(readable, key=lambda commit: commit.sequence)
    return dataclasses.replace(latest, is_certain=len(readable) == len(found))


def read(file: BinaryIO, commit: Commit, known: Commit = START) -> tuple[list[bytes], Commit]:
    """Returns the payloads of the records between two commits, and the commit after them.

    Raises:
        LiveIndexError: A committed record is damaged or missing.
    """
    file.seek(known.end)
    data = file.read(-1 if not commit.is_certain else max(commit.end - known.end, 0))
    payloads, end, checksum = [], 0, known.checksum
    while end < len(data):
        length, expected = _RECORD.unpack(data[end : end + _RECORD.size].ljust(_RECORD.size, b"\0"))
        payload = data[end + _RECORD.size : end + _RECORD.size + length]
        checksum_after = zlib.crc32(payload, checksum)
        if len(payload) < length or checksum_after != expected or not length:
            break
        payloads.append(payload)
        end, checksum = end + _RECORD.size + length, checksum_after
    found = dataclasses.replace(commit, end=known.end + end, checksum=checksum)
    if end == len(data) and (found == commit or (found.end > commit.end and not commit.is_certain)):
        return payloads, found
    raise errors.LiveIndexError(
        f"{file.name} is damaged at byte {found.end}, in updates that were acknowledged. Restore "
        "it from a copy, or remove it to serve the release without its updates."
    )


def append(path: pathlib.Path, payloads: Sequence[bytes], last: Commit) -> Commit:
    """Durably appends records after a commit, all or none, and returns the next commit.

    Data beyond the commit is first moved to a file next to the journal. The caller holds the
    writers' lock.

    Args:
        path: Journal.
        payloads: Contents of the records, none of them empty.
        last: Latest commit of the file.

    Raises:
        OSError: The records were not committed. The file is as before if possible.
    """
    data, following = _encode(payloads, last)
    # Unbuffered: closing the file would write a buffer again.
    with open(path, "r+b", buffering=0) as file:
        _set_aside(path, file, last.end)
        file.seek(last.end)
        committing = False
        try:
            _write(file, data)
            os.fdatasync(file.fileno())
            committing = True
            _write_commit(file, following)
        except OSError:
            if committing:
                # Overwrites the failed commit; the last good one is at the other offset.
                _write_commit(file, dataclasses.replace(last, sequence=following.sequence))
            file.truncate(last.end)
            raise
    return following


def create(path: pathlib.Path, payloads: list[bytes]) -> Commit:
    """Atomically replaces the journal, and returns its commit.

    The caller holds the writers' lock.
    """
    records, commit = _encode(payloads, dataclasses.replace(START, generation=os.urandom(8)))
    start = b"".join(
        _encode_commit(commit).ljust(_FIRST_RECORD // len(_COMMIT_OFFSETS), b"\0")
        for _ in _COMMIT_OFFSETS
    )
    files.write(path, start + records, durable=True)
    return commit


def _encode(payloads: Sequence[bytes], last: Commit) -> tuple[bytes, Commit]:
    """Returns the records of payloads, and the commit that includes them."""
    records, end, checksum = [], last.end, last.checksum
    for payload in payloads:
        checksum = zlib.crc32(payload, checksum)
        records += [_RECORD.pack(len(payload), checksum), payload]
        end += _RECORD.size + len(payload)
    return b"".join(records), Commit(last.generation, end, checksum, last.sequence + 1)


def _set_aside(path: pathlib.Path, file: BinaryIO, end: int) -> None:
    """Moves the data beyond an offset to a separate file."""
    rest = os.pread(file.fileno(), os.fstat(file.fileno()).st_size - end, end)
    if rest:
        name = f"cut-{end}-{zlib.crc32(rest):08x}"
        files.write(path.with_name(name), rest, durable=True)
        file.truncate(end)
        _logger.warning(
            "%s: an interrupted update of %d bytes was never acknowledged; it is kept in %s.",
            path,
            len(rest),
            name,
        )


def _write_commit(file: BinaryIO, commit: Commit) -> None:
    file.seek(_COMMIT_OFFSETS[commit.sequence % len(_COMMIT_OFFSETS)])
    _write(file, _encode_commit(commit))
    os.fdatasync(file.fileno())


def _write(file: BinaryIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _encode_commit(commit: Commit) -> bytes:
    values = (_MAGIC, commit.sequence, commit.generation, commit.end, commit.checksum)
    unchecked = _COMMIT.pack(*values, 0)[:-4]
    return unchecked + zlib.crc32(unchecked).to_bytes(4, "little")


def _parse_commit(data: bytes) -> Commit | None:
    if len(data) < _COMMIT.size or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        return None
    magic, sequence, generation, end, checksum, _ = _COMMIT.unpack(data)
    return Commit(generation, end, checksum, sequence) if magic == _MAGIC else None
