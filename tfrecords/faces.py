"""Faces of packages whose names are loaded on first use, as far as they are slow to import."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazily(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Returns the `__getattr__` of a package that loads names on first use (PEP 562).

    Args:
        package: `__name__` of the package.
        modules: Module -> names that it has; a relative one, such as `.local_client`, is inside the
            package.
    """
    sources = {name: module for module, names in modules.items() for name in names}

    def load(name: str) -> Any:
        if name not in sources:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(sources[name], package), name)

    return load
