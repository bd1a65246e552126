"""TensorFlow Serving's protocol in an embedded server, for development and tests.

The names load on first use, so that `python -m serving.model_server` can set the process up before
TensorFlow and NumPy are imported.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.model_server.operations import run_predict
    from serving.model_server.servable import Servable
    from serving.model_server.server import ModelServer

__all__ = ["ModelServer", "Servable", "run_predict"]
_MODULES = {
    "ModelServer": "server",
    "Servable": "servable",
    "run_predict": "operations",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
