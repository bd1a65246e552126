"""Classify, Regress and MultiInference over gRPC and REST, against TensorFlow Serving's answers."""

import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import pytest
import saved_models
from google.protobuf import text_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_service_pb2_grpc,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving.model_server import server as model_server

_INVALID = grpc.StatusCode.INVALID_ARGUMENT
_CLASSIFY = "tensorflow/serving/classify"
_REGRESS = "tensorflow/serving/regress"
Stub = prediction_service_pb2_grpc.PredictionServiceStub


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    base = tmp_path_factory.mktemp("models")
    saved_models.save_examples(base / "e" / "5")
    return base


@pytest.fixture(scope="module")
def server(base: pathlib.Path) -> Iterator[model_server.ModelServer]:
    with model_server.ModelServer({"e": base / "e"}, rest_port=0) as running:
        yield running


@pytest.fixture(scope="module")
def stub(server: model_server.ModelServer) -> Iterator[Stub]:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield Stub(channel)


@pytest.fixture(scope="module")
def http(server: model_server.ModelServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{server.rest_port}", timeout=20) as client:
        yield client


def _floats(**values: float) -> str:
    features = (
        f'feature {{ key: "{name}" value {{ float_list {{ value: {value} }} }} }}'
        for name, value in values.items()
    )
    return f"{{ features {{ {' '.join(features)} }} }}"


def _input(*xs: float, **context: float) -> input_pb2.Input:
    examples = " ".join(f"examples {_floats(x=x)}" for x in xs)
    if context:
        text = f"example_list_with_context {{ {examples} context {_floats(**context)} }}"
    else:
        text = f"example_list {{ {examples} }}"
    return text_format.Parse(text, input_pb2.Input())


def _regression(signature: str, *xs: float, **context: float) -> regression_pb2.RegressionRequest:
    request = regression_pb2.RegressionRequest(input=_input(*xs, **context))
    request.model_spec.name, request.model_spec.signature_name = "e", signature
    return request


def _classification(signature: str, *xs: float) -> classification_pb2.ClassificationRequest:
    request = classification_pb2.ClassificationRequest(input=_input(*xs))
    request.model_spec.name, request.model_spec.signature_name = "e", signature
    return request


def _multi(*tasks: tuple[str, str, str]) -> inference_pb2.MultiInferenceRequest:
    request = inference_pb2.MultiInferenceRequest(input=_input(2.0))
    for name, signature, method in tasks:
        task = request.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = name, signature
    return request


def _error(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


def test_regress_gives_each_example_its_number(stub: Stub) -> None:
    reply = stub.Regress(_regression("regress", 2.0, 6.0), timeout=20)
    # 2 / 2 + 2 = 3 and 6 / 2 + 2 = 5.
    assert [item.value for item in reply.result.regressions] == [3.0, 5.0]
    spec = reply.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("e", 5, "regress")


def test_without_a_signature_name_the_serving_default_is_used(stub: Stub) -> None:
    reply = stub.Regress(_regression("", 2.0), timeout=20)
    assert [item.value for item in reply.result.regressions] == [3.0]
    assert reply.model_spec.signature_name == "serving_default"


def test_the_context_is_part_of_each_example_whose_values_take_precedence(stub: Stub) -> None:
    reply = stub.Regress(_regression("regress", 2.0, 6.0, bias=10.0, x=100.0), timeout=20)
    # All examples take the bias of the context, and keep their own x.
    assert [item.value for item in reply.result.regressions] == [13.0, 15.0]


def test_a_small_request_of_many_examples_is_refused(stub: Stub) -> None:
    request = _regression("regress", 2.0)
    # Two bytes each.
    for _ in range(2**17):
        request.input.example_list.examples.add()
    assert _error(lambda: stub.Regress(request, timeout=20)) == (
        _INVALID,
        "Input inputs has 131073 rows; expected at most 131072. Send several requests, or raise "
        "--max_input_rows",
    )
    request = _regression("regress", 2.0, 6.0, bias=10.0)
    both = request.input.example_list_with_context
    both.context.features.feature["page"].bytes_list.value.append(b"p" * 1_000_000)
    for _ in range(98):
        both.examples.add()
    code, message = _error(lambda: stub.Regress(request, timeout=20))
    assert code is _INVALID
    assert "for each of 100 examples; expected at most 67108864 bytes in all" in message


def test_classify_gives_labels_and_scores_or_one_of_them(stub: Stub) -> None:
    def classes(signature: str) -> list[tuple[str, float]]:
        reply = stub.Classify(_classification(signature, 0.0, 2.0), timeout=20)
        assert len(reply.result.classifications) == 2
        assert reply.model_spec.version.value == 5
        return [(item.label, item.score) for item in reply.result.classifications[1].classes]

    assert classes("classify") == [("low", 3.0), ("high", -3.0)]
    assert classes("scores") == [("", 3.0), ("", -3.0)]
    assert classes("labels") == [("low", 0.0), ("high", 0.0)]


def test_multi_inference_answers_its_tasks_in_order(stub: Stub) -> None:
    request = _multi(("e", "regress", _REGRESS), ("e", "classify", _CLASSIFY))
    first, second = stub.MultiInference(request, timeout=20).results
    assert [item.value for item in first.regression_result.regressions] == [3.0]
    labels = [item.label for item in second.classification_result.classifications[0].classes]
    assert labels == ["low", "high"]
    assert (first.model_spec.signature_name, first.model_spec.version.value) == ("regress", 5)
    assert second.model_spec.signature_name == "classify"


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("zz", "No signature was found with the name: zz"),
        ("classify", "Expected a regression signature with the input inputs and outputs among "),
        ("other", "Expected a regression signature with the input inputs and outputs among "),
        ("double", "Expected the output outputs as float32 with 2 rows, got float64 [2]"),
        ("wide", "Expected one number for each of 2 examples from outputs"),
        ("one_row", "Expected the output outputs as float32 with 2 rows, got float32 [1]"),
    ],
)
def test_signatures_that_do_not_regress_are_invalid(
    stub: Stub, signature: str, message: str
) -> None:
    code, details = _error(lambda: stub.Regress(_regression(signature, 1.0, 2.0), timeout=20))
    assert code is _INVALID
    assert details.startswith(message)


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("zz", "No signature was found with the name: zz"),
        (
            "regress",
            "Expected a classification signature with the input inputs and outputs among classes, "
            "scores, got: ",
        ),
        ("flat_scores", "Expected classes and scores of one shape [1, num_classes], got [1]"),
    ],
)
def test_signatures_that_do_not_classify_are_invalid(
    stub: Stub, signature: str, message: str
) -> None:
    code, details = _error(lambda: stub.Classify(_classification(signature, 1.0), timeout=20))
    assert code is _INVALID
    assert details.startswith(message)


