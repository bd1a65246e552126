"""An append-only file of records that survives a kill in the middle of a write.

    record   head, payload
    head     magic (4 bytes), length of the payload (8, little-endian), CRC-32 of the payload (4),
             CRC-32 of the head so far (4)

A record is written with one call and flushed to the disk before it counts. What a kill leaves
is an incomplete last record: readers ignore it, the next writer cuts it off. Damage anywhere
else is an error, because what is there was acknowledged.
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
    """Returns the first record, None where it is damaged, and where it ends."""
    file.seek(0)
    head = file.read(_HEAD.size)
    data = head + file.read(_length(head, 0) or 0)
    return _record(data, 0), len(data)


def read(file: BinaryIO, offset: int) -> tuple[list[bytes], int]:
    """Returns the complete records from an offset on, and where the last of them ends.

    Raises:
        LiveIndexError: A record is damaged that is not the last.
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
            "Restore it from a copy, or remove it: the release is then served without its updates."
        )
    return records, offset + end


def append(path: pathlib.Path, record: bytes, end: int) -> int:
    """Writes a record after `end`, cutting off what lies there, and returns where it ends.

    The caller holds the lock of the writers.

    Raises:
        OSError: It is not written, as far as the system still lets it be taken back.
    """
    # Without a buffer, which would be written once more when the file is closed.
    with open(path, "r+b", buffering=0) as file:
        file.truncate(end)
        file.seek(end)
        rest = memoryview(_encode(record))
        try:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            # A whole record that failed to reach the disk would be taken up by the next reader.
            file.truncate(end)
            raise
        return file.tell()


def create(path: pathlib.Path, records: list[bytes]) -> int:
    """Writes a new journal in one step, in the place of an old one; returns where it ends.

    The caller holds the lock of the writers.
    """
    content = b"".join(map(_encode, records))
    files.write(path, content, durable=True)
    return len(content)


def _encode(record: bytes) -> bytes:
    start = _HEAD.pack(_MAGIC, len(record), zlib.crc32(record), 0)[:-4]
    return start + zlib.crc32(start).to_bytes(4, "little") + record


def _length(data: bytes, start: int) -> int | None:
    """Returns the payload's length that the head at a place tells, or None if it is no head."""
    head = data[start : start + _HEAD.size]
    if len(head) < _HEAD.size or zlib.crc32(head[:-4]) != int.from_bytes(head[-4:], "little"):
        return None
    magic, length, _, _ = _HEAD.unpack(head)
    return length if magic == _MAGIC else None


def _record(data: bytes, start: int) -> bytes | None:
    """Returns the whole record that starts at a place, or None."""
    length = _length(data, start)
    if length is None:
        return None
    record = data[start + _HEAD.size : start + _HEAD.size + length]
    checksum = _HEAD.unpack_from(data, start)[2]
    return record if len(record) == length and zlib.crc32(record) == checksum else None


def _is_torn(data: bytes, start: int) -> bool:
    """Returns whether what starts at a place can be the rest of a write that was cut short."""
    rest = data[start:]
    # A crash of the machine may leave zeros where the file had grown already.
    if not any(rest):
        return True
    if len(rest) < _HEAD.size:
        return _MAGIC.startswith(rest[:4])
    length = _length(rest, 0)
    return length is not None and _HEAD.size + length >= len(rest)
