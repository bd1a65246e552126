"""Publishes a release of one base directory of bundles in another one, under its next number."""

import pathlib
import shutil
from collections.abc import Callable

from serving import errors, manifest
from serving.releases import bundle, parts, publishing

Gate = Callable[[pathlib.Path, manifest.Manifest], None]


def copy_release(
    source: pathlib.Path,
    version: int | None,
    base: pathlib.Path,
    *,
    gate: Gate | None = None,
    wait_seconds: float = 0.0,
) -> manifest.Manifest:
    """Copies a release; it is loaded first, and the copies are what its manifest says.

    Args:
        source: Base directory that has it.
        version: Its version there; None = the stable one.
        base: Base directory that gets it; made where it does not exist.
        gate: Called with `base` and the release; may refuse it.
        wait_seconds: How long to wait for another publish to end.

    Returns:
        The manifest of the copy.

    Raises:
        BundleError: The release is refused there, by the gate, or cannot be written here.
    """
    release = bundle.load(source, version)
    try:
        if gate is not None:
            gate(base, release.manifest)
        return publishing.publish(
            base, lambda staged: _write(release, staged), wait_seconds=wait_seconds
        )
    finally:
        release.close()


def _write(release: bundle.Bundle, staged: publishing.Staged) -> manifest.Content:
    for part in parts.PARTS:
        target: pathlib.Path = getattr(staged, part)
        try:
            shutil.copytree(release.base / part / str(release.version), target, dirs_exist_ok=True)
        except shutil.Error as error:
            # It collects what went wrong with each file; the first says enough.
            raise OSError(error.args[0][0][2]) from error
        for path in parts.files_under(target):
            name = f"{part}/{release.version}/{path.relative_to(target).as_posix()}"
            if release.manifest.files[name] != parts.describe(path):
                raise errors.CorruptFileError(f"{name} was changed while it was copied. Try again.")
    return release.manifest
