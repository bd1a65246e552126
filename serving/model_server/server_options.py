"""What may differ from one model server to another; named as TensorFlow Serving's flags."""

import dataclasses
import os

from tensorflow.core.protobuf import config_pb2

from serving.model_server.batching import batching_options

_DEFAULT_THREADS = 4 * (os.cpu_count() or 1)
PROMETHEUS_PATH = "/monitoring/prometheus/metrics"


@dataclasses.dataclass(frozen=True)
class ServerOptions:
    """See the module.

    Attributes:
        enable_serialization_as_tensor_content: whether replies carry `tensor_content`.
        enable_grpc_healthcheck_service: whether the gRPC health check is answered.
        enable_profiler: whether TensorFlow's profiler service is answered.
        enable_signature_method_name_check: whether Classify and Regress take only signatures
            that name their method.
        enable_model_warmup: whether recorded requests run before a version serves.
        num_request_iterations_for_warmup: how often each of them runs.
        allow_version_labels_for_unavailable_models: whether a label that is new may name a
            version that is not loaded, as it must in a configuration given at the start.
        max_num_load_retries: how often a failed load is repeated.
        load_retry_seconds: the time between two tries.
        grpc_max_threads: how many gRPC requests run at once.
        grpc_socket_path: a UNIX socket that gRPC is answered on too; none if empty.
        grpc_channel_arguments: further options of the gRPC server, by name.
        ssl_config_file: a text-format SSLConfig for gRPC; plain text if empty.
        rest_api_num_threads: how many REST requests run at once.
        rest_api_timeout_seconds: after this time a REST request is answered by 504; infinity for
            never.
        rest_api_enable_cors_support: whether REST replies let pages of other sites read them.
        prometheus_path: the path of the metrics on the REST port; None for no metrics.
        model_config_file: a text-format ModelServerConfig that is read again every
            `model_config_file_poll_wait_seconds` (0 = never).
        model_config_file_poll_wait_seconds: see `model_config_file`.
        saved_model_tags: which graphs of the SavedModels to load.
        tflite_interpreters: how many requests run at once on a model's `model.tflite`, which
            is preferred to its SavedModel; 0 to load SavedModels alone.
        session_config: threads and devices of each model's session; None is one thread, the
            request's own.
        batching: how requests are put together into batches; None for each alone.
        enable_per_model_batching_parameters: whether a model's own `batching_params.pbtxt`
            replaces `batching` for it, and a model without one runs each request alone.
    """

    enable_serialization_as_tensor_content: bool = False
    enable_grpc_healthcheck_service: bool = False
    enable_profiler: bool = True
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
    tflite_interpreters: int = 0
    session_config: config_pb2.ConfigProto | None = None
    batching: batching_options.BatchingOptions | None = None
    enable_per_model_batching_parameters: bool = False
