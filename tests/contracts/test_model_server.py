"""The embedded model server answers as TensorFlow Serving does: values and status codes.

The models are small enough to compute the values by hand. The status codes, the fields of replies
and the JSON forms are those of TensorFlow Serving's protocol (`apis/*.proto`, the REST API's
documentation) and were observed once on a TensorFlow Serving of mid-2026. No reply here was
recorded from it.
"""

import json
import pathlib
import re
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import saved_models
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.model_server import server as model_server
from serving.model_server import tensor_codec

_INVALID = grpc.StatusCode.INVALID_ARGUMENT
_NOT_FOUND = grpc.StatusCode.NOT_FOUND
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_ONE = np.ones([1, 2], np.float32)


class _Client:
    def __init__(self, port: int) -> None:
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=_UNLIMITED)
        self.predictions = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        return self.predictions.Predict(request, timeout=20)

    def reload(self, text: str) -> model_management_pb2.ReloadConfigResponse:
        request = model_management_pb2.ReloadConfigRequest()
        text_format.Merge(text, request.config.model_config_list)
        return self.models.HandleReloadConfigRequest(request, timeout=60)

    def states(self, name: str = "m") -> dict[int, str]:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": name})
        response = self.models.GetModelStatus(request, timeout=20)
        state = get_model_status_pb2.ModelVersionStatus.State
        return {item.version: state.Name(item.state) for item in response.model_version_status}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    base = tmp_path_factory.mktemp("models")
    saved_models.save_score(base / "m" / "1")
    saved_models.save_text(base / "text" / "3")
    saved_models.save_lookup(base / "lookup" / "1")
    return base


@pytest.fixture(scope="module")
def server(models: pathlib.Path) -> Iterator[model_server.ModelServer]:
    served = {name: models / name for name in ("m", "text", "lookup")}
    # One thread for each client of a test.
    with model_server.ModelServer(served, rest_port=0, grpc_max_threads=32) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: model_server.ModelServer) -> Iterator[_Client]:
    connected = _Client(server.port)
    yield connected
    connected.channel.close()


@pytest.fixture(scope="module")
def http(server: model_server.ModelServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{server.rest_port}", timeout=20) as connected:
        yield connected


def _request(name: str = "m", **inputs: np.ndarray) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest(model_spec={"name": name})
    for alias, array in inputs.items():
        request.inputs[alias].CopyFrom(tensor_codec.encode_tensor(array))
    return request


def _score_request() -> predict_pb2.PredictRequest:
    return _request(uid=np.array([7, 8], np.int64), x=np.array([[1, 2], [3, 4]], np.float32))


def _changed(**changes: Any) -> predict_pb2.PredictRequest:
    """A request to score with another model spec or output filter."""
    request = _score_request()
    request.output_filter.extend(changes.pop("output_filter", []))
    request.model_spec.MergeFrom(type(request.model_spec)(**changes))
    return request


def _error(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


def _array(response: predict_pb2.PredictResponse, alias: str) -> np.ndarray:
    return tf.make_ndarray(response.outputs[alias])


def test_predict_answers_values_in_typed_fields_with_the_effective_spec(client: _Client) -> None:
    reply = client.predict(_score_request())
    # 1 + 2 * 2 = 5 and 3 + 2 * 4 = 11.
    assert list(reply.outputs["s"].float_val) == [5.0, 11.0]
    assert list(reply.outputs["id"].int64_val) == [7, 8]
    spec = reply.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("m", 1, "serving_default")


def test_predict_reads_tensor_content(client: _Client) -> None:
    request = _score_request()
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.array([[1, 2], [3, 4]], np.float32)))
    assert request.inputs["x"].tensor_content
    assert _array(client.predict(request), "s").tolist() == [5.0, 11.0]


