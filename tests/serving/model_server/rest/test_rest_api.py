"""The embedded model server over REST, against TensorFlow Serving's table of answers."""

import base64
import json
import pathlib
import re
import socket
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import httpx
import pytest
import saved_models
import sockets

from serving import saved_model
from serving.model_server import server as model_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[model_server.ModelServer]:
    base = tmp_path_factory.mktemp("models")
    saved_models.save_score(base / "m" / "1")
    saved_models.save_text(base / "text" / "3")
    saved_models.save_lookup(base / "lookup" / "1")
    names = ("m", "text", "lookup")
    with model_server.ModelServer({name: base / name for name in names}, rest_port=0) as running:
        yield running


@pytest.fixture(scope="module")
def http(server: model_server.ModelServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{server.rest_port}", timeout=20) as client:
        yield client


def _predict(http: httpx.Client, body: Any, path: str = "/v1/models/m:predict") -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = http.post(path, content=content)
    assert response.headers["content-type"] == "application/json"
    return response


def test_the_row_form_answers_row_by_row(http: httpx.Client) -> None:
    rows = [{"uid": 7, "x": [1, 2]}, {"uid": 8, "x": [3.25, 4]}]
    response = _predict(http, {"instances": rows})
    assert response.status_code == 200
    # 1 + 2 * 2 = 5 and 3.25 + 2 * 4 = 11.25.
    assert response.json() == {"predictions": [{"id": 7, "s": 5.0}, {"id": 8, "s": 11.25}]}


def test_the_column_form_answers_column_by_column(http: httpx.Client) -> None:
    response = _predict(http, {"inputs": {"uid": [7, 8], "x": [[1, 2], [3, 4]]}})
    assert response.json() == {"outputs": {"id": [7, 8], "s": [5.0, 11.0]}}


def test_a_single_input_and_output_go_without_their_names(http: httpx.Client) -> None:
    path = "/v1/models/lookup:predict"
    assert _predict(http, {"instances": [2, 0]}, path).json() == {"predictions": [30.0, 10.0]}
    assert _predict(http, {"instances": [{"rows": 1}]}, path).json() == {"predictions": [20.0]}
    assert _predict(http, {"inputs": [2, 0]}, path).json() == {"outputs": [30.0, 10.0]}
    assert _predict(http, {"inputs": {"rows": [1]}}, path).json() == {"outputs": [20.0]}
    assert _predict(http, {"inputs": []}, path).json() == {"outputs": []}


def test_binary_strings_travel_as_base64_in_and_out(http: httpx.Client) -> None:
    encoded = {"b64": base64.b64encode(b"\x00\xff").decode()}
    path = "/v1/models/text:predict"
    body = {
        "signature_name": "binary",
        "instances": [{"image_bytes": encoded}, {"image_bytes": "a"}],
    }
    assert _predict(http, body, path).json() == {"predictions": [encoded, {"b64": "YQ=="}]}
    # Without the suffix _bytes, the bytes of an output are written as they are, text or not.
    body = {"instances": [encoded, "é"]}
    assert b'["\\u0000\xff", "\xc3\xa9"]' in _predict(http, body, path).content


def test_a_scalar_needs_no_list_in_the_column_form(http: httpx.Client) -> None:
    path = "/v1/models/text:predict"
    assert _predict(http, {"inputs": "a"}, path).json() == {"outputs": "a"}
    assert _predict(http, {"inputs": 1}, "/v1/models/lookup:predict").json() == {"outputs": 20.0}


def test_version_signature_and_case_of_the_path(http: httpx.Client) -> None:
    body = {"signature_name": "serving_default", "instances": [2]}
    for path in ("/v1/models/lookup/versions/1:predict", "/V1/MODELS/%6Cookup:predict"):
        assert _predict(http, body, path).json() == {"predictions": [30.0]}


def test_not_a_number_and_infinity_are_read_and_written(http: httpx.Client) -> None:
    body = b'{"inputs": {"uid": [1, 2, 3], "x": [[NaN, 0], [Infinity, 0], [-Infinity, 0]]}}'
    assert '"s": [NaN, Infinity, -Infinity]' in _predict(http, body).text


def test_floats_are_written_with_as_many_digits_as_they_need(http: httpx.Client) -> None:
    numbers = [0.1, 1 / 3, 1e-5, 16777216, 1e30]
    body = {"instances": [{"uid": 0, "x": [number, 0]} for number in numbers]}
    texts = re.findall(r'"s": ([^}]*)', _predict(http, body).text)
    # The shortest decimals that round to the same float32; 1/3 needs eight digits.
    assert texts == ["0.1", "0.33333334", "1e-05", "16777216.0", "1e+30"]


def test_status_and_metadata_have_the_stored_json_form(http: httpx.Client) -> None:
    assert http.get("/v1/models/text").json() == {
        "model_version_status": [
            {
                "version": "3",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }
    assert http.get("/v1/models/text/versions/3").status_code == 200
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


_ROW = {"uid": 1, "x": [1, 2]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The body is not valid JSON: Expecting value: line 1 column 1 (char 0)"),
        (b' {"a": [1,', "The body is not valid JSON: Expecting value: line 1 column 11 (char 10)"),
        (b'{"instances": [1]} {}', "not valid JSON: Extra data: line 1 column 20 (char 19)"),
        (b'{"a": "\xff"}', "The body is not valid JSON: 'utf-8' codec can't decode byte 0xff"),
        (b'{"a": "\\ud800"}', "not valid JSON: 'utf-8' codec can't encode character '\\ud800'"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON: Exceeds the limit (4300 digits)"),
        (b'{"a": -1E+400}', "not valid JSON: -1E+400 is too large for a floating-point number"),
        (b"[" * 100_000, "The body has too many nested levels."),
        (b"[]", "The body is []; expected a JSON object."),
        (b"[1" + b", 1" * 200 + b"]", "[1" + ", 1" * 84 + ", ...; expected a JSON object."),
        ({}, "Missing 'inputs' or 'instances' key"),
        ({"instances": [1], "inputs": [1]}, "expected only one of them."),
        ({"instances": 3}, "'instances' is 3; expected a list of at least one row."),
        ({"instances": []}, "'instances' is []; expected a list of at least one row."),
        ({"signature_name": 5, "instances": [1]}, "'signature_name' is 5; expected a string."),
        ({"signature_name": "zz"}, 'Serving signature name: "zz" not found in signature def'),
        # No coercion.
        (
            {"instances": [_ROW, {"uid": 1, "x": ["1", 2]}]},
            'Input x[1][0]: got "1"; expected a value of type float',
        ),
        (
            {"instances": [{"uid": 1.5, "x": [1, 2]}]},
            "Input uid[0]: got 1.5; expected a value of type int64",
        ),
        (
            {"instances": [{"uid": True, "x": [1, 2]}]},
            "Input uid[0]: got true; expected a value of type int64",
        ),
        (
            {"instances": [{"uid": 2**63, "x": [1, 2]}]},
            "Input uid[0]: got 9223372036854775808; expected a value of type int64",
        ),
        (
            {"inputs": {"uid": [1], "x": [[None, {}]]}},
            "Input x[0][0]: got null; expected a value of type float",
        ),
        (
            {"inputs": {"uid": [1], "x": [[10**400, 2]]}},
            "Input x: an integer is too large for a floating-point number.",
        ),
        # Names.
        (
            {"instances": [{"uid": 1, "x": [1, 2], "y": 0}]},
            '"y": 0}; expected an object with the keys uid, x.',
        ),
        (
            {"instances": [{"uid": 1}]},
            "Row 0 of 'instances' is {\"uid\": 1}; expected an object with the keys uid, x.",
        ),
        (
            {"instances": [_ROW, [1]]},
            "Row 1 of 'instances' is [1]; expected an object with the keys uid, x.",
        ),
        (
            {"instances": [[1]]},
            "The values have no names, but the signature has 2 inputs; expected objects with the "
            "keys uid, x.",
        ),
        ({"instances": [{"b64": "YQ=="}]}, "The values have no names"),
        ({"inputs": [1]}, "The values have no names"),
        ({"inputs": {"uid": [1]}}, "Missing named input: x in 'inputs' object."),
        # Shapes.
        (
            {"instances": [_ROW, {"uid": 1, "x": [1]}]},
            "Input x[0]: got [1, 2]; expected a value of type float",
        ),
        (
            {"inputs": {"uid": [1], "x": [[1, 2], 3]}},
            "Input x[0]: got [1, 2]; expected a value of type float",
        ),
        (
            {"inputs": {"uid": [1], "x": [[1, [2]]]}},
            "Input x[0][1]: got [2]; expected a value of type float",
        ),
        (
            b'{"inputs": {"uid": [1], "x": ' + b"[" * 500 + b"]" * 500 + b"}}",
            "got " + "[" * 256 + "...; expected a value of type float",
        ),
    ],
)
def test_requests_that_do_not_fit_are_400_with_a_json_error(
    http: httpx.Client, body: Any, message: str
) -> None:
    response = _predict(http, body)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert message in response.json()["error"]


def test_an_operations_error_about_a_shape_is_400(http: httpx.Client) -> None:
    response = _predict(http, {"inputs": {"uid": [1], "x": [[1, 2, 3]]}})
    assert response.status_code == 400
    assert "Matrix size-incompatible: In[0]: [1,3], In[1]: [2,1]" in response.json()["error"]


def test_a_byte_order_mark_is_ignored(http: httpx.Client) -> None:
    body = b'\xef\xbb\xbf{"instances": [1]}'
    assert _predict(http, body, "/v1/models/lookup:predict").json() == {"predictions": [20.0]}


def test_strings_are_not_coerced(http: httpx.Client) -> None:
    path = "/v1/models/text:predict"
    response = _predict(http, {"instances": [5]}, path)
    assert response.status_code == 400
    assert response.json() == {
        "error": "Input text[0]: got 5; expected a value of type string, in lists of equal lengths."
    }


def test_base64_is_accepted_with_full_padding_or_none(http: httpx.Client) -> None:
    path = "/v1/models/text:predict"
    response = _predict(http, {"inputs": [{"b64": text} for text in ("YQ==", "YQ")]}, path)
    assert response.json() == {"outputs": ["a", "a"]}
    for text in ("YQ=", "YQ===", "YWI==", "Y", "YQ=Q", "Y Q", "_-8=", "?"):
        response = _predict(http, {"inputs": [{"b64": text}]}, path)
        assert response.status_code == 400, text
        assert f'Input text: "{text}" is not valid base64' in response.json()["error"]


def test_an_object_that_is_not_base64_is_refused(http: httpx.Client) -> None:
    response = _predict(http, {"inputs": [{"b64": 5}]}, "/v1/models/text:predict")
    assert (response.status_code, response.json()) == (
        400,
        {"error": 'Input text: got {"b64": 5}; expected a string or {"b64": "..."}.'},
    )


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/v1/foo", 400, "Malformed request: GET /v1/foo"),
        ("GET", "/v1/models/m:predict", 400, "Malformed request: GET /v1/models/m:predict"),
        ("POST", "/v1/models/m", 400, "Malformed request: POST /v1/models/m"),
        ("DELETE", "/v1/models/m", 400, "Malformed request: DELETE /v1/models/m"),
        ("TRACE", "/v1/models/m", 400, "Malformed request: TRACE /v1/models/m"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1/models/nope", 404, "Could not find any versions of model nope"),
        ("GET", "/v1/models/m/versions/9", 404, "Could not find version 9 of model m"),
        (
            "GET",
            "/v1/models/m/versions/99999999999999999999",
            400,
            "Failed to convert version: 99999999999999999999 to numeric.",
        ),
        (
            "GET",
            "/v1/models/nope/metadata",
            404,
            "Servable not found for request: Latest(nope)",
        ),
    ],
)
def test_paths_that_name_nothing_are_errors(
    http: httpx.Client, method: str, path: str, status: int, message: str
) -> None:
    response = http.request(method, path)
    assert (response.status_code, response.json()) == (status, {"error": message})


def test_a_query_is_part_of_the_path(tmp_path: pathlib.Path) -> None:
    saved_models.save_lookup(tmp_path / "1")
    options = model_server.Options(prometheus_path="/metrics")
    with (
        model_server.ModelServer({"m": tmp_path}, rest_port=0, options=options) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.rest_port}", timeout=20) as http,
    ):
        predicted = _predict(http, {"instances": [1]}, "/v1/models/m:predict?x=1")
        assert (predicted.status_code, predicted.json()) == (
            400,
            {"error": "Malformed request: POST /v1/models/m:predict?x=1"},
        )
        status = http.get("/v1/models/m?x=1")
        assert (status.status_code, status.json()) == (
            404,
            {"error": "Could not find any versions of model m?x=1"},
        )
        metrics = http.get("/metrics?x=1")
        assert (metrics.status_code, metrics.text) == (
            400,
            "Unexpected path: /metrics?x=1. Should be /metrics",
        )
        assert http.get("/metrics").status_code == 200


def test_unknown_models_versions_and_labels_in_a_prediction(http: httpx.Client) -> None:
    body = {"instances": [_ROW]}
    for path, status, message in (
        ("/v1/models/nope:predict", 404, "Servable not found for request: Latest(nope)"),
        ("/v1/models/m/versions/9:predict", 404, "Servable not found for request: Specific(m, 9)"),
        ("/v1/models/m/labels/zz:predict", 400, "Unrecognized servable version label: zz"),
    ):
        response = _predict(http, body, path)
        assert (response.status_code, response.json()) == (status, {"error": message})


def test_an_operations_error_is_400_with_its_message(http: httpx.Client) -> None:
    response = _predict(http, {"instances": [9]}, "/v1/models/lookup:predict")
    assert response.status_code == 400
    assert "indices[0] = 9 is not in [0, 3)" in response.json()["error"]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 400),
        (grpc.StatusCode.FAILED_PRECONDITION, 400),
        (grpc.StatusCode.OUT_OF_RANGE, 400),
        (grpc.StatusCode.NOT_FOUND, 404),
        (grpc.StatusCode.ALREADY_EXISTS, 409),
        (grpc.StatusCode.ABORTED, 409),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
        (grpc.StatusCode.CANCELLED, 499),
        (grpc.StatusCode.INTERNAL, 500),
        (grpc.StatusCode.UNIMPLEMENTED, 501),
        (grpc.StatusCode.UNAVAILABLE, 503),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 504),
    ],
)
def test_each_status_has_its_http_code(
    server: model_server.ModelServer,
    http: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
    code: grpc.StatusCode,
    status: int,
) -> None:
    def fail(*_: object) -> None:
        raise saved_model.StatusError(code, "é")

    monkeypatch.setattr(server.manager, "status", fail)
    response = http.get("/v1/models/m")
    assert (response.status_code, response.json()) == (status, {"error": "é"})


