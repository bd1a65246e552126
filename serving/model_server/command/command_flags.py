"""The model server's flags: those of `tensorflow_model_server`, and three of its own.

References: TensorFlow Serving, `model_servers/main.cc` (all flags of mid-2026).
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags

from serving.model_server import server_options

Default = bool | int | str
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
    "thread_pool_factory_config_file": ("", "requests run on the session's own threads"),
    "mixed_precision": ("", "see --bfloat16"),
    "skip_initialize_tpu": (False, "there is no TPU support"),
}
# Flags that would be unsafe to ignore.
_REFUSED: dict[str, tuple[Default, str]] = {
    "use_alts_credentials": (False, "ALTS is not supported; use --ssl_config_file"),
    "platform_config_file": (
        "",
        "only the platform tensorflow is served; use --tensorflow_session_config_file for the "
        "options of its sessions",
    ),
}
# Flags with the name and the meaning of a server option.
SAME_AS_OPTIONS = (
    "enable_serialization_as_tensor_content",
    "enable_grpc_healthcheck_service",
    "enable_signature_method_name_check",
    "enable_model_warmup",
    "allow_version_labels_for_unavailable_models",
    "max_num_load_retries",
    "grpc_max_threads",
    "grpc_socket_path",
    "ssl_config_file",
    "rest_api_num_threads",
    "rest_api_enable_cors_support",
    "model_config_file",
    "model_config_file_poll_wait_seconds",
)


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags; libraries may import this module without defining them."""
    defaults = server_options.ServerOptions()
    define_flag = _Definer(values)
    _define_addresses(define_flag, defaults)
    _define_models(define_flag)
    _define_loading(define_flag, defaults)
    _define_answers(define_flag, defaults)
    _define_threads(define_flag, defaults)
    for name, (default, reason) in (WITHOUT_EFFECT | _REFUSED).items():
        kind = "Refused" if name in _REFUSED else "Accepted without effect"
        define_flag.like(name, default, f"{kind}: {reason}.")


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


class _Definer:
    """Defines flags in one set of flag values, all of them shown by `--help`."""

    def __init__(self, values: flags.FlagValues) -> None:
        self._values = values
        self.integer = self._defining(flags.DEFINE_integer)
        self.string = self._defining(flags.DEFINE_string)
        self.boolean = self._defining(flags.DEFINE_boolean)
        self.float = self._defining(flags.DEFINE_float)

    def like(self, name: str, default: Default, help_text: str) -> None:
        """Defines a flag of the default's type."""
        # `bool` is a kind of `int`.
        kinds = {bool: self.boolean, int: self.integer, str: self.string}
        kinds[type(default)](name, default, help_text)

    def _defining(self, define_flag: Callable[..., Any]) -> Callable[..., None]:
        def call(name: str, *arguments: Any) -> None:
            define_flag(name, *arguments, flag_values=self._values)
            # --help shows the key flags of the command.
            self._values.register_key_flag_for_module(sys.argv[0], self._values[name])

        return call


def _define_addresses(define_flag: _Definer, defaults: server_options.ServerOptions) -> None:
    define_flag.integer("port", 8500, "gRPC port; 0 for only --grpc_socket_path.", 0, 65535)
    define_flag.string(
        "grpc_socket_path",
        defaults.grpc_socket_path,
        "UNIX socket for gRPC, in addition to the port.",
    )
    define_flag.integer("rest_api_port", 8501, "HTTP/REST port; 0 for no REST.", 0, 65535)
    define_flag.string(
        "host",
        "127.0.0.1",
        "Address to bind; 0.0.0.0 for all. TensorFlow Serving has no such flag and binds all "
        "addresses.",
    )
    define_flag.string(
        "ssl_config_file",
        defaults.ssl_config_file,
        "Text-format SSLConfig with the gRPC server's key and certificate; empty for plain text.",
    )
    define_flag.string(
        "grpc_channel_arguments",
        "",
        "Comma-separated options of the gRPC server, such as grpc.max_connection_age_ms=2000.",
    )
    define_flag.string(
        "monitoring_config_file",
        "",
        "Text-format MonitoringConfig: metrics for Prometheus on the REST port.",
    )


