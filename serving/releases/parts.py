"""The parts of a release, one directory each: their training run and their checksums."""

import concurrent.futures
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from serving import errors, manifest
from tfrecords import files


def identity_path(part: str, directory: pathlib.Path) -> pathlib.Path:
    """Returns the path of the file that names the training run of a part."""
    return directory / ("" if part == "ad_index" else "assets.extra") / "tfrec.json"


def write_identity(
    part: str, directory: str | os.PathLike[str], *, training_id: str, dataset_fingerprint: str
) -> None:
    """Writes the file that names the training run of a part. Exporters call it with each save.

    Args:
        part: One of `manifest.PARTS`.
        directory: Directory of the part.
        training_id: Id of the training run.
        dataset_fingerprint: Fingerprint of the schema and the fitted vocabularies.
    """
    path = identity_path(part, pathlib.Path(directory))
    path.parent.mkdir(parents=True, exist_ok=True)
    identity = {
        "role": part,
        "training_id": training_id,
        "dataset_fingerprint": dataset_fingerprint,
    }
    path.write_text(json.dumps(identity, sort_keys=True), encoding="utf-8")


def checksum_of(directories: Iterable[pathlib.Path]) -> str:
    """Returns 16 hex digits that identify the files of directories and their names."""
    digest = hashlib.sha256()
    for directory in directories:
        for path in files_under(directory):
            line = f"{path.relative_to(directory).as_posix()} {files.sha256(path)}\n"
            digest.update(line.encode())
    return digest.hexdigest()[:16]


def check_identity(
    part: str, directory: pathlib.Path, version: int, content: manifest.Content
) -> None:
    """Checks that a part comes from the training run that the manifest names.

    Raises:
        BundleError: The identity file is missing or damaged, or names another training run or part.
    """
    path = identity_path(part, directory)
    name = f"{part}/{version}/{path.relative_to(directory).as_posix()}"
    try:
        identity: Any = json.loads(path.read_bytes())
        found = {key: identity[key] for key in ("role", "training_id", "dataset_fingerprint")}
    except FileNotFoundError as error:
        raise errors.BundleError(
            f"{name} is missing. It names the training run of {part}/{version}. Restore the file, "
            "or export the bundle again."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise errors.BundleError(
            f"{name} cannot be read ({error!r}). Restore the file, or export the bundle again."
        ) from error
    for key, words, expected in (
        ("role", "is a", part),
        ("training_id", "comes from training", content.training_id),
        ("dataset_fingerprint", "was trained on the data set", content.dataset_fingerprint),
    ):
        if found[key] != expected:
            raise errors.BundleError(
                f"{part}/{version} {words} {found[key]}, but the manifest expects "
                f"{expected}. Restore the {part} of this release, or export all parts together."
            )


def check_file(root: pathlib.Path, name: str, expected: dict[str, Any]) -> None:
    """Checks size and checksum of a file against its entry in the manifest.

    Raises:
        BundleError: The file is missing, or its size or checksum differs.
    """
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
