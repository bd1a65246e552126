"""The flags of the model server: all of TensorFlow Serving's, and what becomes of each."""

import math
import pathlib
from collections.abc import Sequence

import grpc
import pytest
import saved_models
from absl import flags
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

from serving import model_config, saved_model
from serving.model_server import server as model_server
from serving.model_server import server_options
from serving.model_server.command import command, command_flags

# The flags of tensorflow_model_server in mid-2026.
_TENSORFLOW_SERVING = (
    "port grpc_socket_path rest_api_port rest_api_num_threads rest_api_timeout_in_ms "
    "rest_api_enable_cors_support enable_batching allow_version_labels_for_unavailable_models "
    "batching_parameters_file enable_per_model_batching_parameters model_config_file "
    "model_config_file_poll_wait_seconds model_name model_base_path num_load_threads "
    "num_unload_threads max_num_load_retries load_retry_interval_micros "
    "file_system_poll_wait_seconds flush_filesystem_caches tensorflow_session_parallelism "
    "tensorflow_session_config_file tensorflow_intra_op_parallelism "
    "tensorflow_inter_op_parallelism use_alts_credentials ssl_config_file "
    "platform_config_file per_process_gpu_memory_fraction saved_model_tags "
    "grpc_channel_arguments grpc_max_threads enable_model_warmup "
    "num_request_iterations_for_warmup version monitoring_config_file "
    "remove_unused_fields_from_bundle_metagraph prefer_tflite_model num_tflite_pools "
    "num_tflite_interpreters_per_pool enable_signature_method_name_check "
    "xla_cpu_compilation_enabled xla_gpu_compilation_enabled enable_profiler "
    "thread_pool_factory_config_file mixed_precision skip_initialize_tpu "
    "enable_grpc_healthcheck_service enable_serialization_as_tensor_content"
)


def _parse(*arguments: str) -> flags.FlagValues:
    """Parses arguments into flags of their own."""
    values = flags.FlagValues()
    command_flags.define(values)
    command_flags.parse(["model_server", *arguments], values)
    return values


def _refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        _parse(*arguments)
    assert caught.value.code == 1
    return capsys.readouterr().err


def test_the_flags_are_those_of_tensorflow_serving_and_six_more() -> None:
    values = flags.FlagValues()
    command_flags.define(values)
    own = {"host", "bfloat16", "end_with_input"}
    own |= {"max_request_bytes", "max_input_elements", "max_input_rows"}
    assert set(values) == {*_TENSORFLOW_SERVING.split(), *own}


def test_help_lists_the_flags() -> None:
    shown = _parse().main_module_help()
    for name in ("port", "model_base_path", "num_load_threads"):
        assert f"--{name}:" in shown


def test_unknown_flags_and_wrong_values_end_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    for argument, message in (
        ("--no_such_flag=1", "unknown argument: --no_such_flag\n"),
        ("--prot=1", "Did you mean: port"),
        ("--port=many", "flag --port=many"),
        ("--port=70000", "70000"),
        ("--use_alts_credentials", "--use_alts_credentials is refused: the server has no ALTS"),
        ("--ssl_config_file=a", "--ssl_config_file is refused: the server has no TLS"),
        ("--saved_model_tags=gpu", "--saved_model_tags is refused: only graphs with the tag"),
        ("--platform_config_file=a", "--platform_config_file is refused: only the platform"),
    ):
        assert message in _refused(capsys, argument)


def test_flags_without_effect_are_accepted_and_named() -> None:
    values = _parse(
        "--num_load_threads=2",
        "--flush_filesystem_caches=false",
        "--port=1",
        "--enable_batching",
        "--batching_parameters_file=/no/file",
        "--enable_per_model_batching_parameters",
        "--prefer_tflite_model",
        "--noenable_profiler",
        "--per_process_gpu_memory_fraction=0.5",
    )
    assert [line.split(" here:")[0] for line in command_flags.without_effect(values)] == [
        "--enable_batching has no effect",
        "--batching_parameters_file has no effect",
        "--enable_per_model_batching_parameters has no effect",
        "--prefer_tflite_model has no effect",
        "--enable_profiler has no effect",
        "--num_load_threads has no effect",
        "--flush_filesystem_caches has no effect",
        "--per_process_gpu_memory_fraction has no effect",
    ]
    assert not list(command_flags.without_effect(_parse()))


