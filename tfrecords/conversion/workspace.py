"""The workspace of a conversion, from which a killed conversion resumes.

A stage writes its files for a chunk atomically, and then a note; chunks with a note are skipped.
Notes are valid for one identity of input and options; with another identity, the conversion starts
over.
"""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from tfrecords import files
from tfrecords.conversion.dataset_json import CHECKED_FILES

_DATA_SET_FILES = {
    "dataset.json", "identity.json", "*.tfrecord",
    *(name.partition("/")[0] for name in CHECKED_FILES),
}  # fmt: skip


class Workspace:
    """The unfinished output of one conversion.

    Args:
        directory: Path of the finished output; the workspace is `.NAME.partial` next to it.
        identity: JSON values on which the notes depend.
    """

    def __init__(self, directory: pathlib.Path, identity: dict[str, Any]) -> None:
        self.output = directory.with_name(f".{directory.name}.partial")
        self._directory = directory
        self._notes = self.output / "work"
        path = self.output / "identity.json"
        identity = json.loads(json.dumps(identity))
        if _read(path) != identity:
            shutil.rmtree(self.output, ignore_errors=True)
            self.output.mkdir(parents=True)
            files.write_json(path, identity)
        shutil.rmtree(self._trash, ignore_errors=True)
        self._notes.mkdir(exist_ok=True)

    @property
    def _trash(self) -> pathlib.Path:
        return self.output / "work.partial"

    @property
    def is_complete(self) -> bool:
        """Whether everything is written and only `publish` was interrupted."""
        return (self.output / "dataset.json").is_file()

    def path(self, stage: str, index: int, suffix: str = "") -> pathlib.Path:
        """Returns the path of a stage's file for a chunk."""
        directory = self._notes / stage
        directory.mkdir(exist_ok=True)
        return directory / f"{index:05d}{suffix}"

    def note(self, stage: str, index: int = 0) -> dict[str, Any] | None:
        """Returns the note of a stage for a chunk, or None if it is not finished."""
        return _read(self.path(stage, index, ".json"))

    def once(
        self, stage: str, index: int, work: Callable[[], dict[str, Any] | None]
    ) -> dict[str, Any]:
        """Returns the note of a stage for a chunk; `work` returns it if it is missing.

        If `work` returns None, the note is empty.
        """
        note = self.note(stage, index)
        if note is None:
            note = work() or {}
            files.write_json(self.path(stage, index, ".json"), note)
        return note

    def publish(self) -> None:
        """Moves the finished output to its path, and replaces an older one."""
        self._notes.rename(self._trash)  # A note must not outlive the files it is about.
        shutil.rmtree(self._trash)
        if self._directory.exists():
            shutil.rmtree(self._directory)
        self.output.rename(self._directory)
        (self._directory / "identity.json").unlink()

    def discard(self) -> None:
        """Removes the workspace."""
        shutil.rmtree(self.output, ignore_errors=True)


def check_output(directory: pathlib.Path) -> None:
    """Checks that a data set may replace a directory, if it exists.

    Raises:
        FileExistsError: It contains files other than those of a data set.
    """
    if not (directory / "dataset.json").is_file():  # A data set that was being deleted lacks it.
        files.check_replaceable(directory, _DATA_SET_FILES, "a data set")


@contextlib.contextmanager
def lock_directory(directory: pathlib.Path) -> Iterator[None]:
    """Locks the output of a conversion.

    Raises:
        FileExistsError: The directory contains files other than those of a data set.
        OSError: Another conversion writes to the directory.
    """
    path = directory.with_name(f".{directory.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    refusal = OSError(
        f"Another conversion is writing {directory}. Wait for it, or choose another directory."
    )
    with files.locked(path, refusal=lambda: refusal):
        try:
            check_output(directory)
            yield
        finally:
            path.unlink(missing_ok=True)


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