def test_requests_without_model_or_examples_are_invalid(stub: Stub) -> None:
    for call, request in (
        (stub.Classify, classification_pb2.ClassificationRequest()),
        (stub.Regress, regression_pb2.RegressionRequest()),
    ):
        assert _error(lambda call=call, request=request: call(request, timeout=20)) == (
            _INVALID,
            "Missing ModelSpec",
        )
    empty = _regression("regress")
    assert _error(lambda: stub.Regress(empty, timeout=20)) == (_INVALID, "Input is empty.")
    empty.input.Clear()
    assert _error(lambda: stub.Regress(empty, timeout=20)) == (_INVALID, "Input is empty.")
    unknown = _regression("regress", 1.0)
    unknown.model_spec.name = "nope"
    assert _error(lambda: stub.Regress(unknown, timeout=20)) == (
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Latest(nope)",
    )


@pytest.mark.parametrize(
    ("tasks", "code", "message"),
    [
        ([], _INVALID, "ModelSpec has no name specified."),
        (
            [("e", "regress", _REGRESS), ("", "classify", _CLASSIFY)],
            _INVALID,
            "Found ModelSpec with an empty model name.",
        ),
        (
            [("e", "regress", _REGRESS), ("f", "classify", _CLASSIFY)],
            _INVALID,
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
        ),
        (
            [("e", "regress", _REGRESS), ("e", "regress", _REGRESS)],
            _INVALID,
            "Duplicate evaluation of signature: regress",
        ),
        (
            [("e", "zz", _REGRESS)],
            _INVALID,
            "Requested signature not found in model graph: zz",
        ),
        (
            [("e", "regress", "tensorflow/serving/predict")],
            grpc.StatusCode.UNIMPLEMENTED,
            "Unsupported signature method_name: tensorflow/serving/predict",
        ),
    ],
)
def test_tasks_that_do_not_fit_together_are_refused(
    stub: Stub, tasks: list[tuple[str, str, str]], code: grpc.StatusCode, message: str
) -> None:
    assert _error(lambda: stub.MultiInference(_multi(*tasks), timeout=20)) == (code, message)


