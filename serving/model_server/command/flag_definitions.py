"""The model server's flags that have an effect.

References: TensorFlow Serving, `model_servers/main.cc`.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

from absl import flags

from serving.model_server import server_options

# Flags that are an option as they stand, with the option's default.
SAME_AS_OPTIONS = (
    "enable_serialization_as_tensor_content",
    "enable_grpc_healthcheck_service",
    "enable_profiler",
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
    "enable_per_model_batching_parameters",
)


class Definer:
    """Defines flags in one set of flag values, all of them shown by `--help`."""

    def __init__(self, values: flags.FlagValues) -> None:
        """Takes the flag values."""
        self.integer = self._defining(flags.DEFINE_integer, values)
        self.float = self._defining(flags.DEFINE_float, values)
        self.string = self._defining(flags.DEFINE_string, values)
        self.boolean = self._defining(flags.DEFINE_boolean, values)

    def _defining(self, define: Callable[..., Any], values: flags.FlagValues) -> Callable[..., Any]:
        def call(name: str, *arguments: Any) -> None:
            define(name, *arguments, flag_values=values)
            # Key flags of the command are what its --help shows.
            values.register_key_flag_for_module(sys.argv[0], values[name])

        return call


def define_all(define: Definer) -> None:
    """Defines the flags; a call, not the import, so that libraries may import the server."""
    defaults = server_options.ServerOptions()
    _define_addresses(define, defaults)
    _define_models(define)
    _define_tflite(define)
    _define_loading(define, defaults)
    _define_batching(define, defaults)
    _define_running(define, defaults)
    _define_threads(define, defaults)
    _define_process(define)


def _define_addresses(define: Definer, defaults: server_options.ServerOptions) -> None:
    define.integer("port", 8500, "gRPC port; 0 for --grpc_socket_path alone.", 0, 65535)
    define.string(
        "grpc_socket_path", defaults.grpc_socket_path, "UNIX socket for gRPC, beside the port."
    )
    define.integer("rest_api_port", 8501, "HTTP/REST port; 0 for no REST.", 0, 65535)
    define.string(
        "host",
        "127.0.0.1",
        "Address to bind. TensorFlow Serving has no such flag and binds all addresses; give "
        "0.0.0.0 for that.",
    )
    define.string(
        "ssl_config_file",
        defaults.ssl_config_file,
        "Text-format SSLConfig with the gRPC server's key and certificate; empty for plain text.",
    )
    define.string(
        "grpc_channel_arguments",
        "",
        "Options of the gRPC server, such as grpc.max_connection_age_ms=2000, comma-separated.",
    )
    define.string(
        "monitoring_config_file",
        "",
        "Text-format MonitoringConfig: metrics for Prometheus on the REST port.",
    )


def _define_models(define: Definer) -> None:
    define.boolean("version", False, "Print versions and end.")
    define.string("model_name", "default", "Name of the model; ignored with --model_config_file.")
    define.string(
        "model_base_path",
        "",
        "Absolute path that holds the model's numbered versions; ignored with "
        "--model_config_file, else required.",
    )
    define.string(
        "model_config_file",
        "",
        "Text-format ModelServerConfig: several models, version policies, version labels.",
    )
    define.integer(
        "model_config_file_poll_wait_seconds",
        0,
        "Seconds between two looks at --model_config_file; 0 for one at the start only.",
        0,
    )
    define.integer(
        "file_system_poll_wait_seconds",
        1,
        "Seconds between two looks for new versions; 0 for one at the start only.",
        0,
    )
    define.string("saved_model_tags", "serve", "Tags of the graphs to load, comma-separated.")


def _define_tflite(define: Definer) -> None:
    define.boolean(
        "prefer_tflite_model",
        False,
        "Load model.tflite where a version has it, instead of saved_model.pb.",
    )
    define.integer(
        "num_tflite_pools",
        os.cpu_count() or 1,
        "Pools of interpreters of a model.tflite.",
        1,
    )
    define.integer(
        "num_tflite_interpreters_per_pool",
        1,
        "Interpreters of a pool; as many requests run at once.",
        1,
    )


def _define_loading(define: Definer, defaults: server_options.ServerOptions) -> None:
    define.boolean(
        "enable_model_warmup",
        defaults.enable_model_warmup,
        "Replay assets.extra/tf_serving_warmup_requests before a version serves.",
    )
    define.integer(
        "num_request_iterations_for_warmup",
        0,
        "How often each warm-up record runs; 0 for once.",
    )
    define.boolean(
        "allow_version_labels_for_unavailable_models",
        defaults.allow_version_labels_for_unavailable_models,
        "Let a new label name a version that is not loaded; needed for labels in "
        "--model_config_file at the start.",
    )
    define.integer(
        "max_num_load_retries",
        defaults.max_num_load_retries,
        "How often a failed load is repeated.",
        0,
    )
    define.integer(
        "load_retry_interval_micros",
        round(defaults.load_retry_seconds * 1e6),
        "Microseconds between two tries to load.",
    )


def _define_batching(define: Definer, defaults: server_options.ServerOptions) -> None:
    define.boolean("enable_batching", False, "Run concurrent requests together.")
    define.string(
        "batching_parameters_file",
        "",
        "Text-format BatchingParameters; TensorFlow's defaults if empty. Needs --enable_batching.",
    )
    define.boolean(
        "enable_per_model_batching_parameters",
        defaults.enable_per_model_batching_parameters,
        "Batch only models with a batching_params.pbtxt beside their saved_model.pb, by that "
        "file. Needs --enable_batching.",
    )


def _define_running(define: Definer, defaults: server_options.ServerOptions) -> None:
    define.boolean(
        "enable_serialization_as_tensor_content",
        defaults.enable_serialization_as_tensor_content,
        "Send tensors as tensor_content, not as float_val and the like.",
    )
    define.boolean(
        "enable_grpc_healthcheck_service",
        defaults.enable_grpc_healthcheck_service,
        "Answer grpc.health.v1.Health/Check.",
    )
    define.boolean(
        "enable_profiler",
        defaults.enable_profiler,
        "Answer tf.profiler.experimental.client.trace. The caller names the directory, on this "
        "machine, that the trace is written to.",
    )
    define.boolean(
        "enable_signature_method_name_check",
        defaults.enable_signature_method_name_check,
        "Classify and regress only with signatures whose method_name says so.",
    )
    define.boolean(
        "rest_api_enable_cors_support",
        defaults.rest_api_enable_cors_support,
        "Let pages of other sites read REST replies.",
    )
    define.integer(
        "rest_api_timeout_in_ms",
        round(defaults.rest_api_timeout_seconds * 1e3),
        "Milliseconds after which a REST request is answered by 504; 0 for never.",
    )
    define.boolean(
        "bfloat16",
        False,
        "Multiply float32 matrices in bfloat16 where the processor has it; scores change by less "
        "than a hundredth. TensorFlow Serving has no such flag: it does the same with "
        "TF_SET_ONEDNN_FPMATH_MODE=BF16 in its environment.",
    )


def _define_process(define: Definer) -> None:
    define.boolean(
        "end_with_input",
        False,
        "End when the standard input closes, as that of a child does whose parent is gone. "
        "TensorFlow Serving has no such flag.",
    )


def _define_threads(define: Definer, defaults: server_options.ServerOptions) -> None:
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
        define.integer(name, 0, help_text, 0)
    define.string("tensorflow_session_config_file", "", "Text-format ConfigProto of the sessions.")
    define.float(
        "per_process_gpu_memory_fraction",
        0.0,
        "Share of the GPU's memory to take; 0 to take what is needed.",
        0.0,
        1.0,
    )
    define.integer(
        "grpc_max_threads", defaults.grpc_max_threads, "gRPC requests that run at once.", 1
    )
    define.integer(
        "rest_api_num_threads",
        defaults.rest_api_num_threads,
        "REST requests that run at once.",
        1,
    )
