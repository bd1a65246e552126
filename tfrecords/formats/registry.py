"""The formats by name."""

import importlib
from types import ModuleType

from tfrecords import terminal

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


def format_named(name: str) -> ModuleType:
    """Returns the module of a format; see `protocol`.

    Raises:
        ValueError: The format does not exist.
    """
    if name not in _MODULES:
        hint = terminal.suggestion_for(name, NAMES)
        raise ValueError(f"Unknown --format {name!r}; known: {', '.join(NAMES)}.{hint}")
    return importlib.import_module(f"tfrecords.formats.{_MODULES[name]}")