def test_strings_scalars_and_empty_batches_pass_unchanged(client: _Client) -> None:
    text = np.array([b"\x00\xff", "é".encode(), b""], object)
    reply = client.predict(_request("text", text=text))
    assert list(reply.outputs["text"].string_val) == text.tolist()
    scalar = client.predict(_request("text", text=np.array(b"ab", object))).outputs["text"]
    assert (list(scalar.string_val), scalar.HasField("tensor_shape")) == ([b"ab"], True)
    assert len(scalar.tensor_shape.dim) == 0
    empty = _request(uid=np.zeros([0], np.int64), x=np.zeros([0, 2], np.float32))
    assert _array(client.predict(empty), "s").shape == (0,)


def test_a_message_of_more_than_four_megabytes_is_answered(client: _Client) -> None:
    reply = client.predict(_request("text", text=np.array([b"a" * 6_400_000], object)))
    assert len(reply.outputs["text"].string_val[0]) == 6_400_000


def test_the_output_filter_selects(client: _Client) -> None:
    assert list(client.predict(_changed(output_filter=["s"])).outputs) == ["s"]


def test_a_missing_input_takes_its_default(tmp_path: pathlib.Path) -> None:
    saved_models.save_score(tmp_path / "1")
    saved_models.set_default_input(tmp_path / "1", "x", tf.constant([[10.0, 1.0]]))
    with model_server.ModelServer({"m": tmp_path}) as server:
        # 10 + 2 * 1 = 12.
        assert _array(_Client(server.port).predict(_request(uid=np.array([1]))), "s") == [12.0]


def _truncated() -> predict_pb2.PredictRequest:
    request = _score_request()
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.array([[1, 2], [3, 4]], np.float32)))
    request.inputs["x"].tensor_content = request.inputs["x"].tensor_content[:-1]
    return request


def _untyped() -> predict_pb2.PredictRequest:
    request = _score_request()
    request.inputs["x"].Clear()
    return request


@pytest.mark.parametrize(
    ("request_message", "code", "fact"),
    [
        (_request("nope"), _NOT_FOUND, "Servable not found for request: Latest(nope)"),
        (_changed(version={"value": 99}), _NOT_FOUND, "Specific(m, 99)"),
        (predict_pb2.PredictRequest(), _INVALID, "Missing ModelSpec"),
        (_request(""), _INVALID, "name"),
        (_changed(version_label="zz"), _INVALID, "zz"),
        (_changed(signature_name="zz"), grpc.StatusCode.FAILED_PRECONDITION, "zz"),
        (_request(uid=np.array([1])), _INVALID, "x"),
        (_request(uid=np.array([1]), x=_ONE, extra=_ONE), _INVALID, "extra"),
        (_request(uid=np.array([1]), misnamed=_ONE), _INVALID, "misnamed"),
        (_request(uid=np.array([1]), x=np.ones([1, 2], np.int64)), _INVALID, "int64"),
        (_request(uid=np.array([1]), x=np.ones([1, 3], np.float32)), _INVALID, "[1,3]"),
        (_request("lookup", rows=np.array([9], np.int32)), _INVALID, "9 is not in [0, 3)"),
        (_truncated(), _INVALID, "tensor parsing error: x"),
        (_untyped(), _INVALID, "tensor parsing error: x"),
        (_changed(output_filter=["zz"]), _INVALID, "zz"),
        (_changed(output_filter=["s", "s"]), _INVALID, "s"),
    ],
    ids=lambda value: value.replace(" ", "_") if isinstance(value, str) else "",
)
def test_wrong_predict_requests_have_the_status_of_tensorflow_serving(
    client: _Client, request_message: predict_pb2.PredictRequest, code: grpc.StatusCode, fact: str
) -> None:
    found, message = _error(lambda: client.predict(request_message))
    assert found is code
    assert fact in message


def test_long_messages_are_cut_to_what_a_header_can_hold(client: _Client) -> None:
    code, message = _error(lambda: client.predict(_request("é" * 6000)))
    assert code is _NOT_FOUND
    assert message.endswith("é")


