"""The model server as a command, with the names of TensorFlow Serving's flags.

python -m serving.model_server --model_name=ranker --model_base_path=/bundle/ranker
"""

import gc
import importlib.metadata
import math
import os
import sys
import threading
from collections.abc import Sequence

from absl import app, flags
from tensorflow.core.protobuf import config_pb2

from serving import process, saved_model
from serving.errors import ServerStartError
from serving.model_server import config_messages, server_options
from serving.model_server.batching import batching_options
from serving.model_server.command import command_flags, flag_definitions
from serving.model_server.models import model_config, servable
from serving.model_server.server import ModelServer

_DRAIN_SECONDS = 10.0


def run() -> None:
    """Runs the command; does not return."""
    command_flags.define()
    app.run(main, flags_parser=command_flags.parse)


def main(argv: Sequence[str]) -> int:
    """Serves until SIGTERM or SIGINT, or the end of its input where that is asked for.

    Running requests get some seconds to end, or none after a second signal of the same kind.

    Returns:
        0 after such a stop, 1 if the server could not start.
    """
    values = flags.FLAGS
    if values.version:
        print(_version())
        return 0
    if values.bfloat16:
        prefer_bfloat16()
    try:
        if len(argv) > 1:
            raise saved_model.invalid_argument(f"unknown argument: {argv[1]}")
        for line in command_flags.without_effect():
            print(line, file=sys.stderr)
        server = ModelServer(
            models(values),
            port=values.port or None,
            rest_port=values.rest_api_port or None,
            host=values.host,
            poll_seconds=values.file_system_poll_wait_seconds or None,
            options=options(values),
        )
        stop = process.StopSignal(again=lambda number: _end_at_once(128 + number))
        if values.end_with_input:
            threading.Thread(target=_await_end_of_input, args=(stop,), daemon=True).start()
        server.start()
    except (saved_model.StatusError, ServerStartError) as error:
        print(f"Failed to start server. Error: {error}{_remedy(error)}", file=sys.stderr)
        return 1
    # TensorFlow's modules are 330,000 objects; each full collection of them stops all requests
    # for 0.15 s.
    gc.collect()
    gc.freeze()
    for line in _log_lines(server, values):
        print(line, file=sys.stderr, flush=True)
    print(_ready_line(server), flush=True)
    stop.wait()
    if not server.stop(_DRAIN_SECONDS):
        print(
            f"Requests or loads still run {_DRAIN_SECONDS:g} s after the stop; they are given up",
            file=sys.stderr,
        )
        # Python would wait for their threads.
        _end_at_once(0)
    return 0


