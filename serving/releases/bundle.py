"""Release bundles: verifies and loads version N. `publishing` creates them.

base/query_tower/N/   base/ad_tower/N/   base/ad_index/N/   base/ranker/N/
base/manifests/N.json: commit point           base/releases.json: the stable version
"""

import contextlib
import dataclasses
import os
import pathlib

from serving import errors, manifest
from serving.index import AdIndex
from serving.releases import in_use, models, parts, probes
from serving.releases.pointer import Pointer, read_pointer


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A verified release, ready to serve. Close it when it is no longer used."""

    base: pathlib.Path
    manifest: manifest.Manifest
    query_tower: models.QueryTower
    ad_index: AdIndex
    held: contextlib.ExitStack

    def close(self) -> None:
        """Allows the release to be pruned. Its memory is freed with the last reference."""
        self.ad_index.searcher.close()
        self.held.close()

    @property
    def version(self) -> int:
        """Release version, pinned in requests to the ranker."""
        return self.manifest.version


def latest(base: str | os.PathLike[str]) -> int:
    """Returns the highest published version.

    Raises:
        BundleNotFoundError: No release is published.
    """
    published = manifest.versions(base)
    if not published:
        raise errors.BundleNotFoundError(
            f"{base} has no published bundle: there is no manifests/N.json. Check the path, "
            "or run tfrec export first."
        )
    return published[-1]


def current_pointer(base: str | os.PathLike[str]) -> Pointer:
    """Returns the content of `releases.json`; without the file, the latest release is stable.

    Raises:
        BundleNotFoundError: No release is published.
        ReleasesFileError: `releases.json` cannot be read.
    """
    pointer = read_pointer(pathlib.Path(base))
    if pointer is not None:
        return pointer
    newest = latest(base)
    earlier = [version for version in manifest.versions(base) if version < newest]
    return Pointer(newest, previous=tuple(reversed(earlier)))


def stable(base: str | os.PathLike[str]) -> int:
    """Returns the stable version; raises the same errors as `current_pointer`."""
    return current_pointer(base).stable


def verify(base: str | os.PathLike[str], version: int) -> manifest.Manifest:
    """Checks that a release is byte for byte as published, and returns its manifest."""
    root = pathlib.Path(base)
    release = manifest.read(root, version)
    parts.in_threads(
        lambda name: parts.check_file(root, name, release.files[name]), list(release.files)
    )
    for part in manifest.PARTS:
        for path in parts.files_under(root / part / str(version)):
            name = path.relative_to(root).as_posix()
            if name not in release.files:
                raise errors.BundleError(
                    f"{name} is not listed in manifests/{version}.json. Remove the file, or "
                    "export the bundle again."
                )
    return release


def load(base: str | os.PathLike[str], version: int | None = None) -> Bundle:
    """Verifies a release, loads its query tower and index, and checks them with the probes.

    The ranker runs in a model server, where `orchestrator.Orchestrator` checks it. The ad tower
    is loaded and checked at the first update of a `live.LiveIndex`.

    Args:
        base: Base directory of the bundles.
        version: Release version. None loads the stable release.

    Raises:
        ValueError: The version is not a whole number.
        BundleError: The release is not published, is damaged, cannot be read, or does not reproduce
            its probes.
        IndexUnavailableError: The index is in Milvus, which does not answer.
    """
    if not isinstance(version, int | None):
        raise ValueError(f"version: expected a whole number or None, got {version!r}.")
    root = pathlib.Path(base)
    version = stable(root) if version is None else version
    held = in_use.hold(root, version)
    try:
        release = verify(root, version)
        tower = models.QueryTower(root / "query_tower" / str(version), release.query_fields)
        index = AdIndex.open(root / "ad_index" / str(version), release.index)
        probes.check_retrieval(release, tower, index)
    except BaseException as error:
        held.close()
        if isinstance(error, OSError):
            raise errors.BundleError(
                f"Release {version} of {root} cannot be read: {error}. Check the disk and the "
                "permissions, or restore the file."
            ) from error
        raise
    return Bundle(base=root, manifest=release, query_tower=tower, ad_index=index, held=held)