def test_metadata_has_the_signatures_and_only_them(client: _Client) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec={"name": "m"}, metadata_field=["signature_def"]
    )
    reply = client.predictions.GetModelMetadata(request, timeout=20)
    assert (reply.model_spec.name, reply.model_spec.version.value) == ("m", 1)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    reply.metadata["signature_def"].Unpack(signatures)
    found = signatures.signature_def["serving_default"]
    assert (set(found.inputs), set(found.outputs)) == ({"uid", "x"}, {"id", "s"})
    for fields in ([], ["zz"]):
        request.metadata_field[:] = fields
        assert _error(lambda: client.predictions.GetModelMetadata(request))[0] is _INVALID


def test_status_lists_versions_and_unknown_ones_are_not_found(client: _Client) -> None:
    assert client.states("text") == {3: "AVAILABLE"}
    for spec in ({"name": "nope"}, {"name": "m", "version": {"value": 9}}):
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
        assert _error(lambda request=request: client.models.GetModelStatus(request))[0] is (
            _NOT_FOUND
        )


@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        ("", [3]),
        ("latest { num_versions: 2 }", [2, 3]),
        ("all {}", [1, 2, 3]),
        ("specific { versions: 1 versions: 3 }", [1, 3]),
    ],
)
def test_a_reload_replaces_the_models_and_its_policy_says_which_versions_serve(
    tmp_path: pathlib.Path, models: pathlib.Path, policy: str, versions: list[int]
) -> None:
    for version in (1, 2, 3):
        (tmp_path / str(version)).symlink_to(models / "m" / "1")
    with model_server.ModelServer({"lookup": models / "lookup"}, poll_seconds=None) as server:
        client = _Client(server.port)
        reply = client.reload(
            f'config {{ name: "m" base_path: "{tmp_path}" model_platform: "tensorflow" '
            f"model_version_policy {{ {policy} }} }}"
        )
        assert reply.status.error_code == 0
        assert server.manager.available_versions() == {"lookup": [], "m": versions}
        assert client.predict(_score_request()).model_spec.version.value == versions[-1]
        assert _error(lambda: client.predict(_request("lookup")))[0] is _NOT_FOUND
        assert client.states("lookup") == {1: "END"}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('config { name: "m" base_path: "relative" model_platform: "tensorflow" }', _INVALID),
        ('config { name: "m" base_path: "/gone" model_platform: "tensorflow" }', _INVALID),
        ('config { name: "m" base_path: "EMPTY" model_platform: "tensorflow" }', _NOT_FOUND),
        ('config { name: "m" base_path: "/m" model_platform: "other" }', _INVALID),
        (
            'config { name: "m" base_path: "/m" model_platform: "tensorflow"'
            ' version_labels { key: "stable" value: 1 } }',
            _INVALID,
        ),
        (
            'config { name: "m" base_path: "/m" model_platform: "tensorflow" } '
            'config { name: "m" }',
            _INVALID,
        ),
    ],
)
def test_a_wrong_reload_is_refused_and_changes_nothing(
    server: model_server.ModelServer,
    client: _Client,
    tmp_path: pathlib.Path,
    text: str,
    code: grpc.StatusCode,
) -> None:
    before = server.manager.available_versions()
    found, message = _error(lambda: client.reload(text.replace("EMPTY", str(tmp_path))))
    assert found is code
    assert "m" in message
    assert server.manager.available_versions() == before


def test_a_reload_to_a_version_that_cannot_be_loaded_is_unknown(
    tmp_path: pathlib.Path, models: pathlib.Path
) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"\xff" * 100)
    with model_server.ModelServer({"lookup": models / "lookup"}, poll_seconds=None) as server:
        text = f'config {{ name: "m" base_path: "{tmp_path}" model_platform: "tensorflow" }}'
        code, message = _error(lambda: _Client(server.port).reload(text))
    assert code is grpc.StatusCode.UNKNOWN
    assert "saved_model.pb" in message


def test_a_request_beyond_the_threads_is_refused_at_once(models: pathlib.Path) -> None:
    with model_server.ModelServer({"m": models / "m"}, grpc_max_threads=1) as server:
        client = _Client(server.port)
        with server.free_threads:
            code, _ = _error(lambda: client.predict(_score_request()))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert client.predict(_score_request()).model_spec.version.value == 1


