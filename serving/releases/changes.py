"""Promote, roll back, try, list and prune the releases of a base directory.

Each step is one replacement of `releases.json` or one unlinked manifest, so that a kill leaves
the state before or after it. `pointer` describes the file, `publishing` makes releases.
"""

import contextlib
import dataclasses
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

from serving import errors, manifest
from serving.releases import bundle, parts, publishing
from serving.releases.in_use import is_in_use, unused_releases
from serving.releases.pointer import (
    POINTER_FILE,
    Pointer,
    lock_pointer,
    read_pointer,
    write_pointer,
)
from tfrecords import files

_LOCK_REFUSAL = (
    "Another promotion, rollback or prune of {base} is running. Try again when it has ended, or "
    "wait for it with --wait_seconds."
)


@dataclasses.dataclass(frozen=True)
class ReleaseChange:
    """What a step did.

    Attributes:
        before: What requests were answered by.
        after: What they are answered by now.
    """

    before: Pointer
    after: Pointer


@dataclasses.dataclass(frozen=True)
class PrunedReleases:
    """What a prune did.

    Attributes:
        removed: Versions that are gone.
        in_use: Versions that would have gone, but a process has them loaded.
    """

    removed: tuple[int, ...]
    in_use: tuple[int, ...]


def current_pointer(base: pathlib.Path) -> Pointer:
    """Returns what requests are answered by; without a file, the latest release.

    Raises:
        BundleNotFoundError: Nothing is published.
        ReleasesFileError: The file cannot be read.
    """
    pointer = read_pointer(base)
    if pointer is not None:
        return pointer
    latest = bundle.latest(base)
    earlier = [version for version in manifest.versions(base) if version != latest]
    return Pointer(latest, previous=tuple(reversed(earlier)))


def promote(base: pathlib.Path, version: int, wait_seconds: float = 0.0) -> ReleaseChange:
    """Makes a release the stable one; a canary of the same version ends.

    It is loaded first: its bytes, its query tower and its index have to be as they were published.

    Raises:
        BundleError: It is not published, or refused; what was stable stays.
        PublishError: Another step is running.
    """
    with _changing(base, wait_seconds):
        before = _before(base, version)
        bundle.load(base, version).close()
        earlier = [before.stable, *before.previous]
        after = dataclasses.replace(
            _without_canary(before) if before.canary == version else before,
            stable=version,
            previous=tuple(dict.fromkeys(old for old in earlier if old != version)),
        )
        write_pointer(base, after)
    return ReleaseChange(before, after)


def roll_back(base: pathlib.Path, wait_seconds: float = 0.0) -> ReleaseChange:
    """Makes the release stable that was so before, and ends a canary.

    Releases that have been pruned since are passed over.

    Raises:
        BundleNotFoundError: There is no earlier release.
        BundleError: The earlier release is refused; what was stable stays.
        PublishError: Another step is running.
    """
    with _changing(base, wait_seconds):
        before = current_pointer(base)
        published = manifest.versions(base)
        there = [version for version in before.previous if version in published]
        if not there:
            raise errors.BundleNotFoundError(
                f"No release of {base} was stable before {before.stable}, or it is gone; published "
                f"are {_words(published)}. Name one with --action=promote --version=N."
            )
        bundle.load(base, there[0]).close()
        after = Pointer(there[0], previous=tuple(there[1:]))
        write_pointer(base, after)
    return ReleaseChange(before, after)


