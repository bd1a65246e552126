"""The updates of a release on disk: `BASE/live/N/journal`, with many readers and one writer.

    record   length of the payload (8 bytes, little-endian), CRC-32 of the length (4),
             CRC-32 of all payloads so far (4), payload

The first payload names the release; the others are updates. A record is synced before it is
acknowledged. A killed writer leaves a part of a record, which readers ignore and the next writer
cuts off. A complete record with a wrong checksum is damage: it is refused, and never removed. A
rewritten journal replaces its first updates with a single one.
"""

import contextlib
import json
import logging
import os
import pathlib
import struct
import uuid
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from serving import errors, manifest
from tfrecords import files

_logger = logging.getLogger(__name__)

_FORMAT = 3
_HEAD = struct.Struct("<QII")


class NewRecords(NamedTuple):
    """Updates that were not read before; `from_start`: they replace those read before."""

    from_start: bool
    payloads: list[bytes]


class Journal:
    """Reads and writes the updates of one release. Not thread-safe.

    Attributes:
        seen: State of the file at the last read, see `state_of_file`.
        num_bytes: Size of the records that were read.
        num_updates: Number of updates since the export.
        condensed_bytes: Size of the first update, if it replaces earlier ones; otherwise 0.
    """

    def __init__(self, base: pathlib.Path, version: int, training_id: str) -> None:
        self._base = base
        self._directory = base / "live" / str(version)
        self._path = self._directory / "journal"
        self._version = version
        self._identity = {"format": _FORMAT, "version": version, "training_id": training_id}
        self._failure: str | None = None
        self.seen: tuple[int, ...] | None = None
        self._reset()

    def _reset(self) -> None:
        self._first, self.num_bytes, self._checksum = b"", 0, 0
        self.num_updates = self.condensed_bytes = 0

    def forget(self) -> None:
        """Makes the next `read_new` start over, because an update could not be applied."""
        self.seen, self._failure = (), None
        self._reset()

    def read_new(self) -> NewRecords | None:
        """Returns the updates since the last call, or None if there are none."""
        seen = self.state_of_file()
        if seen == self.seen:
            if self._failure is not None:
                # A damaged file is not read again until it changes, and must not be appended to.
                raise errors.LiveIndexError(self._failure)
            return None
        self.seen, self._failure = seen, None
        before = self.num_updates
        try:
            found = self._read(seen is not None)
        except errors.LiveIndexError as error:
            self._failure = str(error)
            raise
        if seen is not None and self.num_bytes != seen[1]:
            self.seen = ()  # A record is being written.
        if self.num_updates < before:
            _logger.warning(
                "%s was removed or replaced: %d of %d live updates are no longer served. To serve "
                "them again, restore it from a copy, or apply them again.",
                self._path,
                before - self.num_updates,
                before,
            )
        return found

    def state_of_file(self) -> tuple[int, ...] | None:
        """Returns inode, size and mtime of the journal; None if it does not exist."""
        try:
            state = os.stat(self._path)
        except FileNotFoundError:
            if self.seen and not manifest.path_of(self._base, self._version).exists():
                raise errors.LiveIndexError(
                    f"{self._path} and the manifest of its release are missing. The service keeps "
                    "its ads. Restore the directory of the bundles, or mount it again."
                ) from None
            return None
        except OSError as error:
            raise errors.LiveIndexError(f"{self._path} cannot be read: {error}.") from error
        return state.st_ino, state.st_size, state.st_mtime_ns

    def _read(self, exists: bool) -> NewRecords | None:
        if not exists:
            # Removed by an operator: the release is served as it was exported.
            self._reset()
            return NewRecords(True, [])
        try:
            with open(self._path, "rb") as file:
                if self._first and file.read(len(self._first)) == self._first:
                    file.seek(self.num_bytes)
                    payloads, is_intact = self._parse(file.read())
                    if is_intact and os.fstat(file.fileno()).st_size >= self.num_bytes:
                        self.num_updates += len(payloads)
                        return NewRecords(False, payloads) if payloads else None
                # The journal is new, or was rewritten or restored.
                file.seek(0)
                data = file.read()
        except OSError as error:
            raise errors.LiveIndexError(f"{self._path} cannot be read: {error}.") from error
        self._reset()
        payloads, is_intact = self._parse(data)
        if not is_intact:
            end = self.num_bytes
            self._reset()
            raise errors.LiveIndexError(
                f"{self._path} is damaged at byte {end}, in updates that were acknowledged. "
                "Restore it from a copy, or remove it to serve the release without its updates."
            )
        header = payloads.pop(0) if payloads else b"{}"
        replaced = self._check(header)
        self._first = data[: _HEAD.size + len(header)]
        self.condensed_bytes = len(payloads[0]) if replaced else 0
        self.num_updates = replaced + len(payloads) - (1 if replaced else 0)
        return NewRecords(True, payloads)

    def _parse(self, data: bytes) -> tuple[list[bytes], bool]:
        """Returns the payloads of the complete records, and whether none of them is damaged."""
        payloads: list[bytes] = []
        start = 0
        while len(data) - start >= _HEAD.size:
            length, length_checksum, checksum = _HEAD.unpack_from(data, start)
            if zlib.crc32(data[start : start + 8]) != length_checksum:
                return payloads, False
            payload = data[start + _HEAD.size : start + _HEAD.size + length]
            if len(payload) < length:
                break
            if zlib.crc32(payload, self._checksum) != checksum:
                return payloads, False
            payloads.append(payload)
            start += _HEAD.size + length
            self.num_bytes += _HEAD.size + length
            self._checksum = checksum
        return payloads, True

    def _check(self, header: bytes) -> int:
        """Returns how many updates the first one replaces, if the journal is of this release."""
        found: dict[str, Any] = json.loads(header)
        if {name: found.get(name) for name in self._identity} != self._identity:
            raise errors.LiveIndexError(
                f"{self._path} belongs to {_description(found)}; expected "
                f"{_description(self._identity)}. Remove it, and apply its updates to this release."
            )
        return int(found["replaced"])

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Locks out other writers in a `with` block. Call `read_new` before writing."""
        with contextlib.ExitStack() as stack:
            try:
                if not self._directory.is_dir():
                    self._directory.mkdir(parents=True, exist_ok=True)
                    # It survives a crash of the machine only if its parents are synced.
                    for parent in (self._directory.parent, self._directory.parent.parent):
                        files.sync(parent)
                stack.enter_context(files.locked(self._directory / "lock", None))
            except OSError as error:
                raise self._not_written(error) from error
            yield

    def append(self, payload: bytes) -> None:
        """Durably appends an update, which `read_new` then returns. The caller holds `writing`."""
        if not self.num_bytes:
            self._create(0, payload)
            return
        end = self.num_bytes
        try:
            # Unbuffered: closing the file would write a buffer again.
            with open(self._path, "r+b", buffering=0) as file:
                file.truncate(end)
                file.seek(end)
                rest = memoryview(_record(payload, self._checksum))
                try:
                    while rest:
                        rest = rest[file.write(rest) :]
                    os.fdatasync(file.fileno())
                except OSError:
                    file.truncate(end)
                    raise
        except OSError as error:
            raise self._not_written(error) from error

    def rewrite(self, payload: bytes) -> None:
        """Replaces all updates with a single one. The caller holds `writing`."""
        self._create(self.num_updates, payload)

    def _create(self, replaced: int, payload: bytes) -> None:
        # The random value tells a rewritten journal from the one before.
        head = {**self._identity, "replaced": replaced, "generation": uuid.uuid4().hex}
        header = json.dumps(head).encode()
        records = _record(header, 0) + _record(payload, zlib.crc32(header))
        try:
            files.write(self._path, records, durable=True)
        except OSError as error:
            raise self._not_written(error) from error

    def _not_written(self, error: OSError) -> errors.LiveIndexError:
        return errors.LiveIndexError(
            f"{self._path} cannot be written ({error}). Check the directory and the space on its "
            "disk, and send the update again."
        )


def _record(payload: bytes, checksum: int) -> bytes:
    length = len(payload).to_bytes(8, "little")
    checksums = (zlib.crc32(length), zlib.crc32(payload, checksum))
    return _HEAD.pack(len(payload), *checksums) + payload


def _description(identity: dict[str, Any]) -> str:
    return (
        f"release {identity.get('version')} of training {identity.get('training_id')} "
        f"(format {identity.get('format')})"
    )
