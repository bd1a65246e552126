"""`python -m serving.model_server` as a process."""

import contextlib
import errno
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import children
import grpc
import httpx
import numpy as np
import pytest
import saved_models
import scripts_in_forks
import waiting
from repository import ROOT as _ROOT
from serving_fixtures import free_port
from tensorflow_serving.apis import (
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from serving.model_server import command, tensor_codec

pytestmark = pytest.mark.process


# As `python -m serving.model_server`, but with less time for running requests.
_DRAIN_SECONDS = 0.5
_IMPATIENT = f"""
from serving.model_server import command
command._DRAIN_SECONDS = {_DRAIN_SECONDS}
command.run()
"""
# `python -m serving.model_server` for a fork of a process that has imported TensorFlow.
_IN_A_FORK = """
import runpy
runpy.run_module("serving.model_server", run_name="__main__", alter_sys=True)
"""


def _started(
    *flags: str, program: tuple[str, str] = ("-m", "serving.model_server")
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    return children.started(
        [sys.executable, *program, *flags],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_says_when_it_is_ready_serves_a_config_file_and_ends_on_sigterm(
    tmp_path: pathlib.Path,
) -> None:
    saved_models.save_lookup(tmp_path / "lookup" / "4")
    config = tmp_path / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "lookup" base_path: "{tmp_path}/lookup" '
        'model_platform: "tensorflow" } }'
    )
    port, rest_port = free_port(), free_port()
    with _started(
        f"--port={port}",
        f"--rest_api_port={rest_port}",
        f"--model_config_file={config}",
        "--end_with_input",
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == f"Serving gRPC 127.0.0.1:{port}, REST 127.0.0.1:{rest_port}: lookup 4\n"
        url = f"http://127.0.0.1:{rest_port}/v1/models/lookup:predict"
        answer = httpx.post(url, json={"instances": [1]}, timeout=20)
        assert answer.json() == {"predictions": [20.0]}
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        # Its input was still open.
        assert process.stderr is not None
        assert "Fatal Python error" not in process.stderr.read()


def test_an_error_at_the_start_is_printed_with_exit_code_1(tmp_path: pathlib.Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(_IN_A_FORK)
    config = tmp_path / "models.config"
    config.write_text("improper model config")
    wrong = {
        "--model_base_path=/no/such/path": "Could not find base path /no/such/path",
        "--model_name=m": "--model_base_path",
        "--no_such_flag=1": "no_such_flag",
        f"--model_config_file={config}": f"Invalid protobuf file: '{config}'",
    }
    for flag, message in wrong.items():
        done = scripts_in_forks.run(program, f"--port={free_port()}", "--rest_api_port=0", flag)
        assert done.returncode == 1
        assert message in done.stderr + done.stdout
        assert "Traceback" not in done.stderr


@contextlib.contextmanager
def _busy(
    tmp_path: pathlib.Path, **options: tuple[str, str]
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server and its port, with a running request that takes minutes."""
    saved_models.save_loop(tmp_path / "loop" / "1")
    port = free_port()
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "default"
    request.inputs["steps"].CopyFrom(tensor_codec.encode_tensor(np.array([10**9])))
    flags = f"--port={port}", "--rest_api_port=0", f"--model_base_path={tmp_path}/loop"
    with (
        _started(*flags, **options) as process,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Serving")
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        answer = stub.Predict.future(request)
        assert process.stderr is not None
        assert any(saved_models.LOOP_BEGINS in line for line in process.stderr)
        yield process, port
        process.kill()
        assert isinstance(answer.exception(timeout=20), grpc.RpcError)


def test_a_long_request_does_not_prevent_the_exit_after_sigterm(
    tmp_path: pathlib.Path,
) -> None:
    assert command._DRAIN_SECONDS == 10
    with _busy(tmp_path, program=("-c", _IMPATIENT)) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0
        assert process.stderr is not None
        message = f"Some requests or loads still run {_DRAIN_SECONDS} s after the stop"
        assert message in process.stderr.read()


def test_a_second_sigterm_ends_the_process_at_once(tmp_path: pathlib.Path) -> None:
    with _busy(tmp_path) as (process, port):
        process.send_signal(signal.SIGTERM)
        waiting.until(lambda: _is_closed(port))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM


@pytest.mark.parametrize("sent", [signal.SIGINT, None], ids=["SIGINT", "end of the input"])
def test_a_load_does_not_prevent_the_exit(
    tmp_path: pathlib.Path, sent: signal.Signals | None
) -> None:
    saved_models.save_loop(tmp_path / "loop" / "1")
    log = prediction_log_pb2.PredictionLog()
    steps = log.predict_log.request.inputs["steps"]
    steps.CopyFrom(tensor_codec.encode_tensor(np.array([10**9])))
    saved_models.write_warm_up(tmp_path / "loop" / "1", [log])
    flags = f"--port={free_port()}", "--rest_api_port=0", f"--model_base_path={tmp_path}/loop"
    with _started(*flags, "--end_with_input") as process:
        assert process.stdin is not None
        assert process.stderr is not None
        assert any(saved_models.LOOP_BEGINS in line for line in process.stderr)
        if sent is not None:
            process.send_signal(sent)
        else:
            process.stdin.close()
        # The end of the input sends SIGTERM.
        assert process.wait(timeout=60) == -(sent or signal.SIGTERM)


def _is_closed(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED
