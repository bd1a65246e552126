"""Options of a model server, named like TensorFlow Serving's flags."""

import dataclasses
import os

from tensorflow.core.protobuf import config_pb2

from serving.config import option

PROMETHEUS_PATH = "/monitoring/prometheus/metrics"
_DEFAULT_THREADS = 4 * (os.cpu_count() or 1)


@dataclasses.dataclass(frozen=True)
class ServerOptions:
    """Options of a model server.

    The options with a help text are flags of the command as well.

    Attributes:
        load_retry_seconds: Time between attempts to load a version.
        grpc_channel_arguments: Further options of the gRPC server, by name.
        rest_api_timeout_seconds: Time after which a REST request gets status 504; infinity
            for no limit.
        prometheus_path: Path of the metrics on the REST port; None for no metrics.
        session_config: Threads and devices of each model's session; None is one thread, the
            request's own.
    """

    enable_serialization_as_tensor_content: bool = option(
        False, "Send tensors as tensor_content instead of typed fields such as float_val."
    )
    enable_grpc_healthcheck_service: bool = option(False, "Serve grpc.health.v1.Health.")
    enable_model_warmup: bool = option(
        True, "Replay assets.extra/tf_serving_warmup_requests before a version serves."
    )
    allow_version_labels_for_unavailable_models: bool = option(
        False,
        "Let a new label name a version that is not loaded; labels in --model_config_file need it "
        "at the start.",
    )
    max_num_load_retries: int = option(5, "Number of retries of a failed load.", minimum=0)
    grpc_max_threads: int = option(
        _DEFAULT_THREADS,
        "Maximum number of gRPC requests that run at once; others are refused "
        "(RESOURCE_EXHAUSTED).",
        minimum=1,
    )
    grpc_socket_path: str = option("", "UNIX socket for gRPC, in addition to the port.")
    rest_api_num_threads: int = option(
        _DEFAULT_THREADS, "Maximum number of REST requests that run at once.", minimum=1
    )
    model_config_file: str = option(
        "", "Text-format ModelServerConfig: several models, version policies, version labels."
    )
    model_config_file_poll_wait_seconds: float = option(
        0,
        "Seconds between two reads of --model_config_file; 0 reads it only at the start.",
        minimum=0,
    )
    max_request_bytes: int = option(
        32 * 2**20,
        "Maximum size of a request in bytes, uncompressed. TensorFlow Serving has no such flag.",
        minimum=1,
    )
    max_input_elements: int = option(
        2**23,
        "Maximum number of elements of an input. TensorFlow Serving has no such flag.",
        minimum=1,
    )
    max_input_rows: int = option(
        2**17,
        "Maximum number of rows of an input: the product of the dimensions that its signature "
        "leaves open, such as requests and candidates. TensorFlow Serving has no such flag.",
        minimum=1,
    )
    load_retry_seconds: float = 60.0
    grpc_channel_arguments: tuple[tuple[str, int | str], ...] = ()
    rest_api_timeout_seconds: float = 30.0
    prometheus_path: str | None = None
    session_config: config_pb2.ConfigProto | None = None


# Options that are flags of the same name and meaning.
FLAGS = {field.name: field for field in dataclasses.fields(ServerOptions) if field.metadata}
