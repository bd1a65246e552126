"""The updates of a release on disk: `BASE/live/N/journal`, with many readers and one writer.

The first record names the release, its training run, and the generation of the file. A rewritten
journal has a new generation, and is read from the start.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any, BinaryIO

from serving import errors
from serving.live import journal, live_update
from tfrecords import files

_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class News:
    """Updates in a journal that have not been read before.

    Attributes:
        from_start: Whether these are all updates, which replace those read before.
        updates: Updates in order.
    """

    from_start: bool
    updates: list[live_update.Update]


class LiveStore:
    """Reads and writes the updates of one release. Not thread-safe.

    Args:
        base: Base directory of the bundles.
        version: Release version.
        training_id: Training id of the release.

    Attributes:
        seen: State of the file at the last read, see `state_of_file`.
        num_bytes: Number of bytes of the file that have been read.
    """

    def __init__(self, base: pathlib.Path, version: int, training_id: str) -> None:
        self._directory = base / "live" / str(version)
        self._path = self._directory / "journal"
        self._identity = {"format": _FORMAT, "version": version, "training_id": training_id}
        self.seen: tuple[int, ...] | None = None
        self._failure: str | None = None
        self._generation: str | None = None
        self.num_bytes = 0

    def news(self) -> News | None:
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
        try:
            return self._read(seen is not None)
        except errors.LiveIndexError as error:
            self._failure = str(error)
            raise

    def forget(self) -> None:
        """Makes the next `news` read from the start, because an update could not be applied."""
        self.seen, self._failure, self._generation, self.num_bytes = (), None, None, 0

    def state_of_file(self) -> tuple[int, ...] | None:
        """Returns inode, size and mtime of the journal; None if it does not exist.

        Raises:
            LiveIndexError: The file cannot be inspected.
        """
        try:
            state = os.stat(self._path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise errors.LiveIndexError(f"{self._path} cannot be read: {error}.") from error
        return state.st_ino, state.st_size, state.st_mtime_ns

    def _read(self, is_there: bool) -> News | None:
        if not is_there:
            # Removed by an operator: the release is served as it was exported.
            self._generation, self.num_bytes = None, 0
            return News(True, [])
        try:
            with open(self._path, "rb") as file:
                header, end = journal.first(file)
                generation = self._check(header)
                news = self._news_in(file) if generation == self._generation else None
                records, end = journal.read(file, end) if news is None else news
        except OSError as error:
            raise errors.LiveIndexError(f"{self._path} cannot be read: {error}.") from error
        updates = [live_update.decode(record) for record in records]
        self._generation, self.num_bytes = generation, end
        return News(news is None, updates) if news is None or updates else None

    def _news_in(self, file: BinaryIO) -> tuple[list[bytes], int] | None:
        """Returns the records after those already read, and the end offset of the last one.

        Returns None if an older copy was restored: the journal is shorter, or no record ends at
        the offset where reading stopped.
        """
        if os.fstat(file.fileno()).st_size < self.num_bytes:
            return None
        try:
            return journal.read(file, self.num_bytes)
        except errors.LiveIndexError:
            return None  # Reading from the start finds any damage again.

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Locks out other writers in a `with` block. Read `news` before writing.

        Raises:
            LiveIndexError: The directory cannot be created or locked.
        """
        with contextlib.ExitStack() as until_written:
            try:
                self._make_directory()
                until_written.enter_context(files.locked(self._directory / "lock", None))
            except OSError as error:
                raise errors.LiveIndexError(self._not_written(error)) from error
            yield

    def _make_directory(self) -> None:
        if not self._directory.is_dir():
            self._directory.mkdir(parents=True, exist_ok=True)
            # A new directory survives a crash of the machine only if its parent is synced.
            for parent in (self._directory.parent, self._directory.parent.parent):
                files.sync(parent)

    def append(self, update: live_update.Update) -> None:
        """Durably appends an update. The caller holds `writing`.

        Raises:
            LiveIndexError: The update cannot be written.
        """
        record = live_update.encode(update)
        try:
            if self._generation is None:
                self._create([record])
            else:
                self.num_bytes = journal.append(self._path, record, self.num_bytes)
        except OSError as error:
            raise errors.LiveIndexError(self._not_written(error)) from error
        self._note_state()

    def rewrite(self, update: live_update.Update) -> None:
        """Replaces all updates by a single one. The caller holds `writing`.

        Raises:
            LiveIndexError: The update cannot be written. The journal is unchanged.
        """
        try:
            self._create([live_update.encode(update)])
        except OSError as error:
            raise errors.LiveIndexError(f"{self._path} cannot be rewritten ({error}).") from error
        self._note_state()

    def _not_written(self, error: OSError) -> str:
        return f"{self._path} cannot be written ({error}). The update is not applied."

    def _note_state(self) -> None:
        try:
            self.seen = self.state_of_file()
        except errors.LiveIndexError:
            self.seen = ()  # Makes the next `news` read from the current offset.

    def _create(self, records: list[bytes]) -> None:
        generation = uuid.uuid4().hex
        header = json.dumps({**self._identity, "generation": generation}).encode()
        self.num_bytes = journal.create(self._path, [header, *records])
        self._generation = generation

    def _check(self, header: bytes | None) -> str:
        """Checks that the journal belongs to this release, and returns its generation."""
        try:
            found: dict[str, Any] = json.loads(header or b"")
            generation = found.pop("generation")
        except (ValueError, KeyError, AttributeError) as error:
            raise errors.LiveIndexError(
                f"{self._path} is not a journal of updates. Restore it from a copy, or remove it."
            ) from error
        if found != self._identity:
            raise errors.LiveIndexError(
                f"{self._path} belongs to {_description(found)}, expected "
                f"{_description(self._identity)}. Remove it, and apply its updates to this release."
            )
        return generation


def _description(identity: dict[str, Any]) -> str:
    return (
        f"release {identity.get('version')} of training {identity.get('training_id')} "
        f"(format {identity.get('format')})"
    )
