"""Which releases are in use, so that no prune takes one away.

A process that loads a release holds a shared `flock` on `manifests/N.json` for as long; the
system lets go of it when the process ends, however it ends. It needs no right to write.
"""

import contextlib
import logging
import os
import pathlib
from collections.abc import Iterator
from typing import IO, Any

from serving import errors, manifest
from tfrecords import files

# Another process may be asking the same question at this moment.
_PATIENCE_SECONDS = 0.01


class Lease:
    """Keeps a release on the disk until it is closed, or nobody refers to it any more."""

    def __init__(self, file: IO[Any] | None) -> None:
        self._file = file

    def close(self) -> None:
        """Ends it; a second call does nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None


def hold(base: pathlib.Path, version: int) -> Lease:
    """Takes a lease on a published release.

    Raises:
        BundleNotFoundError: There is none of this version, or it is being removed.
    """
    path = manifest.path_of(base, version)
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "rb"))
            # Waits for a prune, which holds it for a rename only.
            files.lock(file, None, shared=True)
            is_there = os.stat(path).st_ino == os.fstat(file.fileno()).st_ino
        except FileNotFoundError:
            is_there = False
        except OSError as error:
            # Prune refuses to judge what is in use on such a file system.
            logging.warning(
                "%s cannot be locked (%s); keep releases in use from prune.", path, error
            )
            return Lease(None)
        if not is_there:
            raise errors.BundleNotFoundError(
                f"no manifests/{version}.json: {base} holds no published bundle of version "
                f"{version}. Export it again; a publish that was cut short leaves no manifest, and "
                "tfrec release --action=list shows what there is."
            )
        stack.pop_all()
    return Lease(file)


def is_in_use(base: pathlib.Path, version: int) -> bool:
    """Returns whether a process has the release loaded.

    Raises:
        OSError: The file system cannot tell.
    """
    try:
        with _exclusive(base, version):
            return False
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def unused_releases(base: pathlib.Path, version: int) -> Iterator[bool]:
    """Yields whether nobody has the release loaded; if so, nobody can until the block ends.

    Raises:
        OSError: The file system cannot tell.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_exclusive(base, version))
        except BlockingIOError:
            yield False
            return
        yield True


@contextlib.contextmanager
def _exclusive(base: pathlib.Path, version: int) -> Iterator[None]:
    # Some network file systems want the right to write for an exclusive lock.
    with open(manifest.path_of(base, version), "rb+") as file:
        files.lock(file, _PATIENCE_SECONDS)
        yield
