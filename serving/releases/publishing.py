"""Publishes releases atomically.

The parts are written to directories that model servers do not recognize as versions, and then
renamed, the ranker last. Renaming the manifest completes the release. All content is on disk before
the first rename. Directories without a manifest come from a publish that failed or was killed. The
next publish removes them and uses a higher version, because a polling model server may already have
loaded the interrupted one.
"""

import contextlib
import dataclasses
import datetime
import logging
import os
import pathlib
import shutil
import uuid
from collections.abc import Callable

import tensorflow as tf

from serving import errors, index, manifest
from serving.releases import parts, pointer
from tfrecords import files

_logger = logging.getLogger(__name__)

STAGING = ".staging-"
_LAST_VERSION = ".last_version"


@dataclasses.dataclass(frozen=True)
class Staged:
    """Empty directories that the `write` callback of `publish` fills.

    Attributes:
        version: Version of the new release.
        query_tower: Directory for the query tower's SavedModel.
        ad_tower: Directory for the ad tower's SavedModel.
        ad_index: Directory for `index.BuiltIndex.save`.
        ranker: Directory for the ranker's SavedModel; stays empty if there is no ranker.
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
    wait_seconds: float = 0.0,
) -> manifest.Manifest:
    """Publishes a release. Earlier releases are unchanged even if the process is killed.

    Args:
        base: Base directory of the bundles. Created if it does not exist.
        write: Callback that fills the directories, and returns the content of the manifest.
        wait_seconds: Maximum time to wait for another publish to end.

    Returns:
        The manifest of the release.

    Raises:
        PublishError: Another publish is running, a part is empty, or writing failed, for example
            because the disk is full.
    """
    root = pathlib.Path(base)
    root.mkdir(parents=True, exist_ok=True)
    with exclusive(root, wait_seconds):
        version = max(_used_versions(root)) + 1
        try:
            remove_leftovers(root)
            return _publish(root, version, write)
        except (OSError, RuntimeError, tf.errors.OpError) as error:
            # TensorFlow, faiss and Arrow raise different exceptions if a disk is full.
            raise errors.PublishError(
                f"Release {version} cannot be written to {root}: {error}. Earlier releases are "
                "unchanged. Free disk space, for example with tfrec release --action=prune, and "
                "try again."
            ) from error


def _publish(
    root: pathlib.Path, version: int, write: Callable[[Staged], manifest.Content]
) -> manifest.Manifest:
    staged = _stage(root, version)
    try:
        content = write(staged)
        try:
            return _commit(root, staged, content)
        except BaseException:
            if not manifest.path_of(root, version).exists():
                with contextlib.suppress(errors.IndexUnavailableError):
                    index.drop_index(content.index)
            raise
    finally:
        for part in manifest.PARTS:
            shutil.rmtree(getattr(staged, part), ignore_errors=True)


def _stage(root: pathlib.Path, version: int) -> Staged:
    name = f"{STAGING}{version}-{uuid.uuid4().hex[:8]}"
    directories = {part: root / part / name for part in manifest.PARTS}
    for directory in directories.values():
        directory.mkdir(parents=True)
    return Staged(version=version, **directories)


def _commit(root: pathlib.Path, staged: Staged, content: manifest.Content) -> manifest.Manifest:
    entries = {}
    for part in content.parts:
        directory = getattr(staged, part)
        paths = parts.files_under(directory)
        for path, entry in zip(paths, parts.in_threads(parts.describe, paths), strict=True):
            entries[f"{part}/{staged.version}/{path.relative_to(directory).as_posix()}"] = entry
        if not paths:
            raise errors.PublishError(f"{part}: expected files, got none.")
    release = manifest.Manifest.create(
        content,
        version=staged.version,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        files=entries,
    )
    document = manifest.encode(release)
    for part in content.parts:
        directory = getattr(staged, part)
        for path in (root, root / part, directory, *directory.rglob("*/")):
            files.sync(path)
    with manifest.writing(root, staged.version, document):
        # From here on a polling model server may load this version, so it is never reused.
        files.write(root / _LAST_VERSION, f"{staged.version}\n", durable=True)
        for part in content.parts:
            getattr(staged, part).rename(root / part / str(staged.version))
            files.sync(root / part)
    return release


def _used_versions(root: pathlib.Path) -> set[int]:
    names = [path.name for part in manifest.PARTS for path in (root / part).glob("*")]
    return {
        *(int(name) for name in names if name.isdecimal()),
        *manifest.versions(root),
        _last_version(root),
    }


def _last_version(root: pathlib.Path) -> int:
    """Returns the last version that a publish may have made visible; 0 if there is none."""
    path = root / _LAST_VERSION
    try:
        return int(path.read_text(encoding="ascii"))
    except FileNotFoundError:
        return 0
    except (OSError, ValueError) as error:
        raise errors.PublishError(
            f"{path} cannot be read ({error}); expected the last version that was published into "
            f"{root}, which is not used again. Write that number into it."
        ) from error


def remove_leftovers(root: pathlib.Path) -> None:
    """Removes leftovers of interrupted publishes and prunes. The caller holds `exclusive`.

    Those that cannot be removed are logged; nothing reads them. A release that `releases.json`
    names was published: if its manifest is missing, the rest of it stays, to be restored.
    """
    published = {str(version) for version in manifest.versions(root)}
    with contextlib.suppress(errors.ReleasesFileError):
        if named := pointer.read_pointer(root):
            published |= {str(named.stable), str(named.canary)}
    for part in manifest.PARTS:
        for path in (root / part).glob("*"):
            unfinished = path.name.isdecimal() and path.name not in published
            if unfinished or path.name.startswith(STAGING):
                _remove_leftover(path)
    for path in (root / "manifests").glob(".*"):
        _remove_leftover(path)
    for path in (root / "live").glob("*"):
        if path.name.isdecimal() and path.name not in published:
            _remove_leftover(path)


def _remove_leftover(path: pathlib.Path) -> None:
    try:
        files.remove(path)
    except OSError as error:
        _logger.warning("%s is left over, and cannot be removed (%s). Remove it.", path, error)


def exclusive(root: pathlib.Path, wait_seconds: float) -> contextlib.AbstractContextManager[None]:
    """Locks out other publishes and prunes in a `with` block."""
    refusal = errors.PublishError(
        f"Another publish into {root} is running. Try again later, or set --wait_seconds to wait "
        "for it."
    )
    return files.locked(root / ".publish.lock", wait_seconds, lambda: refusal)
