"""An append-only file of records that survives a crash in the middle of a write.

    record   head, payload
    head     magic (4 bytes), length of the payload (8, little-endian), CRC-32 of the payload (4),
             CRC-32 of the head so far (4)

A record is flushed to disk before it is acknowledged. A crash can leave an incomplete last record:
readers ignore it, and the next writer truncates it. Damage anywhere else is an error, because it
affects records that were acknowledged.
"""

import os
import pathlib
import struct
import zlib
from typing import BinaryIO

from serving import errors
from tfrecords import files

_MAGIC = b"tfj1"
_HEAD = struct.Struct("<4sQII")


def first(file: BinaryIO) -> tuple[bytes | None, int]:
    """Returns the first record (None if it is damaged) and its end offset."""
    file.seek(0)
    head = file.read(_HEAD.size)
    data = head + file.read(_length(head, 0) or 0)
    return _record(data, 0), len(data)


def read(file: BinaryIO, offset: int) -> tuple[list[bytes], int]:
    """Returns the complete records from an offset on, and the end offset of the last one.

    Raises:
        LiveIndexError: A record other than the last is damaged.
    """
    records = []
    file.seek(offset)
    rest = file.read()
    end = 0
    while True:
        record = _record(rest, end)
        if record is None:
            break
        records.append(record)
        end += _HEAD.size + len(record)
    if not _is_torn(rest, end):
        raise errors.LiveIndexError(
            f"{file.name} is damaged at byte {offset + end}, in updates that were acknowledged. "
            "Restore it from a copy, or remove it to serve the release without its updates."
        )
    return records, offset + end


def append(path: pathlib.Path, record: bytes, end: int) -> int:
    """Truncates the file at `end`, appends a record, and returns its end offset.

    The caller holds the writers' lock.

    Raises:
        OSError: The record was not written. The file is truncated at `end` again if possible.
    """
    # Unbuffered: closing the file would write a buffer again.
    with open(path, "r+b", buffering=0) as file:
        file.truncate(end)
        file.seek(end)
        rest = memoryview(_encode(record))
        try:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            # Otherwise readers would apply a complete record that may not be on disk.
            file.truncate(end)
            raise
        return file.tell()


def create(path: pathlib.Path, records: list[bytes]) -> int:
    """Atomically replaces the journal, and returns its end offset.

    The caller holds the writers' lock.
    """
    content = b"".join(map(_encode, records))
    files.write(path, content, durable=True)
    return len(content)


def _encode(record: bytes) -> bytes:
    start = _HEAD.pack(_MAGIC, len(record), zlib.crc32(record), 0)[:-4]
    return start + zlib.crc32(start).to_bytes(4, "little") + record


def _length(data: bytes, start: int) -> int | None:
    """Returns the payload's length from the head at an offset, or None if the head is invalid."""
    head = data[start : start + _HEAD.size]
    if len(head) < _HEAD.size or zlib.crc32(head[:-4]) != int.from_bytes(head[-4:], "little"):
        return None
    magic, length, _, _ = _HEAD.unpack(head)
    return length if magic == _MAGIC else None


def _record(data: bytes, start: int) -> bytes | None:
    """Returns the record at an offset, or None if it is incomplete or damaged."""
    length = _length(data, start)
    if length is None:
        return None
    record = data[start + _HEAD.size : start + _HEAD.size + length]
    checksum = _HEAD.unpack_from(data, start)[2]
    return record if len(record) == length and zlib.crc32(record) == checksum else None


def _is_torn(data: bytes, start: int) -> bool:
    """Returns whether the data at an offset can be the rest of an interrupted write."""
    rest = data[start:]
    # If the machine crashes, the file may have grown already but contain zeros.
    if not any(rest):
        return True
    if len(rest) < _HEAD.size:
        return _MAGIC.startswith(rest[:4])
    length = _length(rest, 0)
    return length is not None and _HEAD.size + length >= len(rest)