def start_canary(
    base: pathlib.Path, version: int, share: float, wait_seconds: float = 0.0
) -> ReleaseChange:
    """Lets a release answer a share of the requests, and those that ask for the canary.

    Raises:
        ValueError: The share is none.
        BundleError: The release is not published, refused, or the stable one.
        PublishError: Another step is running.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share: expected a number from 0 to 1, got {share}.")
    with _changing(base, wait_seconds):
        before = current_pointer(base)
        if version == before.stable:
            raise errors.PublishError(
                f"Release {version} is the stable one already{_why_stable(base)}: a canary is "
                "another. Promote the release that is to stay, then name the canary."
            )
        bundle.load(base, version).close()
        after = dataclasses.replace(before, canary=version, share=share)
        write_pointer(base, after)
    return ReleaseChange(before, after)


def end_canary(base: pathlib.Path, wait_seconds: float = 0.0) -> ReleaseChange:
    """Sends every request to the stable release again.

    Raises:
        PublishError: Another step is running.
    """
    with _changing(base, wait_seconds):
        before = current_pointer(base)
        after = _without_canary(before)
        if before.canary is not None:
            write_pointer(base, after)
    return ReleaseChange(before, after)


def prune(base: pathlib.Path, keep: int, wait_seconds: float = 0.0) -> PrunedReleases:
    """Removes old releases with their updates; and what steps that were cut short left.

    The stable release, the canary and releases that a process has loaded stay.

    Args:
        base: Base directory of the bundles.
        keep: How many of the newest stay whatever they are.
        wait_seconds: How long to wait for another step or publish.

    Raises:
        ValueError: Nothing is to be kept.
        PublishError: Another step or a publish is running.
        OSError: The file system cannot tell which releases are in use.
    """
    if keep < 1:
        raise ValueError(f"keep: expected at least 1 release, got {keep}.")
    removed: list[int] = []
    in_use: list[int] = []
    # Always in this order; a publish takes the first only, the other steps the second only.
    with publishing.exclusive(base, wait_seconds), _changing(base, wait_seconds):
        pointer = current_pointer(base)
        old = manifest.versions(base)[:-keep]
        for version in old:
            if version in (pointer.stable, pointer.canary):
                continue
            (removed if _remove(base, version) else in_use).append(version)
        publishing.remove_leftovers(base)
    return PrunedReleases(tuple(removed), tuple(in_use))


def list_releases(base: pathlib.Path) -> list[dict[str, Any]]:
    """Returns what there is of each release, the newest first; a damaged one says `problem`.

    `in_use` is None where it cannot be told: no right to write, or no locks.

    Raises:
        BundleNotFoundError: Nothing is published.
        ReleasesFileError: `releases.json` cannot be read.
    """
    pointer = current_pointer(base)
    roles = {pointer.canary: "canary", pointer.stable: "stable"}
    rows = []
    for version in reversed(manifest.versions(base)):
        row: dict[str, Any] = {
            "version": version,
            "role": roles.get(version),
            "share": pointer.share if version == pointer.canary else None,
            "in_use": _is_in_use(base, version),
        }
        try:
            release = manifest.read(base, version)
        except errors.BundleError as error:
            rows.append({**row, "problem": str(error)})
            continue
        rows.append(
            {
                **row,
                "problem": None,
                "created": release.created,
                "training_id": release.training_id,
                "num_ads": release.index["num_ads"],
                "heads": list(release.present_heads),
                "bytes": sum(entry["bytes"] for entry in release.files.values()),
                "validation": release.metrics.get("validation"),
                "forced": release.metrics.get("gate", {}).get("forced"),
            }
        )
    return rows


@contextlib.contextmanager
def _changing(base: pathlib.Path, wait_seconds: float) -> Iterator[None]:
    # Not in a directory that holds nothing: it may be a slip of the pen.
    bundle.latest(base)
    refusal = _LOCK_REFUSAL.format(base=base)
    with lock_pointer(base / ".releases.lock", wait_seconds, refusal):
        yield


def _before(base: pathlib.Path, version: int) -> Pointer:
    """Returns the current state; a damaged file is no obstacle to naming a release."""
    try:
        return current_pointer(base)
    except errors.ReleasesFileError:
        return Pointer(version)


def _is_in_use(base: pathlib.Path, version: int) -> bool | None:
    try:
        return is_in_use(base, version)
    except OSError:
        return None


def _without_canary(pointer: Pointer) -> Pointer:
    return dataclasses.replace(pointer, canary=None, share=0.0)


def _why_stable(base: pathlib.Path) -> str:
    if (base / POINTER_FILE).exists():
        return ""
    return f", because it is the latest and there is no {POINTER_FILE}"


def _words(versions: list[int]) -> str:
    return ", ".join(map(str, versions))


def _remove(base: pathlib.Path, version: int) -> bool:
    """Removes a release that nobody uses; returns whether nobody did."""
    with unused_releases(base, version) as is_unused:
        if not is_unused:
            return False
        # Without its manifest it is no release any more, and the rest is a leftover.
        manifest.path_of(base, version).unlink()
        files.sync(base / "manifests")
    for part in reversed(parts.PARTS):
        directory = base / part / str(version)
        if directory.exists():
            # Under another name first, so that no model server loads what is left of it.
            leaving = directory.with_name(f"{publishing.STAGING}{version}-pruned")
            directory.rename(leaving)
            shutil.rmtree(leaving)
    shutil.rmtree(base / "live" / str(version), ignore_errors=True)
    return True
