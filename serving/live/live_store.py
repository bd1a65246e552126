"""The updates of a release on the disk: `BASE/live/N/journal`, read by all, written by one.

The first record says which release and training the updates belong to, and names the generation
of the file: a journal that was written anew is another generation, and is read from its start.
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
    """What a journal holds that was not read before.

    Attributes:
        from_start: Whether these are all its updates, and those read before count no more.
        updates: In their order.
    """

    from_start: bool
    updates: list[live_update.Update]


class LiveStore:
    """A reader and writer of the updates of one release. One thread at a time may use it.

    Args:
        base: Base directory of the bundles.
        version: Of the release.
        training_id: Of the release.

    Attributes:
        seen: The state of the file that was read last.
        num_bytes: Of the file that were read.
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
        """Returns what came since the last call, or None where nothing did.

        Raises:
            LiveIndexError: The journal is of another release, or damaged.
        """
        seen = self.state_of_file()
        if seen == self.seen:
            if self._failure is not None:
                # Not read again until it changes; but nothing may be written after it either.
                raise errors.LiveIndexError(self._failure)
            return None
        self.seen, self._failure = seen, None
        try:
            return self._read(seen is not None)
        except errors.LiveIndexError as error:
            self._failure = str(error)
            raise

    def forget(self) -> None:
        """Lets the next `news` begin at the start: what was read was not taken up."""
        self.seen, self._failure, self._generation, self.num_bytes = (), None, None, 0

    def state_of_file(self) -> tuple[int, ...] | None:
        """Returns what changes with the journal; None where there is none.

        Raises:
            LiveIndexError: It cannot be looked at.
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
            # Taken away by hand: the release is served as it was exported.
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
        """Returns the records after those that were read, and where the last of them ends.

        None where an older copy was put back: the journal is shorter then, or has grown since, and
        no record ends where reading ended.
        """
        if os.fstat(file.fileno()).st_size < self.num_bytes:
            return None
        try:
            return journal.read(file, self.num_bytes)
        except errors.LiveIndexError:
            return None  # Damage is found again from the start.

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Keeps other processes from writing; read the news before anything is written.

        Raises:
            LiveIndexError: The directory cannot be made or locked.
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
            # A directory lives through a crash of the machine when its parent is on the disk.
            for parent in (self._directory.parent, self._directory.parent.parent):
                files.sync(parent)

    def append(self, update: live_update.Update) -> None:
        """Adds an update; it is on the disk when this returns. The caller holds `writing`.

        Raises:
            LiveIndexError: It cannot be written.
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
        """Puts one update in the place of all there are. The caller holds `writing`.

        Raises:
            LiveIndexError: It cannot be written; the journal is as it was.
        """
        try:
            self._create([live_update.encode(update)])
        except OSError as error:
            raise errors.LiveIndexError(
                f"{self._path} cannot be written anew ({error})."
            ) from error
        self._note_state()

    def _not_written(self, error: OSError) -> str:
        return f"{self._path} cannot be written ({error}); the update is not applied."

    def _note_state(self) -> None:
        try:
            self.seen = self.state_of_file()
        except errors.LiveIndexError:
            self.seen = ()  # Then the next `news` looks, from where was written.

    def _create(self, records: list[bytes]) -> None:
        generation = uuid.uuid4().hex
        header = json.dumps({**self._identity, "generation": generation}).encode()
        self.num_bytes = journal.create(self._path, [header, *records])
        self._generation = generation

    def _check(self, header: bytes | None) -> str:
        """Returns the generation of a journal of this release."""
        try:
            found: dict[str, Any] = json.loads(header or b"")
            generation = found.pop("generation")
        except (ValueError, KeyError, AttributeError) as error:
            raise errors.LiveIndexError(
                f"{self._path} is no journal of updates. Restore it from a copy, or remove it."
            ) from error
        if found != self._identity:
            raise errors.LiveIndexError(
                f"{self._path} belongs to {_words(found)}, expected {_words(self._identity)}. "
                "Remove it, and apply its updates to this release."
            )
        return generation


def _words(identity: dict[str, Any]) -> str:
    return (
        f"release {identity.get('version')} of training {identity.get('training_id')} "
        f"(format {identity.get('format')})"
    )
