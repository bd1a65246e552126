"""A request whose time is over ends its run, and is counted as late, as in TensorFlow Serving."""

import pathlib
import threading
import time
from collections.abc import Iterator

import grpc
import httpx
import numpy as np
import pytest
import saved_models
import waiting
from serving.model_server.rest import rest_api, rest_server
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving import saved_model
from serving.model_server import server as model_server
from serving.model_server import tensor_codec

pytestmark = pytest.mark.process

# Minutes of counting.
_FOR_EVER = 10**9
_TIMED_OUT = "Timed out waiting for notification"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("loop")
    saved_models.save_loop(path / "1")
    return path


@pytest.fixture(scope="module")
def server(base: pathlib.Path) -> Iterator[model_server.ModelServer]:
    """One thread each, so that a run that goes on is seen by the next request."""
    options = model_server.Options(
        rest_api_timeout_seconds=0.5, rest_api_num_threads=1, grpc_max_threads=1
    )
    with model_server.ModelServer({"loop": base}, rest_port=0, options=options) as running:
        yield running


def _request(steps: int) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "loop"
    request.inputs["steps"].CopyFrom(tensor_codec.encode_tensor(np.array([steps], np.int64)))
    return request


def _count(server: model_server.ModelServer, status: str) -> float:
    start = f':tensorflow:serving:request_count{{model_name="loop",status="{status}"}} '
    lines = server.metrics.render().decode().splitlines()
    return sum(float(line[len(start) :]) for line in lines if line.startswith(start))


def test_a_rest_request_that_is_late_ends_its_run_and_is_counted_once(
    server: model_server.ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, answered = _count(server, "DEADLINE_EXCEEDED"), _count(server, "OK")
    url = f"http://127.0.0.1:{server.rest_port}/v1/models/loop:predict"
    reply = httpx.post(url, json={"instances": [_FOR_EVER]}, timeout=20)
    assert (reply.status_code, reply.json()) == (504, {"error": _TIMED_OUT})
    monkeypatch.setattr(server._rest, "_timeout_seconds", 60.0)
    # The only thread is free again.
    assert httpx.post(url, json={"instances": [2]}, timeout=20).json() == {"predictions": [2]}
    assert _count(server, "DEADLINE_EXCEEDED") == late + 1
    assert _count(server, "OK") == answered + 1


def test_a_grpc_request_that_is_late_ends_its_run_and_is_counted(
    server: model_server.ModelServer,
) -> None:
    late, answered = _count(server, "DEADLINE_EXCEEDED"), _count(server, "OK")
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        # It is connected, so that the late request is under way at once.
        assert list(stub.Predict(_request(1), timeout=20).outputs["count"].int64_val) == [1]
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(_request(_FOR_EVER), timeout=2.0)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        # The only thread is free again.
        waiting.until(lambda: _count(server, "DEADLINE_EXCEEDED") == late + 1)
        assert list(stub.Predict(_request(2), timeout=20).outputs["count"].int64_val) == [2]
    assert _count(server, "OK") == answered + 2


def test_a_run_without_time_left_is_not_begun(base: pathlib.Path) -> None:
    runner = saved_model.SessionRunner(str(base / "1"))
    signature = runner.signature_defs["serving_default"]
    feed, fetch = signature.inputs["steps"].name, signature.outputs["count"].name
    late = saved_model.deadline_at(time.monotonic())
    with late, pytest.raises(saved_model.StatusError) as caught:
        runner.run({feed: np.array([_FOR_EVER])}, [fetch])
    assert str(caught.value) == f"DEADLINE_EXCEEDED: {_TIMED_OUT}"
    runner.close()


def test_an_operations_message_that_is_not_utf8_is_the_requests_fault(base: pathlib.Path) -> None:
    runner = saved_model.SessionRunner(str(base / "1"))
    signature = runner.signature_defs["number"]
    feed, fetch = signature.inputs["text"].name, signature.outputs["number"].name
    with pytest.raises(saved_model.StatusError) as caught:
        runner.run({feed: np.array([b"\xff"], object)}, [fetch])
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.message.startswith(
        "StringToNumberOp could not correctly convert string: \ufffd"
    )
    runner.close()


class _Held(rest_api.RestApi):
    """Begins to answer only after it is released."""

    def __init__(self, server: model_server.ModelServer) -> None:
        super().__init__(server.manager, model_server.Options(), server.metrics)
        self.released = threading.Event()
        self.ended = threading.Event()

    def handle(self, request: rest_api.RestRequest) -> rest_api.RestReply:
        self.released.wait(20)
        reply = super().handle(request)
        self.ended.set()
        return reply


def test_a_request_that_is_answered_late_is_not_counted_again(
    server: model_server.ModelServer,
) -> None:
    late, answered = _count(server, "DEADLINE_EXCEEDED"), _count(server, "OK")
    api = _Held(server)
    held = rest_server.RestServer(
        api,
        "127.0.0.1",
        0,
        model_server.Options(rest_api_num_threads=1, rest_api_timeout_seconds=0.05),
    )
    held.start()
    reply = httpx.get(f"http://127.0.0.1:{held.port}/v1/models/loop", timeout=20)
    assert (reply.status_code, reply.json()) == (504, {"error": _TIMED_OUT})
    assert _count(server, "DEADLINE_EXCEEDED") == late + 1
    api.released.set()
    assert api.ended.wait(20)
    assert (_count(server, "DEADLINE_EXCEEDED"), _count(server, "OK")) == (late + 1, answered)
    held.stop(1.0)
