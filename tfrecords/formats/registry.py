"""The formats by name."""

import difflib
import importlib
from types import ModuleType

_MODULES = {
    "criteo_kaggle": "criteo",
    "criteo_1tb": "criteo",
    "criteo": "criteo",
    "criteo_attribution": "attribution",
    "outbrain": "outbrain",
    "avazu": "avazu",
    "tabular": "tabular",
}
NAMES = tuple(_MODULES)


def named(name: str) -> ModuleType:
    """Returns the module of a format; `formats.log` says what it offers.

    Raises:
        ValueError: There is no such format.
    """
    if name not in _MODULES:
        close = difflib.get_close_matches(name, NAMES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"Unknown --format {name!r}; known: {', '.join(NAMES)}.{hint}")
    return importlib.import_module(f"tfrecords.formats.{_MODULES[name]}")