def _post(http: httpx.Client, method: str, body: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return http.post(f"/v1/models/e:{method}", content=content)


def test_regress_over_rest(http: httpx.Client) -> None:
    body = {"signature_name": "regress", "examples": [{"x": 2.0}, {"x": [6.5]}, {}]}
    response = _post(http, "regress", body)
    # 2 / 2 + 2 = 3, 6.5 / 2 + 2 = 5.25, and 2 without an x.
    assert response.json() == {"results": [3.0, 5.25, 2.0]}
    body["context"] = {"bias": 10.0}
    assert _post(http, "regress", body).json() == {"results": [13.0, 15.25, 12.0]}


def test_classify_over_rest(http: httpx.Client) -> None:
    body = {"signature_name": "classify", "examples": [{"x": 2.0}, {"x": 4.0}]}
    response = _post(http, "classify", body)
    assert response.json() == {
        "results": [[["low", 3.0], ["high", -3.0]], [["low", 4.0], ["high", -4.0]]]
    }
    body = {"signature_name": "scores", "examples": [{"x": 2.0}]}
    assert _post(http, "classify", body).json() == {"results": [[["", 3.0], ["", -3.0]]]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "'examples' is null; expected a list of at least one object."),
        ({"examples": 1}, "'examples' is 1; expected a list of at least one object."),
        ({"examples": []}, "'examples' is []; expected a list of at least one object."),
        ({"examples": [[1]]}, "Row 0 of 'examples' is [1]; expected an object."),
        ({"examples": [{}], "context": 1}, "'context' is 1; expected an object."),
        (
            {"examples": [{"x": None}]},
            "Row 0 of 'examples', feature x: got null; expected a string",
        ),
        ({"examples": [{"x": [[1.0]]}]}, "feature x: got [1.0]; expected a string"),
        ({"examples": [{"x": {"y": 1}}]}, 'feature x: got {"y": 1}; expected a string'),
        ({"examples": [{"x": [1.0, "a"]}]}, 'feature x: got "a"; expected float as before it.'),
        ({"examples": [{"x": [1, 1.5]}]}, "feature x: got 1.5; expected int64 as before it."),
        ({"examples": [{}, {"x": True}]}, "Row 1 of 'examples', feature x: got true; expected a"),
        ({"examples": [{"x": 2**63}]}, "feature x: got 9223372036854775808; expected a string"),
        ({"examples": [{"x": {"b64": "?"}}]}, 'feature x: "?" is not valid base64'),
        ({"signature_name": "zz", "examples": [{}]}, "No signature was found with the name: zz"),
        (b'{"signature_name": "\xff", "examples": [{}]}', "The body is not valid JSON: 'utf-8'"),
        (b'{"examples": [{"\\ud800": 1.0}]}', "The body is not valid JSON: 'utf-8' codec can't"),
    ],
)
def test_examples_that_do_not_fit_are_400(http: httpx.Client, body: Any, message: str) -> None:
    for method in ("regress", "classify"):
        response = _post(http, method, body)
        assert response.status_code == 400
        assert list(response.json()) == ["error"]
        assert message in response.json()["error"]


def test_json_numbers_keep_their_type_in_the_example(http: httpx.Client) -> None:
    # The model expects floats, and an integer is not one.
    assert "Data types don't match" in _post(http, "regress", {"examples": [{"x": 2}]}).text


def test_warm_up_takes_records_of_each_kind(tmp_path: pathlib.Path, base: pathlib.Path) -> None:
    logs = [
        prediction_log_pb2.PredictionLog(regress_log={"request": _regression("regress", 1.0)}),
        prediction_log_pb2.PredictionLog(
            classify_log={"request": _classification("classify", 1.0)}
        ),
        prediction_log_pb2.PredictionLog(
            multi_inference_log={"request": _multi(("e", "regress", _REGRESS))}
        ),
    ]
    saved_models.save_examples(tmp_path / "1")
    saved_models.write_warm_up(tmp_path / "1", logs)
    with model_server.ModelServer({"e": tmp_path}, poll_seconds=None) as server:
        (tmp_path / "1").rename(tmp_path / "2")
        wrong = prediction_log_pb2.PredictionLog(
            regress_log={"request": _regression("classify", 1.0)}
        )
        (tmp_path / "2" / "assets.extra" / "tf_serving_warmup_requests").unlink()
        (tmp_path / "2" / "assets.extra").rmdir()
        saved_models.write_warm_up(tmp_path / "2", [*logs, wrong])
        server.manager.poll()
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            models = model_service_pb2_grpc.ModelServiceStub(channel)
            request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "e"})
            states = models.GetModelStatus(request, timeout=20).model_version_status
        assert [(item.version, item.state) for item in states] == [
            (2, get_model_status_pb2.ModelVersionStatus.LOADING),
            (1, get_model_status_pb2.ModelVersionStatus.AVAILABLE),
        ]
