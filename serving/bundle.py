"""Release bundles: publish version N in one step, verify it, and load it.

    base/query_tower/N/   base/ad_tower/N/   base/ad_index/N/   base/ranker/N/
    base/manifests/N.json

The parts are written under names that no model server takes for a version, then renamed,
the ranker last; the manifest follows and makes them a release. Directories without
a manifest are left by a publish that was cut short: they count as nothing, the next publish
removes them, and it takes a higher number, because a polling model server may already have
loaded them under theirs.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import os
import pathlib
import shutil
import uuid
from collections.abc import Callable, Iterator

from serving import ad_index, errors, manifest, parts, probes, query_tower

_STAGING = ".staging-"


@dataclasses.dataclass(frozen=True)
class Staged:
    """Empty directories that a `write` callback fills.

    Attributes:
        version: The version that this will be.
        query_tower: For the query tower's SavedModel.
        ad_tower: For the ad tower's SavedModel.
        ad_index: For `ad_index.save`.
        ranker: For the ranker's SavedModel.
    """

    version: int
    query_tower: pathlib.Path
    ad_tower: pathlib.Path
    ad_index: pathlib.Path
    ranker: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A verified release, ready to answer; `close` it when it is no longer used."""

    base: pathlib.Path
    manifest: manifest.Manifest
    query_tower: query_tower.QueryTower
    ad_index: ad_index.AdIndex

    @property
    def version(self) -> int:
        """The release's version, which requests to the ranker pin."""
        return self.manifest.version


def versions(base: str | os.PathLike[str]) -> list[int]:
    """Returns the published versions, ascending. It reads no manifest."""
    return sorted(
        int(path.stem)
        for path in (pathlib.Path(base) / "manifests").glob("*.json")
        if path.stem.isdecimal()
    )


def latest(base: str | os.PathLike[str]) -> int:
    """Returns the highest published version.

    Raises:
        BundleNotFoundError: None is published.
    """
    published = versions(base)
    if not published:
        raise errors.BundleNotFoundError(
            f"no manifests/N.json: {base} holds no published bundle. Export one first."
        )
    return published[-1]


def publish(
    base: str | os.PathLike[str],
    write: Callable[[Staged], manifest.Content],
    *,
    version: int | None = None,
) -> manifest.Manifest:
    """Publishes a release; killed at any point, it leaves the earlier ones as they are.

    Args:
        base: Base directory, made where it does not exist.
        write: Fills the directories, identities included, and returns the content of
            the manifest.
        version: Above every number in use; None = the next one.

    Returns:
        The manifest.

    Raises:
        PublishError: The version is taken, another publish is running, or a part is empty.
        ForeignPartError: A part's identity disagrees with the content.
    """
    root = pathlib.Path(base)
    root.mkdir(parents=True, exist_ok=True)
    with _lock(root):
        next_version = max(_used_versions(root), default=0) + 1
        if version is not None and version < next_version:
            raise errors.PublishError(
                f"Version {version} of {root} cannot be published: {next_version - 1} is in use. "
                f"Give {next_version} or more, or none to take the next."
            )
        _remove_leftovers(root)
        staged = _stage(root, version or next_version)
        try:
            content = write(staged)
            return _commit(root, staged, content)
        finally:
            for part in parts.PARTS:
                shutil.rmtree(getattr(staged, part), ignore_errors=True)


def _stage(root: pathlib.Path, version: int) -> Staged:
    name = f"{_STAGING}{version}-{uuid.uuid4().hex[:8]}"
    directories = {part: root / part / name for part in parts.PARTS}
    for directory in directories.values():
        directory.mkdir(parents=True)
    return Staged(version=version, **directories)


def _commit(root: pathlib.Path, staged: Staged, content: manifest.Content) -> manifest.Manifest:
    files = {}
    for part in parts.PARTS:
        directory = getattr(staged, part)
        parts.check_identity(part, directory, staged.version, content)
        paths = parts.files_under(directory)
        for path, entry in zip(paths, parts.in_threads(parts.describe, paths), strict=True):
            files[f"{part}/{staged.version}/{path.relative_to(directory).as_posix()}"] = entry
        if len(paths) < 2:
            raise errors.PublishError(f"Nothing but tfrec.json was written for {part}.")
    release = manifest.Manifest.create(
        content,
        version=staged.version,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        files=files,
    )
    document = manifest.encode(release)
    for part in parts.PARTS:
        getattr(staged, part).rename(root / part / str(staged.version))
        manifest.sync_directory(root / part)
    manifest.write(root, staged.version, document)
    return release


def verify(base: str | os.PathLike[str], version: int) -> manifest.Manifest:
    """Checks that every byte of a release is the one that was published.

    Returns:
        Its manifest.

    Raises:
        BundleNotFoundError: No manifest.
        ManifestCorruptError: The manifest was changed.
        ManifestFormatError: The manifest is of another format version.
        ForeignPartError: A part comes from another training.
        MissingFileError: A listed file is gone.
        CorruptFileError: A file's size or checksum differs.
        UnlistedFileError: A file was added.
    """
    root = pathlib.Path(base)
    release = manifest.read(root, version)
    for part in parts.PARTS:
        parts.check_identity(part, root / part / str(version), version, release)
    parts.in_threads(
        lambda name: parts.check_file(root, name, release.files[name]), list(release.files)
    )
    for part in parts.PARTS:
        for path in parts.files_under(root / part / str(version)):
            name = path.relative_to(root).as_posix()
            if name not in release.files:
                raise errors.UnlistedFileError(
                    f"{name} is not listed in manifests/{version}.json. Remove the file, or "
                    "export the bundle again."
                )
    return release


def load(base: str | os.PathLike[str], version: int | None = None) -> Bundle:
    """Verifies a release, opens its query tower and index, and lets them reproduce the probes.

    The ranker is behind a server; `orchestrator.Orchestrator` checks its probes there. The ad
    tower is loaded, and checked, when a `live_index.LiveIndex` is first updated.

    Args:
        base: Base directory.
        version: None = the latest.

    Raises:
        BundleError: As in `verify`, or ProbeMismatchError: the probes do not reproduce.
    """
    root = pathlib.Path(base)
    release = verify(root, latest(root) if version is None else version)
    number = str(release.version)
    tower = query_tower.QueryTower.load(root / "query_tower" / number, release.query_fields)
    index = ad_index.AdIndex.open(root / "ad_index" / number)
    probes.check_retrieval(release, tower, index)
    return Bundle(base=root, manifest=release, query_tower=tower, ad_index=index)


def _used_versions(root: pathlib.Path) -> set[int]:
    names = (path.name for part in parts.PARTS for path in (root / part).glob("*"))
    return {int(name) for name in names if name.isdecimal()} | set(versions(root))


def _remove_leftovers(root: pathlib.Path) -> None:
    published = {str(version) for version in versions(root)}
    for part in parts.PARTS:
        for path in (root / part).glob("*"):
            unfinished = path.name.isdecimal() and path.name not in published
            if unfinished or path.name.startswith(_STAGING):
                shutil.rmtree(path)
    for path in (root / "manifests").glob(".*"):
        path.unlink()


@contextlib.contextmanager
def _lock(root: pathlib.Path) -> Iterator[None]:
    # flock: the system releases it when the publisher is killed.
    with open(root / ".publish.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise errors.PublishError(
                f"Another publish into {root} is running. Try again when it has ended."
            ) from error
        yield
