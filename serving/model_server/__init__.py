"""TensorFlow Serving's protocol in an embedded server, for development and tests.

The names load on first use, so that `python -m serving.model_server` can set the process up before
TensorFlow and NumPy are imported.
"""

from typing import TYPE_CHECKING

from tfrecords import faces

if TYPE_CHECKING:
    from serving.model_server.models.servable import Servable
    from serving.model_server.operations.operations import run_predict
    from serving.model_server.server import ModelServer

__all__ = ["ModelServer", "Servable", "run_predict"]

__getattr__ = faces.lazily(
    __name__,
    {
        ".server": ["ModelServer"],
        ".models.servable": ["Servable"],
        ".operations.operations": ["run_predict"],
    },
)
