"""The lock of a work directory, in which one process at a time runs steps."""

import contextlib
import pathlib
import threading
from collections.abc import Iterator

from tfrecords import files

# The directories that this thread has locked, and may lock again.
_held = threading.local()


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Locks a work directory for the steps in the block.

    The operating system releases the lock when the process ends, even if it is killed.

    Args:
        workdir: The directory, which is created if needed.

    Raises:
        BlockingIOError: Another process, or another thread of this one, runs steps in it.
        OSError: The directory cannot be written, or its file system has no locks.
    """
    held: set[pathlib.Path] = _held.__dict__.setdefault("directories", set())
    directory = workdir.resolve()
    if directory in held:
        yield
        return
    path = workdir / "steps" / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)

    def refusal() -> BlockingIOError:
        return BlockingIOError(
            f"Process {files.holder_of(path)} is working in {workdir}. Wait until it ends, or "
            "choose another work directory."
        )

    with files.locked(path, refusal=refusal):
        held.add(directory)
        try:
            yield
        finally:
            held.discard(directory)
