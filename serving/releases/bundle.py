"""Release bundles: verify version N, and load it. `publishing` makes them.

base/query_tower/N/   base/ad_tower/N/   base/ad_index/N/   base/ranker/N/
base/manifests/N.json, the commit point       base/releases.json, which one is stable
"""

import dataclasses
import os
import pathlib

from serving import errors, manifest
from serving.index import AdIndex
from serving.releases import in_use, parts, probes, publishing, query_tower
from serving.releases.pointer import read_pointer

Staged = publishing.Staged
publish = publishing.publish
versions = manifest.versions


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A verified release, ready to answer; `close` it when it is no longer used."""

    base: pathlib.Path
    manifest: manifest.Manifest
    query_tower: query_tower.QueryTower
    ad_index: AdIndex
    lease: in_use.Lease

    def close(self) -> None:
        """Lets the release be pruned; its memory is freed with the last reference to it."""
        self.lease.close()

    @property
    def version(self) -> int:
        """The release's version, which requests to the ranker pin."""
        return self.manifest.version


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


def stable(base: str | os.PathLike[str]) -> int:
    """Returns the version that requests are answered by: as `releases.json` says, or the latest.

    Raises:
        BundleNotFoundError: None is published.
        ReleasesFileError: The file cannot be read.
    """
    pointer = read_pointer(pathlib.Path(base))
    return latest(base) if pointer is None else pointer.stable


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
    tower is loaded, and checked, when a `live.LiveIndex` is first updated.

    Args:
        base: Base directory.
        version: None = the stable one.

    Raises:
        BundleError: As in `verify`, or ProbeMismatchError: the probes do not reproduce.
    """
    root = pathlib.Path(base)
    version = stable(root) if version is None else version
    held = in_use.hold(root, version)
    try:
        release = verify(root, version)
        tower = query_tower.QueryTower.load(
            root / "query_tower" / str(version), release.query_fields
        )
        index = AdIndex.open(root / "ad_index" / str(version))
        probes.check_retrieval(release, tower, index)
    except BaseException:
        held.close()
        raise
    return Bundle(base=root, manifest=release, query_tower=tower, ad_index=index, lease=held)
