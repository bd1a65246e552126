"""Directories that the workers of a run share: the first worker that needs one builds it."""

import fcntl
import os
import pathlib
import shutil
from collections.abc import Callable

import pytest


def directory(
    factory: pytest.TempPathFactory, name: str, build: Callable[[pathlib.Path], object]
) -> pathlib.Path:
    """Returns a directory that `build` has filled in this worker or in another one.

    The other workers wait until it is complete. It is read only: copy it to change it. Its path
    stays the same, so the files that `build` writes may contain it.

    Args:
        factory: pytest's `tmp_path_factory`.
        name: Name of the directory, unique among the fixtures.
        build: Fills the empty directory that it is called with.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    path, whole = root / "shared" / name, root / "shared" / f"{name}.whole"
    path.parent.mkdir(exist_ok=True)
    with open(path.with_name(f"{name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
            build(path)
            whole.touch()
    return path
