"""Keeps the list of versions that a model server serves in sync with the releases.

Maintains the file that the server polls (`--model_config_file`). It names the stable release, the
canary, and earlier releases while a process has them loaded, because its requests pin them.
"""

import logging
import pathlib
import threading
from collections.abc import Collection, Iterable, Sequence
from typing import Self

from serving import errors, manifest, model_config
from serving.releases import bundle, in_use
from tfrecords import files

_logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5


def versions_without_ranker(base: pathlib.Path, versions: Iterable[int]) -> tuple[int, ...]:
    """Returns the versions whose release has no ranker, ascending.

    Args:
        base: Base directory of the bundles.
        versions: Release versions.
    """
    return tuple(sorted(v for v in versions if not (base / "ranker" / str(v)).is_dir()))


def is_held(base: pathlib.Path, version: int, served: Collection[int]) -> bool:
    """Returns whether a release must stay served because a process may have it loaded.

    Args:
        base: Base directory of the bundles.
        version: Release version.
        served: Versions that are served now; they may be in use where no locks show it.
    """
    is_loaded = in_use.is_in_use(base, version)
    return version in served if is_loaded is None else is_loaded


class ServedVersions:
    """Writes the model config file, and keeps it up to date in a `with` block.

    Args:
        base: Base directory of the bundles.
        models: Parts of a release to serve, such as `ranker`.
        path: Path of the model config file, which is replaced atomically.
        only: The only version to serve. None follows the releases of the base directory.
    """

    def __init__(
        self,
        base: pathlib.Path,
        models: Sequence[str],
        path: pathlib.Path,
        only: int | None = None,
    ) -> None:
        self._base = base.resolve()
        self._models = models
        self._path = path
        self._only = only
        self._written: list[int] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="served-versions", daemon=True)
        self.update()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def update(self) -> None:
        """Writes the file if the versions to serve have changed, or if it is gone.

        Raises:
            BundleError: The stable release is not published, or `releases.json` cannot be read.
            OSError: The file cannot be written.
        """
        versions = [self._only] if self._only is not None else self._versions_to_serve()
        if not versions:
            raise errors.BundleError(
                f"{self._base} has no manifest of the release to serve. Restore it, or promote "
                "another release."
            )
        # A host may delete files below /tmp that are some days old, and then their directory.
        if versions != self._written or not self._path.is_file():
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            served = model_config.ServedReleases(
                tuple(versions), {}, versions_without_ranker(self._base, versions)
            )
            text = model_config.config_text(str(self._base), self._models, served)
            files.write(self._path, text, durable=True)
            self._written = versions

    def _versions_to_serve(self) -> list[int]:
        pointer = bundle.current_pointer(self._base)
        named = {pointer.stable, pointer.canary}
        published = manifest.versions(self._base)
        # After the first write, a process that only inspects another release must not make the
        # server load it. The previous release counts: a process falls back to it if the stable
        # release is refused.
        served = {*(self._written or published), *pointer.previous[:1]}
        return [
            version
            for version in published
            if version in named
            or (version in served and is_held(self._base, version, self._written))
        ]

    def _follow(self) -> None:
        problem = None
        while not self._stopping.wait(POLL_SECONDS):
            try:
                self.update()
            except Exception as error:  # Later promotions must be followed.
                if str(error) != problem:
                    _logger.warning("The versions of the model server were not updated: %s", error)
                problem = str(error)
            else:
                problem = None
