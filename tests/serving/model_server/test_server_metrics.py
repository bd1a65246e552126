"""The embedded server's metrics: TensorFlow Serving's names and form, read from the REST port."""

import pathlib
from collections.abc import Iterator

import grpc
import httpx
import numpy as np
import pytest
import saved_models
from tensorflow_serving.apis import (
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from serving.model_server import server as model_server
from serving.model_server import tensor_codec

_PATH = "/monitoring/prometheus/metrics"


def _request(name: str, rows: list[int]) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.inputs["rows"].CopyFrom(tensor_codec.encode_tensor(np.array(rows, np.int32)))
    return request


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[model_server.ModelServer]:
    base = tmp_path_factory.mktemp("lookup")
    saved_models.save_lookup(base / "1")
    log = prediction_log_pb2.PredictionLog(predict_log={"request": _request("lookup", [0])})
    saved_models.write_warm_up(base / "1", [log, log])
    options = model_server.Options(prometheus_path=_PATH)
    with model_server.ModelServer({"lookup": base}, rest_port=0, options=options) as running:
        yield running


@pytest.fixture(scope="module")
def http(server: model_server.ModelServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{server.rest_port}", timeout=20) as client:
        yield client


def _values(http: httpx.Client) -> dict[str, float]:
    response = http.get(_PATH)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain"
    pairs = (line.rsplit(" ", 1) for line in response.text.splitlines() if line[0] != "#")
    return {name: float(value) for name, value in pairs}


def test_requests_are_counted_by_model_status_and_entry(
    server: model_server.ModelServer, http: httpx.Client
) -> None:
    before = _values(http)
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        stub.Predict(_request("lookup", [1]), timeout=20)
        for wrong in (_request("lookup", [9]), _request("nope", [1])):
            with pytest.raises(grpc.RpcError):
                stub.Predict(wrong, timeout=20)
    http.post("/v1/models/lookup:predict", json={"instances": [1, 2]})
    http.get("/v1/models/lookup")
    http.get("/v1/foo")
    after = _values(http)

    def more(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    count = ':tensorflow:serving:request_count{model_name="%s",status="%s"}'
    # One prediction by gRPC, one by REST, one status.
    assert more(count % ("lookup", "OK")) == 3
    assert more(count % ("lookup", "INVALID_ARGUMENT")) == 1
    assert more(count % ("nope", "NOT_FOUND")) == 1
    assert more(count % ("", "INVALID_ARGUMENT")) == 1
    latency = (
        ':tensorflow:serving:request_latency_count{API="%s",entrypoint="%s",model_name="lookup"}'
    )
    assert more(latency % ("Predict", "GRPC")) == 1
    assert more(latency % ("predict", "REST")) == 1
    runs = (
        ':tensorflow:serving:runtime_latency_count{API="Predict",model_name="lookup",runtime="TF1"}'
    )
    assert more(runs) == 2


def test_loads_and_warm_ups_are_counted(
    server: model_server.ModelServer, http: httpx.Client
) -> None:
    values = _values(http)
    path = next(iter(server.manager._models["lookup"].values())).model.path  # type: ignore[union-attr]
    assert (
        values[
            f':tensorflow:cc:saved_model:load_attempt_count{{model_path="{path}",status="success"}}'
        ]
        == 1
    )
    assert values[f':tensorflow:cc:saved_model:load_latency{{model_path="{path}"}}'] > 0
    assert (
        values[f':tensorflow:serving:model_warmup_records_read{{model_path="{path}",status="OK"}}']
        == 2
    )


def test_metrics_have_the_path_that_the_file_gives_and_none_without(
    tmp_path: pathlib.Path,
) -> None:
    saved_models.save_lookup(tmp_path / "1")
    options = model_server.Options(prometheus_path="/metrics")
    with model_server.ModelServer({"m": tmp_path}, rest_port=0, options=options) as server:
        url = f"http://127.0.0.1:{server.rest_port}"
        assert httpx.get(url + "/metrics", timeout=20).text.startswith("# HELP ")
        other = httpx.get(url + _PATH, timeout=20)
        assert (other.status_code, other.headers["content-type"]) == (404, "text/html")