def test_a_file_that_is_missing_or_contains_another_message_is_named(
    tmp_path: pathlib.Path,
) -> None:
    with pytest.raises(FileNotFoundError, match="/no/file"):
        command.options(_parse("--monitoring_config_file=/no/file"))
    path = tmp_path / "monitoring.config"
    path.write_text("nonsense: 1")
    with pytest.raises(ValueError, match=f"Invalid protobuf file: '{path}'. Expected a Monit"):
        command.options(_parse(f"--monitoring_config_file={path}"))


def test_the_flags_become_options(tmp_path: pathlib.Path) -> None:
    monitoring = tmp_path / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: true }")
    made = command.options(
        _parse(
            f"--monitoring_config_file={monitoring}",
            "--grpc_channel_arguments=grpc.max_connection_age_ms=2000,grpc.a=b",
            "--rest_api_timeout_in_ms=1500",
            "--load_retry_interval_micros=2000000",
            "--tensorflow_intra_op_parallelism=2",
            "--tensorflow_inter_op_parallelism=3",
            "--enable_grpc_healthcheck_service",
        )
    )
    assert made.prometheus_path == "/monitoring/prometheus/metrics"
    assert made.grpc_channel_arguments == (("grpc.max_connection_age_ms", 2000), ("grpc.a", "b"))
    assert (made.rest_api_timeout_seconds, made.load_retry_seconds) == (1.5, 2.0)
    assert made.enable_grpc_healthcheck_service
    session = made.session_config
    assert session is not None
    assert (session.intra_op_parallelism_threads, session.inter_op_parallelism_threads) == (2, 3)


def test_a_rest_timeout_of_0_or_less_is_none() -> None:
    for value in (0, -1):
        made = command.options(_parse(f"--rest_api_timeout_in_ms={value}"))
        assert made.rest_api_timeout_seconds == math.inf


def test_no_flags_are_the_default_options() -> None:
    made = command.options(_parse())
    defaults = server_options.ServerOptions(session_config=made.session_config)
    assert made == defaults
    session = made.session_config
    assert session is not None
    # One thread, the caller's own.
    assert (session.intra_op_parallelism_threads, session.inter_op_parallelism_threads) == (1, 0)


def test_a_channel_argument_without_a_value_is_refused() -> None:
    message = "--grpc_channel_arguments has 'a'; expected name=value"
    with pytest.raises(saved_model.StatusError, match=message):
        command.options(_parse("--grpc_channel_arguments=a"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port=0"], "At least one of server_options.grpc_port or"),
        (["--port=8501"], "--port and --rest_api_port are both 8501; expected different ports"),
        ([], "Both server_options.model_base_path and server_options.model_config_file are empty!"),
    ],
)
def test_a_server_needs_a_port_and_a_model(arguments: Sequence[str], message: str) -> None:
    with pytest.raises(saved_model.StatusError) as caught:
        command.models(_parse(*arguments))
    assert caught.value.message.startswith(message)


def test_a_socket_alone_is_enough() -> None:
    flags = "--port=0", "--rest_api_port=0", "--grpc_socket_path=/s", "--model_base_path=/m"
    assert command.models(_parse(*flags)) == model_config.build({"default": "/m"})


def _status(channel: grpc.Channel) -> int:
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "m"})
    return stub.GetModelStatus(request, timeout=20).model_version_status[0].version


def test_grpc_is_answered_on_a_unix_socket_too(tmp_path: pathlib.Path) -> None:
    saved_models.save_lookup(tmp_path / "7")
    path = tmp_path / "s"
    options = model_server.Options(grpc_socket_path=str(path))
    for port in (0, None):
        with model_server.ModelServer({"m": tmp_path}, port=port, options=options) as server:
            with grpc.insecure_channel(f"unix:{path}") as channel:
                assert _status(channel) == 7
            assert bool(server.port) == (port is not None)
