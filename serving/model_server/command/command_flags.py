"""The model server's flags: all flags of `tensorflow_model_server`, and six more.

References: TensorFlow Serving, `model_servers/main.cc` (all flags of mid-2026).
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags

from serving.model_server import server_options

Default = bool | int | float | str
_BATCHING = "each request runs alone; TensorFlow Serving runs concurrent requests together"
_TFLITE = "only SavedModels are served"
_XLA = "models run as TensorFlow compiles them by default"
# Flags of TensorFlow Serving that are accepted and ignored: default and reason.
WITHOUT_EFFECT: dict[str, tuple[Default, str]] = {
    "enable_batching": (False, _BATCHING),
    "batching_parameters_file": ("", _BATCHING),
    "enable_per_model_batching_parameters": (False, _BATCHING),
    "prefer_tflite_model": (False, _TFLITE),
    "num_tflite_pools": (1, _TFLITE),
    "num_tflite_interpreters_per_pool": (1, _TFLITE),
    "enable_profiler": (True, "there is no profiler service"),
    "num_load_threads": (0, "models load one after the other while requests run"),
    "num_unload_threads": (0, "models unload one after the other while requests run"),
    "flush_filesystem_caches": (True, "the operating system keeps its file cache"),
    "remove_unused_fields_from_bundle_metagraph": (True, "only signatures are kept"),
    "xla_cpu_compilation_enabled": (False, _XLA),
    "xla_gpu_compilation_enabled": (False, _XLA),
    "tensorflow_session_parallelism": (
        0,
        "--tensorflow_intra_op_parallelism and --tensorflow_inter_op_parallelism set the threads",
    ),
    "tensorflow_session_config_file": ("", "sessions have TensorFlow's defaults"),
    "per_process_gpu_memory_fraction": (0.0, "a GPU's memory is allocated as needed"),
    "num_request_iterations_for_warmup": (0, "each warm-up record runs once"),
    "enable_signature_method_name_check": (False, "a signature's method_name is not read"),
    "rest_api_enable_cors_support": (False, "only pages of the same origin can read replies"),
    "thread_pool_factory_config_file": ("", "requests run on the session's own threads"),
    "mixed_precision": ("", "see --bfloat16"),
    "skip_initialize_tpu": (False, "there is no TPU support"),
}
# Flags that would be unsafe to ignore.
_REFUSED: dict[str, tuple[Default, str]] = {
    "use_alts_credentials": (False, "the server has no ALTS"),
    "ssl_config_file": ("", "the server has no TLS; run TensorFlow Serving for it"),
    "platform_config_file": ("", "only the platform tensorflow is served"),
    "saved_model_tags": ("serve", "only graphs with the tag serve are served"),
}
# Flags that do not map directly to a server option: default, help, and limits if any.
_OTHERS: dict[str, tuple[Any, ...]] = {
    "port": (8500, "gRPC port; 0 for only --grpc_socket_path.", 0, 65535),
    "rest_api_port": (8501, "HTTP/REST port; 0 for no REST.", 0, 65535),
    "host": (
        "127.0.0.1",
        "Address to bind; 0.0.0.0 for all. TensorFlow Serving has no such flag and binds all "
        "addresses.",
    ),
    "version": (False, "Print versions and exit."),
    "model_name": ("default", "Model name; ignored with --model_config_file."),
    "model_base_path": (
        "",
        "Absolute path of the directory with the model's numbered versions; required without "
        "--model_config_file, ignored with it.",
    ),
    "file_system_poll_wait_seconds": (
        1,
        "Seconds between two checks for new versions; 0 checks only at the start.",
        0,
    ),
    "load_retry_interval_micros": (60_000_000, "Microseconds between attempts to load a version."),
    "grpc_channel_arguments": (
        "",
        "Comma-separated options of the gRPC server, such as grpc.max_connection_age_ms=2000.",
    ),
    "monitoring_config_file": (
        "",
        "Text-format MonitoringConfig: metrics for Prometheus on the REST port.",
    ),
    "rest_api_timeout_in_ms": (
        30_000,
        "Milliseconds after which a REST request gets status 504; 0 for no limit.",
    ),
    "tensorflow_intra_op_parallelism": (0, "Threads within an operation. 0 for one.", 0),
    "tensorflow_inter_op_parallelism": (
        0,
        "Operations of a request that run at once. 0 for one per core.",
        0,
    ),
    "bfloat16": (
        False,
        "Multiply float32 matrices in bfloat16 if the processor supports it; scores change by less "
        "than a hundredth. TensorFlow Serving has no such flag: set "
        "TF_SET_ONEDNN_FPMATH_MODE=BF16 in its environment.",
    ),
    "end_with_input": (
        False,
        "Exit when the standard input closes, as a child process's does when its parent exits. "
        "TensorFlow Serving has no such flag.",
    ),
}
_DEFINE: dict[type, Callable[..., Any]] = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags; libraries may import this module without defining them."""
    for name, option in server_options.FLAGS.items():
        limits = option.metadata["limits"].values()
        _define(values, name, option.default, option.metadata["help"], *limits)
    for name, arguments in _OTHERS.items():
        _define(values, name, *arguments)
    for name, (default, reason) in (WITHOUT_EFFECT | _REFUSED).items():
        kind = "Refused" if name in _REFUSED else "Accepted without effect"
        _define(values, name, default, f"{kind}: {reason}.")


def parse(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses the command line as absl does; errors have TensorFlow Serving's wording.

    Returns:
        The arguments that are not flags.
    """
    try:
        rest = values(list(argv))
        for name, (default, reason) in _REFUSED.items():
            if values[name].value != default:
                raise flags.IllegalFlagValueError(f"--{name} is refused: {reason}")
        return rest
    except flags.UnrecognizedFlagError as error:
        message = f"unknown argument: --{error.flagname}\n{error}. --help lists the flags"
    except flags.Error as error:
        message = f"{error}. --help lists the flags"
    print(message, file=sys.stderr)
    raise SystemExit(1)


def without_effect(values: flags.FlagValues = flags.FLAGS) -> Iterator[str]:
    """Yields a line for each flag that was given and has no effect."""
    for name, (_, reason) in WITHOUT_EFFECT.items():
        if values[name].present:
            yield f"--{name} has no effect here: {reason}"


def _define(
    values: flags.FlagValues, name: str, default: Any, help_text: str, *limits: float
) -> None:
    """Defines a flag of the default's type."""
    _DEFINE[type(default)](name, default, help_text, *limits, flag_values=values)
    # --help shows the key flags of the command.
    values.register_key_flag_for_module(sys.argv[0], values[name])
