"""Copies a release to another base directory, as the next version there."""

import contextlib
import dataclasses
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

from serving import errors, manifest
from serving.releases import bundle, parts, publishing

Gate = Callable[[pathlib.Path, bundle.Bundle], dict[str, Any]]


def copy_release(
    source: pathlib.Path,
    version: int | None,
    base: pathlib.Path,
    *,
    gate: Gate | None = None,
    wait_seconds: float = 0.0,
) -> manifest.Manifest:
    """Loads and verifies a release, and copies it.

    Args:
        source: Base directory of the release.
        version: Release version in `source`. None copies the stable release.
        base: Base directory of the copy. Created if it does not exist.
        gate: Called with `base` and the release. Returns the decision, which replaces the one of
            `source` in the metrics of the copy, or raises an error to reject the release.
        wait_seconds: Maximum time to wait for another publish to end.

    Returns:
        The manifest of the copy.

    Raises:
        BundleError: The release is damaged, rejected by the gate, in Milvus, or cannot be written.
    """
    with contextlib.closing(bundle.load(source, version)) as release:
        if release.manifest.index.get("milvus"):
            raise errors.PublishError(
                f"Release {release.version} of {source} has its ads in Milvus, where a collection "
                "belongs to one release. Serve it from its base directory, or export into "
                f"{base}."
            )
        content = release.manifest
        if gate is not None:
            metrics = {**content.metrics, "gate": gate(base, release)}
            content = dataclasses.replace(content, metrics=metrics)

        def write(staged: publishing.Staged) -> manifest.Content:
            _copy_parts(release, staged)
            return content

        return publishing.publish(base, write, wait_seconds=wait_seconds)


def _copy_parts(release: bundle.Bundle, staged: publishing.Staged) -> None:
    for part in release.manifest.parts:
        target: pathlib.Path = getattr(staged, part)
        try:
            shutil.copytree(release.base / part / str(release.version), target, dirs_exist_ok=True)
        except shutil.Error as error:
            # It lists one error per file; the first is enough.
            raise OSError(error.args[0][0][2]) from error
        for path in parts.files_under(target):
            name = f"{part}/{release.version}/{path.relative_to(target).as_posix()}"
            if release.manifest.files[name] != parts.describe(path):
                raise errors.BundleError(f"{name} changed while it was copied. Try again.")
