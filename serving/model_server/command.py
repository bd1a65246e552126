"""The model server as a command, with some of TensorFlow Serving's flags.

python -m serving.model_server --model_name=ranker --model_base_path=/bundle/ranker
"""

import functools
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

from absl import app, flags

from serving import model_config
from serving.errors import ServerStartError
from serving.model_server.server import DEFAULT_THREADS, ModelServer

_DRAIN_SECONDS = 10.0


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags; tests may import this module without defining them."""
    integer = functools.partial(flags.DEFINE_integer, flag_values=values)
    string = functools.partial(flags.DEFINE_string, flag_values=values)
    integer("port", 8500, "gRPC port.", 1, 65535)
    integer("rest_api_port", 8501, "HTTP/REST port; 0 for no REST.", 0, 65535)
    string("host", "127.0.0.1", "Address to bind; 0.0.0.0 for all.")
    string("model_name", "default", "Model name.")
    string("model_base_path", None, "Absolute path of the model's numbered versions.")
    string(
        "model_config_file",
        None,
        "Text-format ModelServerConfig with several models and version policies, instead of "
        "--model_name and --model_base_path.",
    )
    integer(
        "file_system_poll_wait_seconds",
        1,
        "Seconds between two checks for new versions; 0 checks only at the start.",
        0,
    )
    integer(
        "grpc_max_threads",
        DEFAULT_THREADS,
        "Maximum number of gRPC requests that run at once; others are refused "
        "(RESOURCE_EXHAUSTED).",
        1,
    )
    flags.DEFINE_bool(
        "end_with_input",
        False,
        "Exit when the standard input closes, as a child process's does when its parent exits.",
        flag_values=values,
    )
    # --help shows the key flags of the command.
    for flag in values.get_flags_for_module(__name__):
        values.register_key_flag_for_module(sys.argv[0], flag)


def run() -> None:
    """Runs the command; does not return."""
    define()
    app.run(main)


def main(argv: Sequence[str]) -> int:
    """Serves until SIGTERM, SIGINT or, with --end_with_input, the end of the standard input.

    Running requests then get a few seconds to finish; a second signal ends the process at once, and
    so does the first one while the models load.
    """
    values = flags.FLAGS
    try:
        if len(argv) > 1:
            raise ValueError(f"Expected only flags, got {argv[1]!r}.")
        server = ModelServer(
            models(values),
            port=values.port,
            rest_port=values.rest_api_port or None,
            host=values.host,
            poll_seconds=values.file_system_poll_wait_seconds or None,
            grpc_max_threads=values.grpc_max_threads,
        )
        # TensorFlow holds up handlers in Python until a load ends, which may take minutes.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if values.end_with_input:
            threading.Thread(target=_await_end_of_input, daemon=True).start()
        server.start()
    except (ServerStartError, OSError, ValueError) as error:
        print(f"Failed to start server. Error: {error}", file=sys.stderr)
        return 1
    # TensorFlow's modules are 330,000 objects; each full collection of them would stop all
    # requests for 0.15 s.
    gc.collect()
    gc.freeze()
    stopped = _signals()
    print(_ready_line(server), flush=True)
    # A handler runs when the main thread does, also if the signal arrives in another thread.
    while not stopped:
        time.sleep(0.1)
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
    """Returns the models that the flags name."""
    if values.model_config_file:
        return model_config.read(values.model_config_file)
    if not values.model_base_path:
        raise ValueError("Expected --model_base_path or --model_config_file.")
    return model_config.build({values.model_name: values.model_base_path})


def _signals() -> set[int]:
    """Returns a set that SIGTERM and SIGINT add themselves to; a second time, they exit at once."""
    received: set[int] = set()

    def note(number: int, frame: object) -> None:
        if number in received:
            _exit_at_once(128 + number)
        received.add(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    return received


def _exit_at_once(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _await_end_of_input() -> None:
    # Not `sys.stdin`: no thread may hold it when the process exits.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _ready_line(server: ModelServer) -> str:
    available = "; ".join(
        f"{name} {', '.join(map(str, versions))}"
        for name, versions in sorted(server.manager.available_versions().items())
    )
    rest = f", REST {server.host}:{server.rest_port}" if server.rest_port else ""
    return f"Serving gRPC {server.host}:{server.port}{rest}: {available}"
