"""Options of a model server, named like TensorFlow Serving's flags."""

import dataclasses
import os

from tensorflow.core.protobuf import config_pb2

_DEFAULT_THREADS = 4 * (os.cpu_count() or 1)
PROMETHEUS_PATH = "/monitoring/prometheus/metrics"


@dataclasses.dataclass(frozen=True)
class ServerOptions:
    """Options of a model server.

    Attributes:
        enable_serialization_as_tensor_content: Whether replies fill `tensor_content`.
        enable_grpc_healthcheck_service: Whether to serve the gRPC health check.
        enable_signature_method_name_check: Whether Classify and Regress accept only signatures
            whose `method_name` fits.
        enable_model_warmup: Whether recorded requests run before a version serves.
        num_request_iterations_for_warmup: Number of runs of each recorded request.
        allow_version_labels_for_unavailable_models: Whether a new label may name a version that
            is not loaded. A configuration with labels needs it at the start.
        max_num_load_retries: Number of retries of a failed load.
        load_retry_seconds: Time between two tries.
        grpc_max_threads: Maximum number of gRPC requests that run at once.
        grpc_socket_path: UNIX socket that also serves gRPC; empty for none.
        grpc_channel_arguments: Further options of the gRPC server, by name.
        ssl_config_file: Text-format SSLConfig for gRPC; empty for plain text.
        rest_api_num_threads: Maximum number of REST requests that run at once.
        rest_api_timeout_seconds: Time after which a REST request is answered by 504; infinity
            for no limit.
        rest_api_enable_cors_support: Whether pages of other origins may read REST replies.
        prometheus_path: Path of the metrics on the REST port; None for no metrics.
        model_config_file: Text-format ModelServerConfig that is read again every
            `model_config_file_poll_wait_seconds`.
        model_config_file_poll_wait_seconds: Time between two reads; 0 reads only at the start.
        saved_model_tags: Tags of the graphs to load from the SavedModels.
        session_config: Threads and devices of each model's session; None is one thread, the
            request's own.
    """

    enable_serialization_as_tensor_content: bool = False
    enable_grpc_healthcheck_service: bool = False
    enable_signature_method_name_check: bool = False
    enable_model_warmup: bool = True
    num_request_iterations_for_warmup: int = 1
    allow_version_labels_for_unavailable_models: bool = False
    max_num_load_retries: int = 5
    load_retry_seconds: float = 60.0
    grpc_max_threads: int = _DEFAULT_THREADS
    grpc_socket_path: str = ""
    grpc_channel_arguments: tuple[tuple[str, int | str], ...] = ()
    ssl_config_file: str = ""
    rest_api_num_threads: int = _DEFAULT_THREADS
    rest_api_timeout_seconds: float = 30.0
    rest_api_enable_cors_support: bool = False
    prometheus_path: str | None = None
    model_config_file: str | None = None
    model_config_file_poll_wait_seconds: float = 0.0
    saved_model_tags: tuple[str, ...] = ("serve",)
    session_config: config_pb2.ConfigProto | None = None