def _define_models(define_flag: _Definer) -> None:
    define_flag.boolean("version", False, "Print versions and exit.")
    define_flag.string("model_name", "default", "Model name; ignored with --model_config_file.")
    define_flag.string(
        "model_base_path",
        "",
        "Absolute path of the directory with the model's numbered versions; required without "
        "--model_config_file, ignored with it.",
    )
    define_flag.string(
        "model_config_file",
        "",
        "Text-format ModelServerConfig: several models, version policies, version labels.",
    )
    define_flag.integer(
        "model_config_file_poll_wait_seconds",
        0,
        "Seconds between two reads of --model_config_file; 0 reads it only at the start.",
        0,
    )
    define_flag.integer(
        "file_system_poll_wait_seconds",
        1,
        "Seconds between two checks for new versions; 0 checks only at the start.",
        0,
    )
    define_flag.string("saved_model_tags", "serve", "Comma-separated tags of the graphs to load.")


def _define_loading(define_flag: _Definer, defaults: server_options.ServerOptions) -> None:
    define_flag.boolean(
        "enable_model_warmup",
        defaults.enable_model_warmup,
        "Replay assets.extra/tf_serving_warmup_requests before a version serves.",
    )
    define_flag.integer(
        "num_request_iterations_for_warmup", 0, "Number of runs of each warm-up record; 0 for one."
    )
    define_flag.boolean(
        "allow_version_labels_for_unavailable_models",
        defaults.allow_version_labels_for_unavailable_models,
        "Let a new label name a version that is not loaded; labels in --model_config_file need "
        "it at the start.",
    )
    define_flag.integer(
        "max_num_load_retries",
        defaults.max_num_load_retries,
        "Number of retries of a failed load.",
        0,
    )
    define_flag.integer(
        "load_retry_interval_micros",
        round(defaults.load_retry_seconds * 1e6),
        "Microseconds between two tries to load.",
    )


def _define_answers(define_flag: _Definer, defaults: server_options.ServerOptions) -> None:
    define_flag.boolean(
        "enable_serialization_as_tensor_content",
        defaults.enable_serialization_as_tensor_content,
        "Send tensors as tensor_content instead of typed fields such as float_val.",
    )
    define_flag.boolean(
        "enable_grpc_healthcheck_service",
        defaults.enable_grpc_healthcheck_service,
        "Serve grpc.health.v1.Health.",
    )
    define_flag.boolean(
        "enable_signature_method_name_check",
        defaults.enable_signature_method_name_check,
        "Classify and regress only with signatures whose method_name fits.",
    )
    define_flag.boolean(
        "rest_api_enable_cors_support",
        defaults.rest_api_enable_cors_support,
        "Let pages of other origins read REST replies.",
    )
    define_flag.integer(
        "rest_api_timeout_in_ms",
        round(defaults.rest_api_timeout_seconds * 1e3),
        "Milliseconds after which a REST request is answered by 504; 0 for no limit.",
    )
    define_flag.boolean(
        "bfloat16",
        False,
        "Multiply float32 matrices in bfloat16 if the processor supports it; scores change by less "
        "than a hundredth. TensorFlow Serving has no such flag: set "
        "TF_SET_ONEDNN_FPMATH_MODE=BF16 in its environment.",
    )
    define_flag.boolean(
        "end_with_input",
        False,
        "Exit when the standard input closes, as a child process's does when its parent exits. "
        "TensorFlow Serving has no such flag.",
    )


def _define_threads(define_flag: _Definer, defaults: server_options.ServerOptions) -> None:
    for name, help_text in (
        (
            "tensorflow_session_parallelism",
            "Threads of a session, within and between operations. 0 for the defaults of both.",
        ),
        ("tensorflow_intra_op_parallelism", "Threads within an operation. 0 for one."),
        (
            "tensorflow_inter_op_parallelism",
            "Operations of a request that run at once. 0 for one a core.",
        ),
    ):
        define_flag.integer(name, 0, help_text, 0)
    define_flag.string(
        "tensorflow_session_config_file", "", "Text-format ConfigProto of the sessions."
    )
    define_flag.float(
        "per_process_gpu_memory_fraction",
        0.0,
        "Fraction of the GPU's memory to allocate; 0 allocates as needed.",
        0.0,
        1.0,
    )
    define_flag.integer(
        "grpc_max_threads",
        defaults.grpc_max_threads,
        "Maximum number of gRPC requests that run at once.",
        1,
    )
    define_flag.integer(
        "rest_api_num_threads",
        defaults.rest_api_num_threads,
        "Maximum number of REST requests that run at once.",
        1,
    )
