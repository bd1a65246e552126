"""The updates of a release on disk: `BASE/live/N/journal`, with many readers and one writer.

The first record names the release and its training run. A rewritten journal has a new generation,
and is read from the start; its first record also says which records the second one replaces.
"""

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from serving import errors, manifest
from serving.live import journal, live_update, update_channel
from serving.live.update_channel import Position
from tfrecords import files

_logger = logging.getLogger(__name__)

_FORMAT = 2
# Outcomes of an update that cannot be written.
_NOT_APPLIED = (
    "The update is not applied. Check the directory and the space on its disk, and send it again."
)
_UNKNOWN = "The update may still be applied. Send it again once the disk works."
_IN_CHANNEL = (
    "The channel has the update: other hosts apply it, and this one will once it can write the "
    "journal."
)


@dataclasses.dataclass(frozen=True)
class NewUpdates:
    """Updates in a journal that have not been read before.

    Attributes:
        from_start: Whether these are all updates, and replace those read before.
        updates: Updates in order.
    """

    from_start: bool
    updates: list[live_update.Update]


class LiveStore:
    """Reads and writes the updates of one release. Not thread-safe.

    Attributes:
        seen: State of the file at the last read, see `state_of_file`.
        cut_bytes: Size of the remains of interrupted updates, kept next to the journal.
        position: Position after the last record that was read or written.
        condensed_bytes: Size of the record that replaces earlier ones; 0 if there is none.
    """

    def __init__(self, base: pathlib.Path, version: int, training_id: str) -> None:
        self._base = base
        self._directory = base / "live" / str(version)
        self._path = self._directory / "journal"
        self._identity: dict[str, Any] = {
            "format": _FORMAT,
            "version": version,
            "training_id": training_id,
        }
        self.seen: tuple[int, ...] | None = None
        self.cut_bytes = 0
        self.position = update_channel.START
        self.condensed_bytes = 0
        self._failure: str | None = None
        self._known: journal.Commit | None = None

    @property
    def num_bytes(self) -> int:
        """Number of bytes of the file that have been read."""
        return 0 if self._known is None else self._known.end

    def read_new(self) -> NewUpdates | None:
        """Returns the updates since the last call, or None if there are none.

        Raises:
            LiveIndexError: The journal is damaged, or belongs to another release.
        """
        seen = self.state_of_file()
        if seen == self.seen:
            if self._failure is not None:
                # A damaged file is not read again until it changes, and must not be appended to.
                raise errors.LiveIndexError(self._failure)
            return None
        self.seen, self._failure = seen, None
        before = self.position.number
        try:
            found = self._read(seen is not None)
        except errors.LiveIndexError as error:
            self._failure = str(error)
            raise
        if seen is not None and self.num_bytes != seen[1]:
            # An update is being written, and its commit will not change the size of the file.
            self.seen = ()
        if self.position.number < before:
            _logger.warning(
                "%s was removed or replaced: %d of %d live updates are no longer served. To serve "
                "them again, restore it from a copy, or apply them again.",
                self._path,
                before - self.position.number,
                before,
            )
        self._count_cut()
        return found

    def forget(self) -> None:
        """Makes the next `read_new` start over, because an update could not be applied."""
        self.seen, self._failure, self._known = (), None, None

    def state_of_file(self) -> tuple[int, ...] | None:
        """Returns inode, size and mtime of the journal; None if it does not exist.

        Raises:
            LiveIndexError: The file cannot be inspected, or the whole release is missing, such as
                on a volume that is not mounted any more.
        """
        try:
            state = os.stat(self._path)
        except FileNotFoundError:
            if self.seen and not manifest.path_of(self._base, self._identity["version"]).exists():
                raise errors.LiveIndexError(
                    f"{self._path} and the manifest of its release are missing. The service keeps "
                    "its ads. Restore the directory of the bundles, or mount it again."
                ) from None
            return None
        except OSError as error:
            raise errors.LiveIndexError(f"{self._path} cannot be read: {error}.") from error
        return state.st_ino, state.st_size, state.st_mtime_ns

    def _read(self, exists: bool) -> NewUpdates | None:
        if not exists:
            # Removed by an operator: the release is served as it was exported.
            self._known, self.position, self.condensed_bytes = None, update_channel.START, 0
            return NewUpdates(True, [])
        try:
            with open(self._path, "rb") as file:
                commit = journal.read_commit(file)
                new = self._read_after_known(file, commit)
                payloads, known = journal.read(file, commit) if new is None else new
        except OSError as error:
            raise errors.LiveIndexError(f"{self._path} cannot be read: {error}.") from error
        position, counted = self.position, payloads
        if new is None:
            position = self._check(payloads.pop(0) if payloads else b"{}")
            # The second record of a rewritten journal replaces the records before the position.
            counted = payloads[1:] if position.number else payloads
            self.condensed_bytes = len(payloads[0]) if position.number else 0
        updates = [live_update.decode(payload) for payload in payloads]
        for payload in counted:
            position = position.after(payload)
        self._known, self.position = known, position
        return NewUpdates(new is None, updates) if new is None or updates else None

    def _read_after_known(
        self, file: BinaryIO, commit: journal.Commit
    ) -> tuple[list[bytes], journal.Commit] | None:
        """Returns the records not read before; None if the journal was replaced or rolled back."""
        known = self._known
        if known is None or known.generation != commit.generation or known.end > commit.end:
            return None
        try:
            return journal.read(file, commit, known)
        except errors.LiveIndexError:
            return None  # Reading from the start finds any damage again.

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Locks out other writers in a `with` block. Call `read_new` before writing.

        Raises:
            LiveIndexError: The directory cannot be created or locked.
        """
        with contextlib.ExitStack() as stack:
            try:
                self._make_directory()
                stack.enter_context(files.locked(self._directory / "lock", None))
            except OSError as error:
                raise errors.LiveIndexError(self._not_written(error)) from error
            yield

    def _make_directory(self) -> None:
        if not self._directory.is_dir():
            self._directory.mkdir(parents=True, exist_ok=True)
            # A new directory survives a crash of the machine only if its parent is synced.
            for parent in (self._directory.parent, self._directory.parent.parent):
                files.sync(parent)

    def append(self, records: Sequence[bytes], in_channel: bool = False) -> None:
        """Durably appends encoded updates, all or none. The caller holds `writing`.

        Args:
            records: Encoded updates.
            in_channel: Whether a channel has them, so that other hosts apply them.

        Raises:
            LiveIndexError: The updates cannot be written; the message states the outcome.
        """
        try:
            if self._known is None:
                self._create(update_channel.START, records)
            else:
                self._known = journal.append(self._path, records, self._known)
        except OSError as error:
            outcome = _IN_CHANNEL if in_channel else self._outcome()
            raise errors.LiveIndexError(self._not_written(error, outcome)) from error
        for record in records:
            self.position = self.position.after(record)
        self._note_state()

    def records(self) -> tuple[Position, list[bytes]]:
        """Returns the position after which the journal has all records, and these. See `writing`.

        Raises:
            LiveIndexError: The journal cannot be read.
        """
        try:
            with open(self._path, "rb") as file:
                payloads, _ = journal.read(file, journal.read_commit(file))
        except OSError as error:
            raise errors.LiveIndexError(f"{self._path} cannot be read: {error}.") from error
        position = self._check(payloads[0])
        return position, payloads[2 if position.number else 1 :]

    def rewrite(self, update: live_update.Update) -> None:
        """Replaces all updates with a single one. The caller holds `writing`.

        Raises:
            LiveIndexError: The update cannot be written. The journal is unchanged.
        """
        record = live_update.encode(update)
        try:
            self._create(self.position, [record])
        except OSError as error:
            raise errors.LiveIndexError(f"{self._path} cannot be rewritten ({error}).") from error
        self.condensed_bytes = len(record)
        self._note_state()

    def _not_written(self, error: OSError, outcome: str = _NOT_APPLIED) -> str:
        return f"{self._path} cannot be written ({error}). {outcome}"

    def _outcome(self) -> str:
        """Returns the outcome of an update whose write failed."""
        known = self._known
        try:
            with open(self._path, "rb") as file:
                found = journal.read_commit(file)
        except FileNotFoundError:
            return _NOT_APPLIED if known is None else _UNKNOWN
        except (OSError, errors.LiveIndexError):
            return _UNKNOWN
        is_unchanged = known is not None and (found.generation, found.end) == (
            known.generation,
            known.end,
        )
        return _NOT_APPLIED if is_unchanged else _UNKNOWN

    def _count_cut(self) -> None:
        # An operator may remove a file in the meantime; the next update recounts.
        with contextlib.suppress(OSError):
            cut = self._directory.glob(journal.CUT_PATTERN)
            self.cut_bytes = sum(path.stat().st_size for path in cut)

    def _note_state(self) -> None:
        self._count_cut()
        try:
            self.seen = self.state_of_file()
        except errors.LiveIndexError:
            self.seen = ()  # Makes the next `read_new` continue at the current offset.

    def _create(self, position: Position, records: Sequence[bytes]) -> None:
        """Replaces the journal; its first record replaces the records before the position."""
        replaced = dataclasses.asdict(position) if position.number else {}
        header = json.dumps({**self._identity, **replaced}).encode()
        self._known = journal.create(self._path, [header, *records])

    def _check(self, header: bytes) -> Position:
        """Checks that the journal belongs to this release, and returns where its records start."""
        found: dict[str, Any] = json.loads(header)
        position = Position(found.pop("number", 0), found.pop("checksum", 0))
        if found != self._identity:
            raise errors.LiveIndexError(
                f"{self._path} belongs to {_description(found)}; expected "
                f"{_description(self._identity)}. Remove it, and apply its updates to this release."
            )
        return position


def _description(identity: dict[str, Any]) -> str:
    return (
        f"release {identity.get('version')} of training {identity.get('training_id')} "
        f"(format {identity.get('format')})"
    )
