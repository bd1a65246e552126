"""Which releases are in use, so that prune keeps them.

A process that has loaded a release holds a shared `flock` on `manifests/N.json`. The operating
system releases the lock when the process ends, even if it is killed. Write access is not needed.
"""

import contextlib
import logging
import os
import pathlib
from collections.abc import Iterator

from serving import manifest
from tfrecords import files

_logger = logging.getLogger(__name__)

# Another process may hold the lock for a moment to run the same check.
_LOCK_TIMEOUT_SECONDS = 0.01


def hold(base: pathlib.Path, version: int) -> contextlib.ExitStack:
    """Keeps a published release from being pruned until the result is closed, or not referenced."""
    path = manifest.path_of(base, version)
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "rb"))
            # Waits for a prune, which holds the lock only while it unlinks the manifest.
            files.lock(file, None, shared=True)
            is_there = os.stat(path).st_ino == os.fstat(file.fileno()).st_ino
        except FileNotFoundError:
            is_there = False
        except OSError as error:
            # Prune raises an error on such a file system.
            _logger.warning(
                "%s cannot be locked (%s). Do not prune releases that are in use.", path, error
            )
            return contextlib.ExitStack()
        if not is_there:
            raise manifest.not_published(base, version)
        return stack.pop_all()


def is_in_use(base: pathlib.Path, version: int) -> bool | None:
    """Returns whether a process has the release loaded.

    It is None if the file system does not support locks, or the manifest is not writable.
    """
    try:
        with locked_if_unused(base, version) as is_unused:
            return not is_unused
    except FileNotFoundError:
        return False
    except OSError:
        return None


@contextlib.contextmanager
def locked_if_unused(base: pathlib.Path, version: int) -> Iterator[bool]:
    """Yields whether no process has the release loaded; none can load it until the block ends."""
    # Some network file systems require write access for an exclusive lock.
    with open(manifest.path_of(base, version), "rb+") as file:
        try:
            files.lock(file, _LOCK_TIMEOUT_SECONDS)
        except BlockingIOError:
            yield False
        else:
            yield True
