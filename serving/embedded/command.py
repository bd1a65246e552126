"""The model server as a command, with the names of TensorFlow Serving's flags.

python -m serving.model_server --model_name=ranker --model_base_path=/bundle/ranker
"""

import gc
import os
import signal
import sys
import threading
from collections.abc import Sequence

from absl import app, flags

from serving import model_server
from serving.embedded import model_config, rpc_status, servable

_DRAIN_SECONDS = 10.0


def run() -> None:
    """Runs the command; does not return."""
    _define_flags()
    app.run(main)


def main(argv: Sequence[str]) -> int:
    """Serves until SIGTERM or SIGINT.

    Returns:
        0 after a stop by signal, 1 if the server could not start.
    """
    values = flags.FLAGS
    if values.bfloat16:
        prefer_bfloat16()
    try:
        if len(argv) > 1:
            raise rpc_status.invalid_argument(f"unknown argument: {argv[1]}")
        server = model_server.ModelServer(
            _models(values),
            port=values.port,
            rest_port=values.rest_api_port or None,
            host=values.host,
            poll_seconds=values.file_system_poll_wait_seconds or None,
            options=_options(values),
        )
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        server.start()
    except (rpc_status.StatusError, model_server.ServerStartError) as error:
        print(f"Failed to start server. Error: {error}", file=sys.stderr)
        return 1
    # TensorFlow's modules are 330,000 objects; each full collection of them stops all requests
    # for 0.15 s.
    gc.collect()
    gc.freeze()
    print(_ready_line(server), flush=True)
    stop.wait()
    server.stop(_DRAIN_SECONDS)
    return 0


def _models(values: flags.FlagValues) -> model_config.ModelServerConfig:
    if values.port == values.rest_api_port:
        raise rpc_status.invalid_argument(
            f"Expected --port and --rest_api_port to differ, got {values.port} for both"
        )
    if values.model_config_file:
        return model_config.read(values.model_config_file)
    if not values.model_base_path:
        raise rpc_status.invalid_argument(
            "Both server_options.model_base_path and server_options.model_config_file are empty! "
            "Give --model_name and --model_base_path, or --model_config_file"
        )
    return model_config.from_base_paths({values.model_name: values.model_base_path})


def _options(values: flags.FlagValues) -> model_server.Options:
    session = servable.session_config(
        values.tensorflow_intra_op_parallelism or values.tensorflow_session_parallelism,
        values.tensorflow_inter_op_parallelism or values.tensorflow_session_parallelism,
    )
    session.gpu_options.per_process_gpu_memory_fraction = values.per_process_gpu_memory_fraction
    return model_server.Options(
        enable_serialization_as_tensor_content=values.enable_serialization_as_tensor_content,
        enable_grpc_healthcheck_service=values.enable_grpc_healthcheck_service,
        enable_model_warmup=values.enable_model_warmup,
        allow_version_labels_for_unavailable_models=(
            values.allow_version_labels_for_unavailable_models
        ),
        max_num_load_retries=values.max_num_load_retries,
        load_retry_seconds=values.load_retry_interval_micros / 1e6,
        grpc_max_threads=values.grpc_max_threads,
        rest_api_num_threads=values.rest_api_num_threads,
        model_config_file=values.model_config_file,
        model_config_file_poll_wait_seconds=values.model_config_file_poll_wait_seconds,
        session_config=session,
    )


def prefer_bfloat16() -> None:
    """Lets float32 matrix products round what they multiply, where the processor gains by it.

    For the whole process, and before its first product. The sums stay float32, and processors
    without bfloat16 products compute as before. An environment that says otherwise stands.

    References:
        oneDNN, Developer Guide, Primitive Attributes: floating-point math mode.
    """
    os.environ.setdefault("TF_SET_ONEDNN_FPMATH_MODE", "BF16")


def _ready_line(server: model_server.ModelServer) -> str:
    models = "; ".join(
        f"{name} {', '.join(map(str, versions))}"
        for name, versions in sorted(server.available_versions().items())
    )
    rest = f", REST {server.host}:{server.rest_port}" if server.rest_port else ""
    return f"Serving gRPC {server.host}:{server.port}{rest}: {models or 'no models'}"