def _end_at_once(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _await_end_of_input(stop: process.StopSignal) -> None:
    # Not through `sys.stdin`, which a thread must not hold when the process ends.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    stop.set()


def _remedy(error: Exception) -> str:
    if "Request to assign label" in str(error):
        return (
            ". At the start no version is loaded yet: give "
            "--allow_version_labels_for_unavailable_models"
        )
    return ""


def models(values: flags.FlagValues) -> model_config.ModelServerConfig:
    """Returns which models the flags ask for.

    Raises:
        StatusError: if they ask for none, or contradict each other.
    """
    if not values.port and not values.grpc_socket_path:
        raise saved_model.invalid_argument(
            "At least one of server_options.grpc_port or server_options.grpc_socket_path must be "
            "set. Give --port or --grpc_socket_path"
        )
    if values.port == values.rest_api_port:
        raise saved_model.invalid_argument(
            f"Expected --port and --rest_api_port to differ, got {values.port} for both"
        )
    if values.model_config_file:
        return model_config.read_config(values.model_config_file)
    if not values.model_base_path:
        raise saved_model.invalid_argument(
            "Both server_options.model_base_path and server_options.model_config_file are empty! "
            "Give --model_name and --model_base_path, or --model_config_file"
        )
    return model_config.config_from_base_paths({values.model_name: values.model_base_path})


def options(values: flags.FlagValues) -> server_options.ServerOptions:
    """Returns what else the flags ask for; the files that they name are read.

    Raises:
        StatusError: if a file is missing or wrong, or flags contradict each other.
    """
    named = {name: getattr(values, name) for name in flag_definitions.SAME_AS_OPTIONS}
    return server_options.ServerOptions(
        **named,
        num_request_iterations_for_warmup=max(values.num_request_iterations_for_warmup, 1),
        load_retry_seconds=max(values.load_retry_interval_micros, 0) / 1e6,
        grpc_channel_arguments=_channel_arguments(values.grpc_channel_arguments),
        rest_api_timeout_seconds=_rest_api_timeout(values.rest_api_timeout_in_ms),
        prometheus_path=_prometheus_path(values.monitoring_config_file),
        saved_model_tags=tuple(values.saved_model_tags.split(",")),
        tflite_interpreters=_tflite_interpreters(values),
        session_config=_session_config(values),
        batching=_batching(values),
    )


def _rest_api_timeout(milliseconds: int) -> float:
    return milliseconds / 1e3 if milliseconds > 0 else math.inf


def _tflite_interpreters(values: flags.FlagValues) -> int:
    if not values.prefer_tflite_model:
        return 0
    return values.num_tflite_pools * values.num_tflite_interpreters_per_pool


def _batching(values: flags.FlagValues) -> batching_options.BatchingOptions | None:
    if values.enable_batching:
        if values.batching_parameters_file:
            return batching_options.read(values.batching_parameters_file)
        return batching_options.BatchingOptions()
    for name in ("batching_parameters_file", "enable_per_model_batching_parameters"):
        if getattr(values, name):
            raise saved_model.invalid_argument(
                f"server_options.{name} is set without setting server_options.enable_batching to "
                f"true. Give --enable_batching too, or leave out --{name}"
            )
    return None


def _prometheus_path(path: str) -> str | None:
    if not path:
        return None
    config = config_messages.read_text(path, config_messages.MonitoringConfig()).prometheus_config
    return (config.path or server_options.PROMETHEUS_PATH) if config.enable else None


def _session_config(values: flags.FlagValues) -> config_pb2.ConfigProto:
    intra, inter = values.tensorflow_intra_op_parallelism, values.tensorflow_inter_op_parallelism
    both = values.tensorflow_session_parallelism
    if intra and inter and both:
        raise saved_model.invalid_argument(
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, "
            "server_options.tensorflow_inter_op_parallelism) separately. You cannot configure all."
        )
    config = config_pb2.ConfigProto()
    if values.tensorflow_session_config_file:
        config_messages.read_text(values.tensorflow_session_config_file, config)
    # A file's own numbers of threads hold where no flag gives others.
    config.MergeFrom(
        servable.session_config(
            intra or both or config.intra_op_parallelism_threads,
            inter or both or config.inter_op_parallelism_threads,
        )
    )
    if values.per_process_gpu_memory_fraction:
        config.gpu_options.per_process_gpu_memory_fraction = values.per_process_gpu_memory_fraction
    return config


def _channel_arguments(text: str) -> tuple[tuple[str, int | str], ...]:
    arguments: list[tuple[str, int | str]] = []
    for argument in filter(None, text.split(",")):
        key, separator, value = argument.partition("=")
        if not separator:
            raise saved_model.invalid_argument(
                f"Expected --grpc_channel_arguments as name=value,name=value, got {argument!r}"
            )
        number = value.removeprefix("-").isdecimal()
        arguments.append((key, int(value) if number else value))
    return tuple(arguments)


def prefer_bfloat16() -> None:
    """Lets float32 matrix products round what they multiply, where the processor gains by it.

    For the whole process, and before its first product. The sums stay float32, and processors
    without bfloat16 products compute as before. An environment that says otherwise stands.

    References:
        oneDNN, Developer Guide, Primitive Attributes: floating-point math mode.
    """
    os.environ.setdefault("TF_SET_ONEDNN_FPMATH_MODE", "BF16")


def _ready_line(server: ModelServer) -> str:
    models = "; ".join(
        f"{name} {', '.join(map(str, versions))}"
        for name, versions in sorted(server.available_versions().items())
    )
    rest = f", REST {server.host}:{server.rest_port}" if server.rest_port else ""
    grpc = f"{server.host}:{server.port}" if server.port else "UNIX socket"
    return f"Serving gRPC {grpc}{rest}: {models or 'no models'}"


def _log_lines(server: ModelServer, values: flags.FlagValues) -> list[str]:
    """What TensorFlow Serving logs when it is ready, for whoever waits for that."""
    lines = []
    if values.port:
        lines.append(f"Running gRPC ModelServer at {server.host}:{server.port} ...")
    if values.grpc_socket_path:
        lines.append(f"Running gRPC ModelServer at UNIX socket {values.grpc_socket_path} ...")
    if server.rest_port:
        lines.append(f"Exporting HTTP/REST API at:{server.host}:{server.rest_port} ...")
    return lines


def _version() -> str:
    return (
        f"tfrec model server: {importlib.metadata.version('tfrec')}\n"
        f"TensorFlow Library: {importlib.metadata.version('tensorflow')}"
    )
