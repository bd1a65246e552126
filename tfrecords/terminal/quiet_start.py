"""Imports TensorFlow quietly and without garbage collections, from any module."""

import contextlib
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from types import ModuleType


def quiet_tensorflow() -> None:
    """Captures the log of TensorFlow's first import, and shows it only if the import fails.

    TensorFlow writes to standard error before it reads any logging setting. Set
    `TF_CPP_MIN_LOG_LEVEL=0` in the environment to show everything.

    Imported objects live as long as the process, so the garbage collector does not visit them
    during the import or later: a command starts a third faster, and ends faster.
    """
    # Errors that level 3 suppresses are also raised as Python exceptions.
    level = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "tensorflow" not in sys.modules and level != "0":
        sys.meta_path.insert(0, _QuietFinder())


class _QuietFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Runs the first import of TensorFlow with standard error captured."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        self._loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._loader
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            with _captured_stderr(), _without_keras():
                self._loader.exec_module(module)
            gc.freeze()
        finally:
            if was_enabled:
                gc.enable()


@contextlib.contextmanager
def _without_keras() -> Iterator[None]:
    """Keeps the import of TensorFlow from importing Keras; `tf.keras` imports it on first use.

    A process that only runs SavedModels never uses it, and starts a third to a half faster.
    """
    optimizers = {f"{name}.src.optimizers" for name in ("keras", "tf_keras")} - sys.modules.keys()
    # TensorFlow ignores that these modules cannot be imported.
    sys.modules.update(dict.fromkeys(optimizers))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in optimizers:
            del sys.modules[name]


@contextlib.contextmanager
def _captured_stderr() -> Iterator[None]:
    """Captures standard error of the process, and shows it only if the block raises."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with tempfile.TemporaryFile() as captured:
            os.dup2(captured.fileno(), 2)
            try:
                yield
            except BaseException:
                os.dup2(saved, 2)
                captured.seek(0)
                sys.stderr.write(captured.read().decode(errors="replace"))
                raise
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
