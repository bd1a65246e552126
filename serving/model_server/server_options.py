"""Options of a model server, named like TensorFlow Serving's flags."""

import dataclasses
import os
from typing import Any

from tensorflow.core.protobuf import config_pb2

PROMETHEUS_PATH = "/monitoring/prometheus/metrics"
_DEFAULT_THREADS = 4 * (os.cpu_count() or 1)


def _flag(default: Any, help_text: str, minimum: int | None = None) -> Any:
    """Returns an option that is also a flag of the command, with this default and help."""
    return dataclasses.field(default=default, metadata={"help": help_text, "minimum": minimum})


@dataclasses.dataclass(frozen=True)
class ServerOptions:
    """Options of a model server.

    The options with a help text are flags of the command as well.

    Attributes:
        load_retry_seconds: Time between two tries to load a version.
        grpc_channel_arguments: Further options of the gRPC server, by name.
        rest_api_timeout_seconds: Time after which a REST request is answered by 504; infinity
            for no limit.
        prometheus_path: Path of the metrics on the REST port; None for no metrics.
        session_config: Threads and devices of each model's session; None is one thread, the
            request's own.
    """

    enable_serialization_as_tensor_content: bool = _flag(
        False, "Send tensors as tensor_content instead of typed fields such as float_val."
    )
    enable_grpc_healthcheck_service: bool = _flag(False, "Serve grpc.health.v1.Health.")
    enable_model_warmup: bool = _flag(
        True, "Replay assets.extra/tf_serving_warmup_requests before a version serves."
    )
    allow_version_labels_for_unavailable_models: bool = _flag(
        False,
        "Let a new label name a version that is not loaded; labels in --model_config_file need it "
        "at the start.",
    )
    max_num_load_retries: int = _flag(5, "Number of retries of a failed load.", 0)
    grpc_max_threads: int = _flag(
        _DEFAULT_THREADS,
        "Maximum number of gRPC requests that run at once; others are refused "
        "(RESOURCE_EXHAUSTED).",
        1,
    )
    grpc_socket_path: str = _flag("", "UNIX socket for gRPC, in addition to the port.")
    rest_api_num_threads: int = _flag(
        _DEFAULT_THREADS, "Maximum number of REST requests that run at once.", 1
    )
    model_config_file: str = _flag(
        "", "Text-format ModelServerConfig: several models, version policies, version labels."
    )
    model_config_file_poll_wait_seconds: float = _flag(
        0, "Seconds between two reads of --model_config_file; 0 reads it only at the start.", 0
    )
    max_request_bytes: int = _flag(
        32 * 2**20,
        "Maximum size of a request in bytes, uncompressed. TensorFlow Serving has no such flag.",
        1,
    )
    max_input_elements: int = _flag(
        2**23,
        "Maximum number of elements of an input. TensorFlow Serving has no such flag.",
        1,
    )
    max_input_rows: int = _flag(
        2**17,
        "Maximum number of rows of an input: the product of the dimensions that its signature "
        "leaves open, such as requests and candidates. TensorFlow Serving has no such flag.",
        1,
    )
    load_retry_seconds: float = 60.0
    grpc_channel_arguments: tuple[tuple[str, int | str], ...] = ()
    rest_api_timeout_seconds: float = 30.0
    prometheus_path: str | None = None
    session_config: config_pb2.ConfigProto | None = None


# Options that are flags of the same name and meaning.
FLAGS = {field.name: field for field in dataclasses.fields(ServerOptions) if field.metadata}