def test_each_of_32_threads_gets_its_own_answer(client: _Client) -> None:
    def ask(number: int) -> tuple[list[int], list[float]]:
        x = np.full([1, 2], number, np.float32)
        reply = client.predict(_request(uid=np.array([number]), x=x))
        return list(reply.outputs["id"].int64_val), list(reply.outputs["s"].float_val)

    with futures.ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, range(128)))
    assert answers == [([n], [3.0 * n]) for n in range(128)]


# REST.


def _post(http: httpx.Client, model: str, body: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return http.post(f"/v1/models/{model}:predict", content=content)


_ROW = {"uid": 1, "x": [1, 2]}


@pytest.mark.parametrize(
    ("model", "body", "reply"),
    [
        # 1 + 2 * 2 = 5 and 3.25 + 2 * 4 = 11.25.
        (
            "m",
            {"instances": [{"uid": 7, "x": [1, 2]}, {"uid": 8, "x": [3.25, 4]}]},
            {"predictions": [{"id": 7, "s": 5.0}, {"id": 8, "s": 11.25}]},
        ),
        (
            "m",
            {"inputs": {"uid": [7, 8], "x": [[1, 2], [3, 4]]}},
            {"outputs": {"id": [7, 8], "s": [5.0, 11.0]}},
        ),
        # A single input or output goes without its name.
        ("lookup", {"instances": [2, 0]}, {"predictions": [30.0, 10.0]}),
        ("lookup", {"instances": [{"rows": 1}]}, {"predictions": [20.0]}),
        ("lookup", {"inputs": [2, 0]}, {"outputs": [30.0, 10.0]}),
        ("lookup", {"inputs": {"rows": [1]}}, {"outputs": [20.0]}),
        ("lookup", {"inputs": 1}, {"outputs": 20.0}),
        ("lookup/versions/1", {"instances": [2]}, {"predictions": [30.0]}),
        (
            "lookup",
            {"signature_name": "serving_default", "instances": [2]},
            {"predictions": [30.0]},
        ),
        # Binary strings are base64, in replies if the output's name ends in _bytes.
        (
            "text",
            {
                "signature_name": "binary",
                "instances": [{"image_bytes": {"b64": "AP8="}}, {"image_bytes": "a"}],
            },
            {"predictions": [{"b64": "AP8="}, {"b64": "YQ=="}]},
        ),
        ("text", {"instances": [{"b64": "YQ"}, "é"]}, {"predictions": ["a", "é"]}),
    ],
)
def test_rest_predict_answers_in_the_form_of_the_request(
    http: httpx.Client, model: str, body: Any, reply: Any
) -> None:
    response = _post(http, model, body)
    assert (response.status_code, response.json()) == (200, reply)
    assert response.headers["content-type"] == "application/json"


def test_rest_writes_numbers_with_the_digits_that_they_need(http: httpx.Client) -> None:
    numbers = [0.1, 1 / 3, 1e-5, 16777216, 1e30]
    body = {"instances": [{"uid": 0, "x": [number, 0]} for number in numbers]}
    texts = re.findall(r'"s": ([^}]*)', _post(http, "m", body).text)
    # The shortest decimals that round to the same float32; 1/3 needs eight digits.
    assert texts == ["0.1", "0.33333334", "1e-05", "16777216.0", "1e+30"]
    body = b'{"inputs": {"uid": [1, 2], "x": [[NaN, 0], [-Infinity, 0]]}}'
    assert '"s": [NaN, -Infinity]' in _post(http, "m", body).text


@pytest.mark.parametrize(
    ("body", "fact"),
    [
        (b"", "JSON"),
        (b'{"instances": [1]} {}', "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"[]", "object"),
        ({}, "instances"),
        ({"instances": [1], "inputs": [1]}, "instances"),
        ({"instances": 3}, "instances"),
        ({"instances": []}, "instances"),
        ({"signature_name": 5, "instances": [1]}, "5"),
        ({"signature_name": "zz", "instances": [_ROW]}, "zz"),
        # No coercion.
        ({"instances": [{"uid": 1, "x": ["1", 2]}]}, "x"),
        ({"instances": [{"uid": 1.5, "x": [1, 2]}]}, "uid"),
        ({"instances": [{"uid": True, "x": [1, 2]}]}, "uid"),
        ({"instances": [{"uid": 2**63, "x": [1, 2]}]}, "uid"),
        ({"inputs": {"uid": [1], "x": [[None, {}]]}}, "x"),
        ({"inputs": {"uid": [1], "x": [[10**400, 2]]}}, "x"),
        # Names and shapes.
        ({"instances": [{"uid": 1, "x": [1, 2], "y": 0}]}, "uid, x"),
        ({"instances": [{"uid": 1}]}, "uid, x"),
        ({"instances": [_ROW, [1]]}, "uid, x"),
        ({"instances": [[1]]}, "uid, x"),
        ({"inputs": [1]}, "uid, x"),
        ({"inputs": {"uid": [1]}}, "uid, x"),
        ({"instances": [_ROW, {"uid": 1, "x": [1]}]}, "x"),
        ({"inputs": {"uid": [1], "x": [[1, 2, 3]]}}, "[1,3]"),
    ],
)
def test_rest_requests_that_do_not_fit_are_400(http: httpx.Client, body: Any, fact: str) -> None:
    response = _post(http, "m", body)
    assert (response.status_code, list(response.json())) == (400, ["error"])
    assert fact in response.json()["error"]


@pytest.mark.parametrize("value", [5, {"b64": 5}, {"b64": "YQ="}, {"b64": "?"}, "\ud800"])
def test_rest_strings_are_text_or_base64(http: httpx.Client, value: Any) -> None:
    assert _post(http, "text", {"inputs": [value]}).status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/v1/models/m", 200, ""),
        ("GET", "/v1/models/m/versions/1", 200, ""),
        ("GET", "/v1/foo", 400, "Malformed request: GET /v1/foo"),
        ("GET", "/v1/models/m:predict", 400, "Malformed request"),
        ("POST", "/v1/models/m", 400, "Malformed request"),
        ("DELETE", "/v1/models/m", 400, "Malformed request"),
        ("GET", "/v1/models/nope", 404, "Could not find any versions of model nope"),
        ("GET", "/v1/models/m/versions/9", 404, "Could not find version 9 of model m"),
        ("GET", f"/v1/models/m/versions/{10**20}", 400, f"{10**20}"),
        ("GET", "/v1/models/nope/metadata", 404, "Servable not found for request: Latest(nope)"),
        ("POST", "/v1/models/nope:predict", 404, "Servable not found for request: Latest(nope)"),
        ("POST", "/v1/models/%ff:predict", 404, "Servable not found"),
        ("POST", "/v1/models/m/versions/9:predict", 404, "Specific(m, 9)"),
        ("GET", "/", 404, ""),
    ],
)
def test_rest_paths_have_the_status_of_tensorflow_serving(
    http: httpx.Client, method: str, path: str, status: int, message: str
) -> None:
    response = http.request(method, path, content=b'{"instances": []}')
    assert response.status_code == status
    assert message in response.json().get("error", "")


def test_rest_errors_of_operations_are_400(http: httpx.Client) -> None:
    response = _post(http, "lookup", {"instances": [9]})
    assert response.status_code == 400
    assert "indices[0] = 9 is not in [0, 3)" in response.json()["error"]


def test_rest_status_and_metadata_have_the_stored_json_form(http: httpx.Client) -> None:
    assert http.get("/v1/models/text").json() == {
        "model_version_status": [
            {
                "version": "3",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }
    metadata = http.get("/v1/models/m/metadata").json()
    assert metadata["model_spec"] == {"name": "m", "signature_name": "", "version": "1"}
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"] == {
        "dtype": "DT_FLOAT",
        "name": "serving_default_x:0",
        "tensor_shape": {
            "dim": [{"size": "-1", "name": ""}, {"size": "-1", "name": ""}],
            "unknown_rank": False,
        },
    }
