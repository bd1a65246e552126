"""Atomic writes of files, NumPy arrays in files, and locks between processes.

A file is written under a temporary name in its directory, `.NAME.partial`, and then renamed, so
that a reader sees the old file or the new one. `durable` files also survive a power cut. Locks
are `flock` locks: the system releases them when the process that holds them ends.
"""

import contextlib
import errno
import fcntl
import fnmatch
import hashlib
import json
import os
import pathlib
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import IO, Any

import numpy as np
import numpy.typing as npt

# Held while NumPy reads files: it parses their headers as Python, and in CPython 3.11 threads that
# parse at once can fail with "AST constructor recursion depth mismatch" (gh-106905).
_READING_ARRAYS = threading.Lock()
_MAX_RETRY_SECONDS = 0.1
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def replacing(path: pathlib.Path, durable: bool = False) -> Iterator[pathlib.Path]:
    """Yields a temporary path, and renames it to `path` at the end of the block.

    A block that raises removes the temporary file or directory and leaves `path` as it was.
    Only one process at a time may write a path. A link stays, and the file that it leads to is
    replaced. A device or a pipe, such as /dev/null, is written to directly.

    Args:
        path: File to replace, or a directory that does not exist.
        durable: Whether the file is on the disk when the block ends.

    Raises:
        OSError: The file cannot be written.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path
        return
    target = path.resolve()
    temporary = target.with_name(f".{target.name}.partial")
    remove(temporary)
    try:
        yield temporary
        if durable:
            sync(temporary)
        os.replace(temporary, target)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename in (temporary, str(temporary)):
            error.filename = str(path)  # The caller does not know the temporary file.
        remove(temporary)
        raise
    if durable:
        sync(target.parent)


def remove(path: pathlib.Path) -> None:
    """Removes a file, a directory with its content, or a link but not what it leads to, if any.

    Raises:
        OSError: It cannot be removed completely.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write(path: pathlib.Path, content: bytes | str, durable: bool = False) -> None:
    """Writes a file atomically; text is encoded as UTF-8. See `replacing`.

    Raises:
        OSError: The file cannot be written; an old one stays.
    """
    with replacing(path, durable) as temporary, _naming(path):
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(
    path: pathlib.Path,
    value: Any,
    durable: bool = False,
    default: Callable[[Any], Any] | None = None,
) -> None:
    """Writes a JSON file atomically.

    Args:
        path: File to write.
        value: JSON values.
        durable: Whether the file is on the disk when this returns.
        default: Converts other objects to JSON values. None: they are refused.

    Raises:
        OSError: The file cannot be written; an old one stays.
        TypeError: A value cannot be written as JSON.
    """
    write(path, json.dumps(value, indent=1, default=default) + "\n", durable)


def is_disk_full(error: BaseException) -> bool:
    """Returns whether an error means that the disk is full."""
    full = isinstance(error, OSError) and error.errno in DISK_FULL
    # TensorFlow's errors have no errno.
    return full or any(os.strerror(n) in str(error) for n in (errno.ENOSPC, errno.EFBIG))


def read_array(path: pathlib.Path, mapped: bool = False) -> np.ndarray:
    """Reads an array from an npy file, or maps it into memory, in any thread."""
    with _READING_ARRAYS:
        return np.load(path, mmap_mode="r" if mapped else None)


def write_array(path: pathlib.Path, array: np.ndarray) -> None:
    """Writes an npy file as `np.save` does, whose error on a full disk lacks its number.

    Raises:
        OSError: The file cannot be written.
    """
    array = np.ascontiguousarray(array)
    header = np.lib.format.header_data_from_array_1_0(array)  # type: ignore[no-untyped-call]
    with _naming(path), path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]
        file.write(array.data)


def create_array(path: pathlib.Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> np.memmap:
    """Creates an npy file of zeros, mapped into memory to be filled.

    Its space is reserved now: if the disk became full later, a write into the memory would kill the
    process.

    Args:
        path: The file; an old one is written over.
        dtype: Type of the values.
        shape: Shape of the array, not empty.

    Raises:
        OSError: The file cannot be written, or its disk has too little space.
    """
    with _naming(path):
        array: np.memmap = np.lib.format.open_memmap(path, "w+", dtype, shape)  # type: ignore[no-untyped-call]
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def read_arrays(
    path: pathlib.Path, is_wanted: Callable[[str], bool] = lambda name: True
) -> dict[str, np.ndarray]:
    """Reads the arrays of an npz file whose names are wanted, in any thread."""
    with _READING_ARRAYS, np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files if is_wanted(name)}


def check_replaceable(directory: pathlib.Path, names: Collection[str], kind: str) -> None:
    """Checks that a directory contains only what may be deleted to replace it.

    Args:
        directory: The directory, which need not exist.
        names: Globs of the names that it may contain.
        kind: What has such files, for the message.

    Raises:
        FileExistsError: It is a file, or contains others.
    """
    if directory.is_dir():
        found = sorted(path.name for path in directory.iterdir())
        foreign = [file for file in found if not any(fnmatch.fnmatch(file, name) for name in names)]
        if not foreign:
            return
        held = f"contains {', '.join(foreign[:3])}{', …' if len(foreign) > 3 else ''}"
    elif directory.exists():
        held = "is a file"
    else:
        return
    raise FileExistsError(
        f"{directory} {held}; expected a new directory, an empty one, or {kind}, which would be "
        f"replaced. Choose another directory, such as {directory / 'data'}."
    )


def sha256(path: pathlib.Path) -> str:
    """Returns the SHA-256 checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: pathlib.Path) -> None:
    """Flushes a file, or the renames in a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with _naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(file: IO[Any], wait_seconds: float | None = 0.0, shared: bool = False) -> None:
    """Locks an open file until it is closed.

    Args:
        file: File to lock; some network file systems require an exclusive one to be writable.
        wait_seconds: Maximum time to wait for other processes, in seconds; None: no limit.
        shared: Whether other processes can hold a shared lock at the same time.

    Raises:
        BlockingIOError: Another process still holds the lock.
        OSError: The file system has no locks.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if wait_seconds is None:
        fcntl.flock(file, kind)
        return
    until = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
            time.sleep(min(_MAX_RETRY_SECONDS, wait_seconds / 4))


@contextlib.contextmanager
def locked(
    path: pathlib.Path,
    wait_seconds: float | None = 0.0,
    refusal: Callable[[], Exception] = BlockingIOError,
) -> Iterator[None]:
    """Holds the exclusive lock of a lock file, which is created if needed; see `lock` for errors.

    The file contains the id of the process, for `holder_of`, unless the disk is full.

    Args:
        path: Lock file.
        wait_seconds: Maximum time to wait for other processes, in seconds; None: no limit.
        refusal: Returns the error to raise if another process still holds the lock.
    """
    # Without a buffer, which would be written once more, and fail again, when the file is closed.
    with path.open("ab", buffering=0) as file:
        try:
            lock(file, wait_seconds)
        except BlockingIOError as error:
            raise refusal() from error
        # A full disk must not keep a prune from freeing it.
        with contextlib.suppress(OSError):
            file.truncate(0)
            file.write(f"{os.getpid()}\n".encode())
        yield


def holder_of(path: pathlib.Path) -> str:
    """Returns the id of the process that has locked a lock file with `locked`, for messages."""
    return path.read_text().strip() or "unknown"


@contextlib.contextmanager
def _naming(path: pathlib.Path) -> Iterator[None]:
    """Adds the file to an error of the operating system, which lacks it if a write fails."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
