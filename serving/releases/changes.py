"""Promotes, rolls back, canaries, lists and prunes the releases of a base directory.

Each change replaces `releases.json` or unlinks a manifest, so it is atomic. `pointer`
describes the file, and `publishing` creates releases.
"""

import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from serving import errors, index, manifest
from serving.releases import bundle, publishing
from serving.releases.in_use import is_in_use, locked_if_unused
from serving.releases.pointer import Pointer, write_pointer
from tfrecords import files

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ReleaseChange:
    """Result of a promotion, a rollback or a canary change.

    Attributes:
        before: Pointer before the change; None if `releases.json` could not be read.
        after: Pointer after the change.
    """

    before: Pointer | None
    after: Pointer


@dataclasses.dataclass(frozen=True)
class PrunedReleases:
    """Result of a prune.

    Attributes:
        removed: Versions that were removed.
        in_use: Old versions that were kept because a process has them loaded.
    """

    removed: tuple[int, ...]
    in_use: tuple[int, ...]


def promote(base: pathlib.Path, version: int, wait_seconds: float = 0.0) -> ReleaseChange:
    """Makes a release the stable one, and ends a canary of the same version.

    The release is loaded first, which verifies its files, its query tower and its index.

    Args:
        base: Base directory of the bundles.
        version: Release version.
        wait_seconds: Maximum time to wait for another change to end.

    Raises:
        BundleError: The release is not published, or is damaged. The stable release is unchanged.
        PublishError: Another change is running, or `releases.json` cannot be written.
    """

    def promoted(before: Pointer | None) -> Pointer:
        bundle.load(base, version).close()
        if before is None:
            return Pointer(version)
        earlier = [old for old in (before.stable, *before.previous) if old != version]
        return dataclasses.replace(
            _without_canary(before) if before.canary == version else before,
            stable=version,
            previous=tuple(dict.fromkeys(earlier)),
        )

    return _changed(base, promoted, wait_seconds, repairs=True)


def roll_back(base: pathlib.Path, wait_seconds: float = 0.0) -> ReleaseChange:
    """Makes the previous stable release stable again, and ends a canary.

    Skips releases that have been pruned.

    Args:
        base: Base directory of the bundles.
        wait_seconds: Maximum time to wait for another change to end.

    Raises:
        BundleNotFoundError: There is no previous release.
        BundleError: The previous release is damaged. The stable release is unchanged.
        PublishError: The previous release is the canary, another change is running, or
            `releases.json` cannot be written.
    """

    def rolled_back(before: Pointer) -> Pointer:
        published = manifest.versions(base)
        earlier = _earlier(before, published)
        if not earlier:
            raise errors.BundleNotFoundError(
                f"{base} has no release that was stable before {before.stable}. Published "
                f"releases: {', '.join(map(str, published))}. Promote one of them with "
                "--action=promote --version=N; --action=end_canary stops a canary."
            )
        if earlier[0] == before.canary:
            raise errors.PublishError(
                f"The release before {before.stable} is {earlier[0]}, which is the canary: a "
                "rollback would give it all requests. To stop it, use --action=end_canary; to "
                f"serve it, --action=promote --version={earlier[0]}."
            )
        bundle.load(base, earlier[0]).close()
        return Pointer(earlier[0], previous=tuple(earlier[1:]))

    return _changed(base, rolled_back, wait_seconds)