def test_outside_v1_is_a_404_page(http: httpx.Client) -> None:
    for path in ("/", "/monitoring/prometheus/metrics", "/v1"):
        response = http.get(path)
        assert (response.status_code, response.headers["content-type"]) == (404, "text/html")
        assert "<H1>Not Found</H1>" in response.text


def test_a_name_that_is_not_utf8_names_no_model(http: httpx.Client) -> None:
    response = _predict(http, {"instances": [_ROW]}, "/v1/models/%ff:predict")
    assert response.status_code == 404
    assert response.json()["error"].startswith("Servable not found for request: Latest(")


def test_a_connection_is_kept_and_a_body_in_pieces_is_read(
    server: model_server.ModelServer,
) -> None:
    assert server.rest_port is not None
    body = json.dumps({"instances": [2]}).encode()
    head = b"POST /v1/models/lookup:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=20) as connection:
        for _ in range(2):
            connection.sendall(head % len(body) + body[:5])
            connection.sendall(body[5:])
            reply = sockets.receive(connection, lambda reply: reply.endswith(b"}"))
            assert reply.startswith(b"HTTP/1.1 200 OK")


def test_a_body_that_is_too_large_is_refused(http: httpx.Client) -> None:
    body = b'{"instances": [2]}' + b" " * (32 * 2**20 - 17)
    response = http.post("/v1/models/lookup:predict", content=body)
    assert (response.status_code, response.json()) == (
        413,
        {"error": "The body is larger than --max_request_bytes=33554432."},
    )
    assert _predict(http, {"instances": [2]}, "/v1/models/lookup:predict").is_success


def test_more_rows_than_allowed_are_refused(tmp_path: pathlib.Path) -> None:
    saved_models.save_lookup(tmp_path / "lookup" / "1")
    options = model_server.Options(max_input_rows=3)
    models = {"lookup": tmp_path / "lookup"}
    with (
        model_server.ModelServer(models, rest_port=0, options=options) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.rest_port}", timeout=20) as http,
    ):
        path = "/v1/models/lookup:predict"
        assert _predict(http, {"instances": [2, 1, 0]}, path).is_success
        refused = _predict(http, {"instances": [2, 1, 0, 1]}, path)
    assert refused.status_code == 400
    assert refused.json()["error"].startswith("Input rows has 4 rows; expected at most 3.")


def test_each_of_32_threads_gets_its_own_answer(http: httpx.Client) -> None:
    def ask(number: int) -> Any:
        body = {"instances": [{"uid": number, "x": [number, number]}]}
        return _predict(http, body).json()["predictions"]

    with futures.ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, range(128)))
    assert answers == [[{"id": n, "s": 3.0 * n}] for n in range(128)]