def _define_flags() -> None:
    """Defines the flags here, not on import, so that libraries may import the server."""
    defaults = model_server.Options()
    flags.DEFINE_integer("port", 8500, "gRPC port.", 1, 65535)
    flags.DEFINE_integer("rest_api_port", 8501, "HTTP/REST port; 0 for no REST.", 0, 65535)
    flags.DEFINE_string(
        "host",
        "127.0.0.1",
        "Address to bind. TensorFlow Serving has no such flag and binds all addresses; give "
        "0.0.0.0 for that.",
    )
    flags.DEFINE_string(
        "model_name", "default", "Name of the model; ignored with --model_config_file."
    )
    flags.DEFINE_string(
        "model_base_path",
        "",
        "Absolute path that holds the model's numbered versions; ignored with "
        "--model_config_file, else required.",
    )
    flags.DEFINE_string(
        "model_config_file",
        "",
        "Text-format ModelServerConfig: several models, version policies, version labels.",
    )
    flags.DEFINE_integer(
        "model_config_file_poll_wait_seconds",
        0,
        "Seconds between two looks at --model_config_file; 0 for one at the start only.",
        0,
    )
    flags.DEFINE_integer(
        "file_system_poll_wait_seconds",
        1,
        "Seconds between two looks for new versions; 0 for one at the start only.",
        0,
    )
    _define_loading_flags(defaults)
    _define_running_flags(defaults)


def _define_loading_flags(defaults: model_server.Options) -> None:
    flags.DEFINE_boolean(
        "enable_model_warmup",
        defaults.enable_model_warmup,
        "Replay assets.extra/tf_serving_warmup_requests before a version serves.",
    )
    flags.DEFINE_boolean(
        "allow_version_labels_for_unavailable_models",
        defaults.allow_version_labels_for_unavailable_models,
        "Let a new label name a version that is not loaded; needed for labels in "
        "--model_config_file at the start.",
    )
    flags.DEFINE_integer(
        "max_num_load_retries",
        defaults.max_num_load_retries,
        "How often a failed load is repeated.",
        0,
    )
    flags.DEFINE_integer(
        "load_retry_interval_micros",
        round(defaults.load_retry_seconds * 1e6),
        "Microseconds between two tries to load.",
    )
    flags.DEFINE_float(
        "per_process_gpu_memory_fraction",
        0.0,
        "Share of the GPU's memory to take; 0 to take what is needed.",
        0.0,
        1.0,
    )


def _define_running_flags(defaults: model_server.Options) -> None:
    flags.DEFINE_boolean(
        "enable_serialization_as_tensor_content",
        defaults.enable_serialization_as_tensor_content,
        "Send tensors as tensor_content, not as float_val and the like.",
    )
    flags.DEFINE_boolean(
        "enable_grpc_healthcheck_service",
        defaults.enable_grpc_healthcheck_service,
        "Answer grpc.health.v1.Health/Check.",
    )
    flags.DEFINE_boolean(
        "bfloat16",
        False,
        "Multiply float32 matrices in bfloat16 where the processor has it; scores change by less "
        "than a hundredth. TensorFlow Serving has no such flag: it does the same with "
        "TF_SET_ONEDNN_FPMATH_MODE=BF16 in its environment.",
    )
    for name, help_text in (
        (
            "tensorflow_session_parallelism",
            "Threads of a session, within and between operations. 0 for the defaults of both.",
        ),
        ("tensorflow_intra_op_parallelism", "Threads within an operation. 0 for one."),
        (
            "tensorflow_inter_op_parallelism",
            "Operations of a request that run at once. 0 for one, in the request's own thread.",
        ),
    ):
        flags.DEFINE_integer(name, 0, help_text, 0)
    flags.DEFINE_integer(
        "grpc_max_threads", defaults.grpc_max_threads, "gRPC requests that run at once.", 1
    )
    flags.DEFINE_integer(
        "rest_api_num_threads",
        defaults.rest_api_num_threads,
        "REST requests that run at once.",
        1,
    )