def start_canary(
    base: pathlib.Path, version: int, share: float, wait_seconds: float = 0.0
) -> ReleaseChange:
    """Routes a share of the requests, and those that name the canary, to a release.

    Args:
        base: Base directory of the bundles.
        version: Release version of the canary.
        share: Share of the requests, in [0, 1].
        wait_seconds: Maximum time to wait for another change to end.

    Raises:
        ValueError: The share is not in [0, 1].
        BundleError: The release is not published, or is damaged.
        PublishError: The release is the stable one, another change is running, or `releases.json`
            cannot be written.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share: expected a number from 0 to 1, got {share}.")

    def with_canary(before: Pointer) -> Pointer:
        if version == before.stable:
            raise errors.PublishError(
                f"Release {version} is already stable; expected a different release as canary. "
                "Promote the release that should be stable first."
            )
        bundle.load(base, version).close()
        return dataclasses.replace(before, canary=version, share=share)

    return _changed(base, with_canary, wait_seconds)


def end_canary(base: pathlib.Path, wait_seconds: float = 0.0) -> ReleaseChange:
    """Routes all requests to the stable release again.

    Args:
        base: Base directory of the bundles.
        wait_seconds: Maximum time to wait for another change to end.

    Raises:
        PublishError: Another change is running, or `releases.json` cannot be written.
    """
    return _changed(base, _without_canary, wait_seconds)


def prune(base: pathlib.Path, keep: int, wait_seconds: float = 0.0) -> PrunedReleases:
    """Removes old releases with their live updates, and leftovers of interrupted changes.

    The stable release, the one that a rollback goes to, the canary and releases that a process has
    loaded are kept.

    Args:
        base: Base directory of the bundles.
        keep: Number of the newest releases to keep, at least 1.
        wait_seconds: Maximum time to wait for another change or publish to end.

    Raises:
        ValueError: `keep` is less than 1.
        PublishError: Another change or a publish is running.
        IndexUnavailableError: Milvus does not answer. The release with ads in Milvus is kept.
        OSError: The file system does not support the locks that mark releases in use.
    """
    if keep < 1:
        raise ValueError(f"keep: expected at least 1 release, got {keep}.")
    removed: list[int] = []
    in_use: list[int] = []
    # Always in this order: a publish takes only the first lock, other changes only the second.
    with publishing.exclusive(base, wait_seconds), _locked_for_change(base, wait_seconds):
        pointer = bundle.current_pointer(base)
        published = manifest.versions(base)
        named = {pointer.stable, pointer.canary, *_earlier(pointer, published)[:1]}
        for version in published[:-keep]:
            if version not in named:
                (removed if _remove(base, version) else in_use).append(version)
        publishing.remove_leftovers(base)
    return PrunedReleases(tuple(removed), tuple(in_use))


def list_releases(base: pathlib.Path) -> list[dict[str, Any]]:
    """Returns a description of each release, newest first; `problem` if it is damaged or missing.

    A release is missing if `releases.json` names it and it is not published. `in_use` is None if it
    is unknown: without its manifest, without write access, or without locks.

    Raises:
        BundleNotFoundError: No release is published.
        ReleasesFileError: `releases.json` cannot be read.
    """
    pointer = bundle.current_pointer(base)
    roles = {pointer.canary: "canary", pointer.stable: "stable"}
    named = {version for version in roles if version is not None}
    rows = []
    for version in sorted({*manifest.versions(base), *named}, reverse=True):
        row: dict[str, Any] = {
            "version": version,
            "role": roles.get(version),
            "share": pointer.share if version == pointer.canary else None,
            "in_use": is_in_use(base, version),
        }
        try:
            release = manifest.read(base, version)
        except errors.BundleError as error:
            row["problem"] = str(error)
            if isinstance(error, errors.BundleNotFoundError):
                if version not in named:  # It was pruned in the meantime.
                    continue
                # The locks are on the manifest.
                row |= {"problem": f"manifests/{version}.json is missing", "in_use": None}
            rows.append(row)
            continue
        rows.append(
            {
                **row,
                "problem": None,
                "created": release.created,
                "training_id": release.training_id,
                "num_ads": release.index["num_ads"],
                "heads": list(release.present_heads),
                "weak_heads": list(release.weak_heads),
                "bytes": sum(entry["bytes"] for entry in release.files.values()),
                "validation": release.metrics.get("validation"),
                "forced": release.metrics.get("gate", {}).get("forced"),
            }
        )
    return rows


def _locked_for_change(
    base: pathlib.Path, wait_seconds: float
) -> contextlib.AbstractContextManager[None]:
    # Fails early if nothing is published here; the path is probably wrong.
    bundle.latest(base)
    refusal = errors.PublishError(
        f"Another promotion, rollback or prune of {base} is running. Try again later, or set "
        "--wait_seconds to wait for it."
    )
    return files.locked(base / ".releases.lock", wait_seconds, lambda: refusal)


def _changed(
    base: pathlib.Path,
    change: Callable[[Any], Pointer],
    wait_seconds: float,
    repairs: bool = False,
) -> ReleaseChange:
    """Replaces the pointer; a change that `repairs` gets None for an invalid `releases.json`."""
    with _locked_for_change(base, wait_seconds):
        try:
            before = bundle.current_pointer(base)
        except errors.ReleasesFileError:
            if not repairs:
                raise
            before = None
        after = change(before)
        if after != before or repairs:
            write_pointer(base, after)
    return ReleaseChange(before, after)


def _earlier(pointer: Pointer, published: Sequence[int]) -> list[int]:
    """Returns the published releases that were stable before; a rollback goes to the first."""
    return [version for version in pointer.previous if version in published]


def _without_canary(pointer: Pointer) -> Pointer:
    return dataclasses.replace(pointer, canary=None, share=0.0)


def _drop_index(base: pathlib.Path, version: int) -> None:
    """Removes the release's vectors from Milvus, before the manifest that names them."""
    try:
        release = manifest.read(base, version)
    except errors.BundleError as error:
        # A damaged release is removed, too.
        _logger.warning("A collection in Milvus, if release %d has one, stays: %s", version, error)
        return
    index.drop_index(release.index)


def _remove(base: pathlib.Path, version: int) -> bool:
    """Removes a release unless it is in use; returns whether it was removed."""
    with locked_if_unused(base, version) as is_unused:
        if not is_unused:
            return False
        _drop_index(base, version)
        # Without its manifest the release no longer exists, and the rest is a leftover.
        manifest.path_of(base, version).unlink()
        files.sync(base / "manifests")
    for part in reversed(manifest.PARTS):
        directory = base / part / str(version)
        # `prune` logs what cannot be removed.
        with contextlib.suppress(OSError):
            # Renamed first, so that no model server loads a partly deleted version.
            leaving = directory.with_name(f"{publishing.STAGING}{version}-pruned")
            directory.rename(leaving)
            files.remove(leaving)
    with contextlib.suppress(OSError):
        files.remove(base / "live" / str(version))
    return True
