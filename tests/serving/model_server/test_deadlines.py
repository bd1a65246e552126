"""A request whose time is over ends its run, as in TensorFlow Serving."""

import pathlib
import time
from collections.abc import Iterator

import grpc
import httpx
import numpy as np
import pytest
import saved_models
import waiting
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving import saved_model
from serving.model_server import rest_server, tensor_codec
from serving.model_server import server as model_server

pytestmark = pytest.mark.process

# Minutes of counting.
_FOR_EVER = 10**9


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("loop")
    saved_models.save_loop(path / "1")
    return path


@pytest.fixture(scope="module")
def server(base: pathlib.Path) -> Iterator[model_server.ModelServer]:
    """With one gRPC thread, a run that goes on is seen by the next request."""
    with model_server.ModelServer({"loop": base}, rest_port=0, grpc_max_threads=1) as running:
        yield running


def _request(steps: int) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest(model_spec={"name": "loop"})
    request.inputs["steps"].CopyFrom(tensor_codec.encode_tensor(np.array([steps], np.int64)))
    return request


def test_a_late_rest_request_gets_504(
    server: model_server.ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{server.rest_port}/v1/models/loop:predict"
    with monkeypatch.context() as patched:
        patched.setattr(rest_server, "TIMEOUT_SECONDS", 0.5)
        reply = httpx.post(url, json={"instances": [_FOR_EVER]}, timeout=20)
    assert (reply.status_code, list(reply.json())) == (504, ["error"])
    assert httpx.post(url, json={"instances": [2]}, timeout=20).json() == {"predictions": [2]}


def test_a_late_grpc_request_ends_its_run(server: model_server.ModelServer) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        # It is connected, so that the late request is under way at once.
        assert list(stub.Predict(_request(1), timeout=20).outputs["count"].int64_val) == [1]
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(_request(_FOR_EVER), timeout=2.0)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        # The only thread becomes free again.
        waiting.until(lambda: server.free_threads._value == 1)
        assert list(stub.Predict(_request(2), timeout=20).outputs["count"].int64_val) == [2]


def test_a_run_without_time_left_is_not_begun(base: pathlib.Path) -> None:
    runner = saved_model.SessionRunner(str(base / "1"))
    signature = runner.signature_defs["serving_default"]
    feed, fetch = signature.inputs["steps"].name, signature.outputs["count"].name
    late = saved_model.deadline_at(time.monotonic())
    with late, pytest.raises(saved_model.StatusError) as caught:
        runner.run({feed: np.array([_FOR_EVER])}, [fetch])
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    runner.close()


def test_an_operations_message_that_is_not_utf8_is_the_requests_fault(base: pathlib.Path) -> None:
    runner = saved_model.SessionRunner(str(base / "1"))
    signature = runner.signature_defs["number"]
    feed, fetch = signature.inputs["text"].name, signature.outputs["number"].name
    with pytest.raises(saved_model.StatusError) as caught:
        runner.run({feed: np.array([b"\xff"], object)}, [fetch])
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    runner.close()
