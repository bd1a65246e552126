"""TensorFlow Serving's protocol for a laptop and for tests; production runs the real one."""

from serving.model_server.command.command import prefer_bfloat16
from serving.model_server.models.model_config import config_from_base_paths
from serving.model_server.models.servable import Servable, session_config
from serving.model_server.operations.operations import run_predict
from serving.model_server.server import ModelServer
from serving.model_server.tensor_codec import encode_tensor

__all__ = [
    "ModelServer",
    "Servable",
    "config_from_base_paths",
    "encode_tensor",
    "prefer_bfloat16",
    "run_predict",
    "session_config",
]
