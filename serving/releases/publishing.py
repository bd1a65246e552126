"""Publishing: version N becomes a release in one step, or not at all.

The parts are written under names that no model server takes for a version, then renamed,
the ranker last; the manifest follows and makes them a release. Directories without
a manifest are left by a publish that was cut short: they count as nothing, the next publish
removes them, and it takes a higher number, because a polling model server may already have
loaded them under theirs.
"""

import contextlib
import dataclasses
import datetime
import os
import pathlib
import shutil
import uuid
from collections.abc import Callable

import tensorflow as tf

from serving import errors, manifest
from serving.releases import parts, pointer
from tfrecords import files

STAGING = ".staging-"
_LAST_VERSION = ".last_version"


@dataclasses.dataclass(frozen=True)
class Staged:
    """Empty directories that a `write` callback fills.

    Attributes:
        version: The version that this will be.
        query_tower: For the query tower's SavedModel.
        ad_tower: For the ad tower's SavedModel.
        ad_index: For `index.BuiltIndex.save`.
        ranker: For the ranker's SavedModel.
    """

    version: int
    query_tower: pathlib.Path
    ad_tower: pathlib.Path
    ad_index: pathlib.Path
    ranker: pathlib.Path


def publish(
    base: str | os.PathLike[str],
    write: Callable[[Staged], manifest.Content],
    *,
    version: int | None = None,
    wait_seconds: float = 0.0,
) -> manifest.Manifest:
    """Publishes a release; killed at any point, it leaves the earlier ones as they are.

    Args:
        base: Base directory, made where it does not exist.
        write: Fills the directories, identities included, and returns the content of
            the manifest.
        version: Above every number in use; None = the next one.
        wait_seconds: How long to wait for another publish to end.

    Returns:
        The manifest.

    Raises:
        PublishError: The version is taken, another publish is running, a part is empty, or it
            cannot be written: the disk is full.
        ForeignPartError: A part's identity disagrees with the content.
    """
    root = pathlib.Path(base)
    root.mkdir(parents=True, exist_ok=True)
    with exclusive(root, wait_seconds):
        next_version = max(_used_versions(root), default=0) + 1
        if version is not None and version < next_version:
            raise errors.PublishError(
                f"Version {version} of {root} cannot be published: {next_version - 1} is in use. "
                f"Give {next_version} or more, or none to take the next."
            )
        remove_leftovers(root)
        staged = _stage(root, version or next_version)
        try:
            content = write(staged)
            return _commit(root, staged, content)
        except (OSError, RuntimeError, tf.errors.OpError) as error:
            # TensorFlow, faiss and Arrow say in their own ways that a disk is full.
            raise errors.PublishError(
                f"Release {staged.version} cannot be written to {root}: {error}. Nothing was "
                "published, and the earlier releases are as they were. Make room there "
                "(tfrec release --action=prune), and try again."
            ) from error
        finally:
            for part in parts.PARTS:
                shutil.rmtree(getattr(staged, part), ignore_errors=True)


def _stage(root: pathlib.Path, version: int) -> Staged:
    name = f"{STAGING}{version}-{uuid.uuid4().hex[:8]}"
    directories = {part: root / part / name for part in parts.PARTS}
    for directory in directories.values():
        directory.mkdir(parents=True)
    return Staged(version=version, **directories)


def _commit(root: pathlib.Path, staged: Staged, content: manifest.Content) -> manifest.Manifest:
    entries = {}
    for part in parts.PARTS:
        directory = getattr(staged, part)
        parts.check_identity(part, directory, staged.version, content)
        paths = parts.files_under(directory)
        for path, entry in zip(paths, parts.in_threads(parts.describe, paths), strict=True):
            entries[f"{part}/{staged.version}/{path.relative_to(directory).as_posix()}"] = entry
        if len(paths) < 2:
            raise errors.PublishError(f"Nothing but tfrec.json was written for {part}.")
    release = manifest.Manifest.create(
        content,
        version=staged.version,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        files=entries,
    )
    document = manifest.encode(release)
    for part in parts.PARTS:
        directory = getattr(staged, part)
        for path in (root, root / part, directory, *directory.rglob("*/")):
            files.sync(path)
    # From here on a polling model server may load the number, so that it is never used again.
    files.write(root / _LAST_VERSION, f"{staged.version}\n", durable=True)
    for part in parts.PARTS:
        getattr(staged, part).rename(root / part / str(staged.version))
        files.sync(root / part)
    manifest.write(root, staged.version, document)
    return release


def _used_versions(root: pathlib.Path) -> set[int]:
    names = [path.name for part in parts.PARTS for path in (root / part).glob("*")]
    with contextlib.suppress(FileNotFoundError):
        names.append((root / _LAST_VERSION).read_text().strip())
    return {int(name) for name in names if name.isdecimal()} | set(manifest.versions(root))


def remove_leftovers(root: pathlib.Path) -> None:
    """Removes what publishes and prunes that were cut short left; the caller is `publishing`."""
    published = {str(version) for version in manifest.versions(root)}
    for part in parts.PARTS:
        for path in (root / part).glob("*"):
            unfinished = path.name.isdecimal() and path.name not in published
            if unfinished or path.name.startswith(STAGING):
                shutil.rmtree(path)
    for path in (root / "manifests").glob(".*"):
        path.unlink()
    for path in (root / "live").glob("*"):
        if path.name.isdecimal() and path.name not in published:
            shutil.rmtree(path)


def exclusive(root: pathlib.Path, wait_seconds: float) -> contextlib.AbstractContextManager[None]:
    """Keeps other publishes and prunes away while a block runs.

    Raises:
        PublishError: Another one runs, and does not end in time.
    """
    return pointer.lock_pointer(
        root / ".publish.lock",
        wait_seconds,
        f"Another publish into {root} is running. Try again when it has ended, or wait for it "
        "with --wait_seconds.",
    )
