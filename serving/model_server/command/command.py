"""The model server as a command, with TensorFlow Serving's flags.

python -m serving.model_server --model_name=ranker --model_base_path=/bundle/ranker
"""

import gc
import importlib.metadata
import math
import os
import signal
import sys
import threading
from collections.abc import Sequence

from absl import app, flags

from serving import model_config, process, saved_model
from serving.errors import ServerStartError
from serving.model_server import config_messages, server_options
from serving.model_server.command import command_flags
from serving.model_server.server import ModelServer

_DRAIN_SECONDS = 10.0


def run() -> None:
    """Runs the command; does not return."""
    command_flags.define()
    app.run(main, flags_parser=command_flags.parse)


def main(argv: Sequence[str]) -> int:
    """Serves until SIGTERM, SIGINT or, with --end_with_input, the end of the standard input.

    Running requests then get a few seconds to finish; a second signal ends the process at once, and
    so does the first one while the models load.

    Returns:
        0 after such a stop, 1 if the server could not start.
    """
    values = flags.FLAGS
    if values.version:
        print(_version())
        return 0
    if values.bfloat16:
        # Float32 matrix products of the process round their factors if the processor supports it
        # (oneDNN, Primitive Attributes: floating-point math mode). The sums stay float32.
        os.environ.setdefault("TF_SET_ONEDNN_FPMATH_MODE", "BF16")
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
        # TensorFlow holds up handlers in Python until a load ends, which may take minutes.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if values.end_with_input:
            threading.Thread(target=_await_end_of_input, daemon=True).start()
        server.start()
        stop = process.StopSignal(again=lambda number: _exit_at_once(128 + number))
    except (saved_model.StatusError, ServerStartError, OSError, ValueError) as error:
        print(f"Failed to start server. Error: {error}{_remedy(error)}", file=sys.stderr)
        return 1
    # TensorFlow's modules are 330,000 objects; each full collection of them would stop all
    # requests for 0.15 s.
    gc.collect()
    gc.freeze()
    for line in _log_lines(server, values):
        print(line, file=sys.stderr, flush=True)
    print(_ready_line(server), flush=True)
    stop.wait()
    if not server.stop(_DRAIN_SECONDS):
        print(
            f"Some requests or loads still run {_DRAIN_SECONDS:g} s after the stop; exiting "
            "without them",
            file=sys.stderr,
        )
        # Python would wait for their threads.
        _exit_at_once(0)
    return 0


def models(values: flags.FlagValues) -> model_config.ModelServerConfig:
    """Returns the models that the flags name.

    Raises:
        StatusError: The flags name no model, or contradict each other.
        OSError: --model_config_file cannot be read.
        ValueError: --model_config_file is not a ModelServerConfig.
    """
    if not values.port and not values.grpc_socket_path:
        raise saved_model.invalid_argument(
            "At least one of server_options.grpc_port or server_options.grpc_socket_path must be "
            "set. Give --port or --grpc_socket_path"
        )
    if values.port and values.port == values.rest_api_port:
        raise saved_model.invalid_argument(
            f"--port and --rest_api_port are both {values.port}; expected different ports"
        )
    if values.model_config_file:
        return model_config.read(values.model_config_file)
    if not values.model_base_path:
        raise saved_model.invalid_argument(
            "Both server_options.model_base_path and server_options.model_config_file are empty! "
            "Give --model_name and --model_base_path, or --model_config_file"
        )
    return model_config.build({values.model_name: values.model_base_path})


def options(values: flags.FlagValues) -> server_options.ServerOptions:
    """Returns the options that the flags set, and reads the files that they name.

    Raises:
        StatusError: Flags contradict each other.
        OSError: A file cannot be read.
        ValueError: A file does not contain the expected message.
    """
    named = {name: getattr(values, name) for name in server_options.FLAGS}
    timeout = values.rest_api_timeout_in_ms
    return server_options.ServerOptions(
        **named,
        load_retry_seconds=max(values.load_retry_interval_micros, 0) / 1e6,
        grpc_channel_arguments=_channel_arguments(values.grpc_channel_arguments),
        rest_api_timeout_seconds=timeout / 1e3 if timeout > 0 else math.inf,
        prometheus_path=_prometheus_path(values.monitoring_config_file),
        session_config=saved_model.session_config(
            values.tensorflow_intra_op_parallelism, values.tensorflow_inter_op_parallelism
        ),
    )


def _exit_at_once(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _await_end_of_input() -> None:
    # Not `sys.stdin`: no thread may hold it when the process exits.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _remedy(error: Exception) -> str:
    if "Request to assign label" in str(error):
        return (
            ". At the start no version is loaded yet: give "
            "--allow_version_labels_for_unavailable_models"
        )
    return ""


def _prometheus_path(path: str) -> str | None:
    if not path:
        return None
    config = model_config.read_text(path, config_messages.MonitoringConfig()).prometheus_config
    return (config.path or server_options.PROMETHEUS_PATH) if config.enable else None


def _channel_arguments(text: str) -> tuple[tuple[str, int | str], ...]:
    arguments: list[tuple[str, int | str]] = []
    for argument in filter(None, text.split(",")):
        key, separator, value = argument.partition("=")
        if not separator:
            raise saved_model.invalid_argument(
                f"--grpc_channel_arguments has {argument!r}; expected name=value,name=value"
            )
        is_number = value.removeprefix("-").isdecimal()
        arguments.append((key, int(value) if is_number else value))
    return tuple(arguments)


def _ready_line(server: ModelServer) -> str:
    available = "; ".join(
        f"{name} {', '.join(map(str, versions))}"
        for name, versions in sorted(server.manager.available_versions().items())
    )
    rest = f", REST {server.host}:{server.rest_port}" if server.rest_port else ""
    grpc = f"{server.host}:{server.port}" if server.port else "UNIX socket"
    return f"Serving gRPC {grpc}{rest}: {available or 'no models'}"


def _log_lines(server: ModelServer, values: flags.FlagValues) -> list[str]:
    """Returns the lines that TensorFlow Serving logs when it is ready; scripts wait for them."""
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
