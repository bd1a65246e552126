"""The files of the parts of a release, and their checksums."""

import concurrent.futures
import hashlib
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from serving import errors
from tfrecords import files


def checksum_of(directories: Iterable[pathlib.Path]) -> str:
    """Returns 16 hex digits that identify the files of directories and their names."""
    digest = hashlib.sha256()
    for directory in directories:
        for path in files_under(directory):
            line = f"{path.relative_to(directory).as_posix()} {files.sha256(path)}\n"
            digest.update(line.encode())
    return digest.hexdigest()[:16]


def check_file(root: pathlib.Path, name: str, expected: dict[str, Any]) -> None:
    """Checks size and checksum of a file against its entry in the manifest."""
    remedy = "Restore the file from the export, or export the bundle again."
    try:
        num_bytes = (root / name).stat().st_size
        if num_bytes != expected["bytes"]:
            raise errors.BundleError(
                f"{name} has {num_bytes} bytes, but the manifest expects {expected['bytes']}. "
                f"{remedy}"
            )
        checksum = files.sha256(root / name)
    except FileNotFoundError as error:
        raise errors.BundleError(f"{name} is missing. {remedy}") from error
    if checksum != expected["sha256"]:
        raise errors.BundleError(
            f"{name} has the checksum {checksum[:12]}…, but the manifest expects "
            f"{expected['sha256'][:12]}…. {remedy}"
        )


def describe(path: pathlib.Path) -> dict[str, Any]:
    """Flushes a file to disk and returns its entry for the manifest."""
    files.sync(path)
    return {"bytes": path.stat().st_size, "sha256": files.sha256(path)}


def in_threads(function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    """Applies a function to items in threads; raises the first error in item order."""
    # Hashing releases the GIL, so threads use all cores.
    with concurrent.futures.ThreadPoolExecutor() as executor:
        return list(executor.map(function, items))


def files_under(directory: pathlib.Path) -> list[pathlib.Path]:
    """Returns all files below a directory, sorted; empty if it does not exist."""
    return sorted(path for path in directory.rglob("*") if not path.is_dir())
