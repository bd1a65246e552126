"""The embedded model server over gRPC, against TensorFlow Serving's table of answers."""

import pathlib
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pytest
import saved_models
import tensorflow as tf
import waiting
from google.protobuf import text_format
from serving_fixtures import free_port
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from serving import errors, model_config
from serving.model_server import server as model_server
from serving.model_server import tensor_codec

_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class _Client:
    def __init__(self, port: int) -> None:
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=_UNLIMITED)
        self.predictions = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        return self.predictions.Predict(request, timeout=20)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    base = tmp_path_factory.mktemp("models")
    saved_models.save_score(base / "m" / "1")
    saved_models.save_text(base / "text" / "3")
    saved_models.save_lookup(base / "lookup" / "1")
    return base


@pytest.fixture(scope="module")
def server(models: pathlib.Path) -> Iterator[model_server.ModelServer]:
    names = ("m", "text", "lookup")
    # One thread for each client of a test.
    options = model_server.Options(grpc_max_threads=32)
    with model_server.ModelServer(
        {name: models / name for name in names}, options=options
    ) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: model_server.ModelServer) -> Iterator[_Client]:
    connected = _Client(server.port)
    yield connected
    connected.channel.close()


def _request(
    name: str = "m", as_content: bool = False, **inputs: np.ndarray
) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    for alias, array in inputs.items():
        request.inputs[alias].CopyFrom(tensor_codec.encode_tensor(array, as_content))
    return request


def _score_request(as_content: bool = False) -> predict_pb2.PredictRequest:
    return _request(
        as_content=as_content,
        uid=np.array([7, 8], np.int64),
        x=np.array([[1, 2], [3, 4]], np.float32),
    )


def _error(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


def _array(response: predict_pb2.PredictResponse, alias: str) -> np.ndarray:
    return tensor_codec.decode(response.outputs[alias])


def _reload(
    client: _Client, base: pathlib.Path, text: str = "", name: str = "m"
) -> model_management_pb2.ReloadConfigResponse:
    request = model_management_pb2.ReloadConfigRequest()
    config = request.config.model_config_list.config.add(
        name=name, base_path=str(base), model_platform="tensorflow"
    )
    if text:
        text_format.Merge(text, config)
    return client.models.HandleReloadConfigRequest(request, timeout=60)


def _states(client: _Client, name: str = "m") -> dict[int, str]:
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    response = client.models.GetModelStatus(request, timeout=20)
    state = get_model_status_pb2.ModelVersionStatus.State
    return {item.version: state.Name(item.state) for item in response.model_version_status}


@pytest.mark.parametrize("as_content", [False, True])
def test_predict_equals_the_saved_model_called_directly(
    client: _Client, models: pathlib.Path, as_content: bool
) -> None:
    response = client.predict(_score_request(as_content))
    # 1 + 2 * 2 = 5 and 3 + 2 * 4 = 11.
    assert _array(response, "s").tolist() == [5.0, 11.0]
    assert _array(response, "id").tolist() == [7, 8]
    direct = tf.saved_model.load(str(models / "m" / "1")).signatures["serving_default"](
        uid=tf.constant([7, 8], tf.int64), x=tf.constant([[1, 2], [3, 4]], tf.float32)
    )
    np.testing.assert_array_equal(_array(response, "s"), direct["s"].numpy())


def test_the_reply_names_model_effective_version_and_signature(client: _Client) -> None:
    spec = client.predict(_score_request()).model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("m", 1, "serving_default")


def test_replies_fill_typed_fields(client: _Client) -> None:
    score = client.predict(_score_request()).outputs["s"]
    assert list(score.float_val) == [5.0, 11.0]
    assert not score.tensor_content


def test_replies_fill_tensor_content_if_enabled(models: pathlib.Path) -> None:
    options = model_server.Options(enable_serialization_as_tensor_content=True)
    with model_server.ModelServer({"text": models / "text"}, options=options) as server:
        reply = _Client(server.port).predict(
            _request("text", text=np.array([b"ab", b"", b"\xff"], object))
        )
    assert not reply.outputs["text"].string_val
    # TensorFlow's encoding of strings: their lengths, then their bytes.
    assert reply.outputs["text"].tensor_content == b"\x02\x00\x01ab\xff"


def test_strings_that_are_not_utf8_pass_unchanged(client: _Client) -> None:
    text = np.array([b"\x00\xff", "é".encode(), b""], object)
    assert _array(client.predict(_request("text", text=text)), "text").tolist() == text.tolist()


def test_scalars_are_answered_by_scalars(client: _Client) -> None:
    reply = client.predict(_request("text", text=np.array(b"ab", object)))
    assert _array(reply, "text").shape == ()
    assert _array(reply, "text").item() == b"ab"


def test_a_reply_has_a_shape_even_if_it_is_empty(client: _Client) -> None:
    response = client.predict(_request("lookup", rows=np.array(2, np.int32)))
    assert response.outputs["value"].HasField("tensor_shape")


def test_a_shape_of_unknown_rank_is_read_by_its_sizes(client: _Client) -> None:
    request = _request("lookup", rows=np.array([2, 0], np.int32))
    request.inputs["rows"].tensor_shape.unknown_rank = True
    assert _array(client.predict(request), "value").tolist() == [30.0, 10.0]


def test_a_signature_without_an_output_tensor_has_the_sessions_own_error(client: _Client) -> None:
    # Each SavedModel of TensorFlow 2 has this signature.
    request = _request("lookup")
    request.model_spec.signature_name = "__saved_model_init_op"
    assert _error(lambda: client.predict(request)) == (
        grpc.StatusCode.OUT_OF_RANGE,
        "Node 'NoOp' (type: 'NoOp', num of outputs: 0) does not have output 0",
    )


def test_an_empty_batch_is_valid(client: _Client) -> None:
    response = client.predict(_request(uid=np.zeros([0], np.int64), x=np.zeros([0, 2], np.float32)))
    assert _array(response, "s").shape == (0,)
    assert _array(client.predict(_request("text", text=np.zeros([0], object))), "text").size == 0


def test_a_message_of_more_than_four_megabytes_is_answered(client: _Client) -> None:
    response = client.predict(_request("text", text=np.array([b"a" * 6_400_000], object)))
    assert len(_array(response, "text")[0]) == 6_400_000


def _claimed(dtype: tf.DType, *shape: int) -> tensor_pb2.TensorProto:
    """A tensor of a single value, which stands for a whole tensor."""
    tensor = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum, int64_val=[1], float_val=[1.0])
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    return tensor


def test_a_small_request_that_claims_much_memory_is_refused(client: _Client) -> None:
    request = _score_request()
    request.inputs["x"].CopyFrom(_claimed(tf.float32, 1, 1_000_000))
    assert _error(lambda: client.predict(request)) == (
        _INVALID,
        "Input x has 1000000 rows; expected at most 131072. Send several requests, or raise "
        "--max_input_rows",
    )
    request.inputs["x"].CopyFrom(_claimed(tf.float32, 1000, 1_000_000))
    assert _error(lambda: client.predict(request)) == (
        _INVALID,
        "Input x: The shape [1000, 1000000] has 1000000000 elements; expected at most 8388608. "
        "Send less, or raise --max_input_elements",
    )
    assert client.predict(_score_request()).model_spec.version.value == 1


def test_options_set_the_limits_of_inputs_and_messages(
    models: pathlib.Path,
) -> None:
    options = model_server.Options(
        max_request_bytes=1000, max_input_rows=200_000, max_input_elements=200_000
    )
    with model_server.ModelServer({"m": models / "m"}, options=options) as server:
        client = _Client(server.port)
        request = _score_request()
        request.inputs["uid"].CopyFrom(_claimed(tf.int64, 200_000))
        assert client.predict(request).outputs["id"].tensor_shape.dim[0].size == 200_000
        code, message = _error(lambda: client.predict(_request(x=np.zeros([500, 2], np.float32))))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in message


def test_a_request_beyond_the_threads_is_refused_at_once(models: pathlib.Path) -> None:
    options = model_server.Options(grpc_max_threads=1)
    with model_server.ModelServer({"m": models / "m"}, options=options) as server:
        client = _Client(server.port)
        # Each lookup of a model waits for this lock.
        with server.manager._changed:
            calls = [client.predictions.Predict.future(_score_request()) for _ in range(2)]
            waiting.until(lambda: any(call.done() for call in calls))
            refused, running = sorted(calls, key=lambda call: not call.done())
            assert (refused.code(), refused.details()) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "Server Threadpool Exhausted",
            )
            assert not running.done()
        assert running.result(timeout=60).model_spec.version.value == 1
        assert client.predict(_score_request()).model_spec.version.value == 1


def test_the_output_filter_selects(client: _Client) -> None:
    request = _score_request()
    request.output_filter.append("s")
    assert list(client.predict(request).outputs) == ["s"]


def test_a_missing_input_takes_its_default(tmp_path: pathlib.Path) -> None:
    saved_models.save_score(tmp_path / "1")
    saved_models.set_default_input(tmp_path / "1", "x", tf.constant([[10.0, 1.0]]))
    with model_server.ModelServer({"m": tmp_path}) as server:
        client = _Client(server.port)
        reply = client.predict(_request(uid=np.array([1])))
        # 10 + 2 * 1 = 12.
        assert _array(reply, "s").tolist() == [12.0]
        code, message = _error(lambda: client.predict(_request(x=np.ones([1, 2], np.float32))))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message == (
        "Signature input alias: uid(feed name: serving_default_uid:0) not found in request and no "
        "default value provided. Inputs expected to be in the request {x}, "
        "or default input alias set: x"
    )


def _unnamed() -> predict_pb2.PredictRequest:
    request = _score_request()
    request.model_spec.name = ""
    return request


def _without_spec() -> predict_pb2.PredictRequest:
    request = _score_request()
    request.ClearField("model_spec")
    return request


def _with(
    version: int | None = None,
    label: str | None = None,
    signature: str = "",
    outputs: Sequence[str] = (),
) -> predict_pb2.PredictRequest:
    request = _score_request()
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    request.model_spec.signature_name = signature
    request.output_filter.extend(outputs)
    return request


def _renamed() -> predict_pb2.PredictRequest:
    return _request(uid=np.array([1]), y=np.ones([1, 2], np.float32))


def _truncated() -> predict_pb2.PredictRequest:
    request = _score_request(as_content=True)
    request.inputs["x"].tensor_content = request.inputs["x"].tensor_content[:-1]
    return request


def _untyped() -> predict_pb2.PredictRequest:
    request = _score_request()
    request.inputs["x"].Clear()
    return request


_ONE = np.ones([1, 2], np.float32)
_INVALID = grpc.StatusCode.INVALID_ARGUMENT
_NOT_FOUND = grpc.StatusCode.NOT_FOUND
_SIZES = "input size does not match signature: "


# The rows of the table of TensorFlow Serving's answers to Predict, one test id for each case.
@pytest.mark.parametrize(
    ("request_message", "code", "message"),
    [
        pytest.param(
            _request("nope"),
            _NOT_FOUND,
            "Servable not found for request: Latest(nope)",
            id="unknown model",
        ),
        pytest.param(
            _with(version=99),
            _NOT_FOUND,
            "Servable not found for request: Specific(m, 99)",
            id="unknown version",
        ),
        pytest.param(_without_spec(), _INVALID, "Missing ModelSpec", id="no spec"),
        pytest.param(_unnamed(), _INVALID, "ModelSpec has no name specified.", id="empty name"),
        pytest.param(
            _with(label="zz"),
            _INVALID,
            "Unrecognized servable version label: zz",
            id="unknown label",
        ),
        pytest.param(
            _with(signature="zz"),
            grpc.StatusCode.FAILED_PRECONDITION,
            'Serving signature key "zz" not found.',
            id="unknown signature",
        ),
        pytest.param(
            _request(uid=np.array([1])),
            _INVALID,
            _SIZES + "1!=2 len({uid}) != len({uid,x}). Sent extra: {}. Missing but required: {x}.",
            id="missing input",
        ),
        pytest.param(
            _request(uid=np.array([1]), x=_ONE, z=_ONE),
            _INVALID,
            _SIZES
            + "3!=2 len({uid,x,z}) != len({uid,x}). Sent extra: {z}. Missing but required: {}.",
            id="extra input",
        ),
        pytest.param(
            _renamed(),
            _INVALID,
            "Signature input alias: x(feed name: serving_default_x:0) not found in request and no "
            "default value provided. Inputs expected to be in the request {uid,y}, "
            "or default input alias set: ",
            id="misnamed input",
        ),
        pytest.param(
            _request(uid=np.array([1]), x=np.ones([1, 2], np.int64)),
            _INVALID,
            "Expects arg[1] to be float but int64 is provided",
            id="wrong dtype",
        ),
        pytest.param(
            _request(uid=np.array([b"1"], object), x=np.ones([1, 2])),
            _INVALID,
            "Expects arg[0] to be int64 but string is provided",
            id="wrong dtype of the first of two",
        ),
        pytest.param(_truncated(), _INVALID, "tensor parsing error: x", id="truncated tensor"),
        pytest.param(_untyped(), _INVALID, "tensor parsing error: x", id="tensor without a type"),
        pytest.param(
            _with(outputs=["zz"]),
            _INVALID,
            "output tensor alias not found in signature: zz "
            "Outputs expected to be in the set {id,s}.",
            id="unknown output in the filter",
        ),
        pytest.param(
            _with(outputs=["s", "s"]),
            _INVALID,
            "duplicate output tensor alias: s",
            id="repeated output in the filter",
        ),
    ],
)
def test_predict_errors_have_the_codes_and_words_of_tensorflow_serving(
    client: _Client,
    request_message: predict_pb2.PredictRequest,
    code: grpc.StatusCode,
    message: str,
) -> None:
    assert _error(lambda: client.predict(request_message)) == (code, message)


@pytest.mark.parametrize(
    ("request_message", "message"),
    [
        pytest.param(
            _request(uid=np.array([1]), x=np.ones([1, 3], np.float32)),
            "Matrix size-incompatible: In[0]: [1,3], In[1]: [2,1]",
            id="wrong shape",
        ),
        pytest.param(
            _request("lookup", rows=np.array([9], np.int32)),
            "indices[0] = 9 is not in [0, 3)",
            id="index out of range",
        ),
    ],
)
def test_an_operations_own_message_is_the_error(
    client: _Client, request_message: predict_pb2.PredictRequest, message: str
) -> None:
    code, details = _error(lambda: client.predict(request_message))
    assert code is _INVALID
    assert message in details


def test_a_malformed_message_is_an_error_and_the_server_stays_up(client: _Client) -> None:
    call = client.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    code, _ = _error(lambda: call(b"\xff\xff\xff\xff", timeout=20))
    assert code is not grpc.StatusCode.OK
    assert _array(client.predict(_score_request()), "s").tolist() == [5.0, 11.0]


@pytest.mark.parametrize(
    ("spec", "code", "message"),
    [
        pytest.param(
            {"name": "nope"},
            _NOT_FOUND,
            "Could not find any versions of model nope",
            id="status of an unknown model",
        ),
        pytest.param(
            {"name": "m", "version": {"value": 9}},
            _NOT_FOUND,
            "Could not find version 9 of model m",
            id="status of an unknown version",
        ),
        pytest.param(None, _INVALID, "Missing ModelSpec", id="status without a spec"),
    ],
)
def test_the_status_of_an_unknown_model_or_version_is_an_error(
    client: _Client, spec: dict[str, Any] | None, code: grpc.StatusCode, message: str
) -> None:
    request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
    assert _error(lambda: client.models.GetModelStatus(request)) == (code, message)


def test_metadata_describes_the_signature(client: _Client) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "m"
    response = client.predictions.GetModelMetadata(request, timeout=20)
    assert (response.model_spec.name, response.model_spec.version.value) == ("m", 1)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    default = signatures.signature_def["serving_default"]
    assert sorted(default.inputs) == ["uid", "x"]
    assert default.inputs["x"].dtype == tf.float32.as_datatype_enum


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param(
            [],
            "GetModelMetadataRequest must specify at least one metadata_field",
            id="metadata without a field",
        ),
        pytest.param(
            ["zz"], "Metadata field zz is not supported", id="metadata with an unknown field"
        ),
    ],
)
def test_metadata_without_or_with_an_unknown_field_is_refused(
    client: _Client, fields: list[str], message: str
) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = "m"
    assert _error(lambda: client.predictions.GetModelMetadata(request)) == (_INVALID, message)


def test_each_of_32_threads_gets_its_own_answer(client: _Client) -> None:
    def ask(number: int) -> list[float]:
        x = np.array([[number, 0], [0, number]], np.float32)
        reply = client.predict(_request(uid=np.array([number, number]), x=x))
        return [*_array(reply, "s").tolist(), *_array(reply, "id").tolist()]

    with futures.ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, range(320)))
    assert answers == [[n, 2 * n, n, n] for n in range(320)]


def test_a_new_version_is_taken_up_and_the_old_one_unloaded(tmp_path: pathlib.Path) -> None:
    saved_models.save_score(tmp_path / "1")
    with model_server.ModelServer({"m": tmp_path}, poll_seconds=None) as server:
        client = _Client(server.port)
        saved_models.save_score(tmp_path / ".staging-2", factor=2.0)
        (tmp_path / "notes").mkdir()
        (tmp_path / "3").write_text("not a directory")
        server.manager.poll()
        assert server.manager.available_versions() == {"m": [1]}
        (tmp_path / ".staging-2").rename(tmp_path / "2")
        server.manager.poll()
        assert _states(client) == {2: "AVAILABLE", 1: "END"}
        reply = client.predict(_score_request())
        assert reply.model_spec.version.value == 2
        assert _array(reply, "s").tolist() == [10.0, 22.0]
        assert _error(lambda: client.predict(_with(version=1)))[0] is _NOT_FOUND


def test_versions_are_pinned_by_number_and_by_label(tmp_path: pathlib.Path) -> None:
    saved_models.save_score(tmp_path / "1")
    saved_models.save_score(tmp_path / "2", factor=2.0)
    with model_server.ModelServer({"m": tmp_path}, poll_seconds=None) as server:
        client = _Client(server.port)
        both = "model_version_policy { specific { versions: 1 versions: 2 } }"
        assert _reload(client, tmp_path, both).status.error_code == 0
        assert _states(client) == {2: "AVAILABLE", 1: "AVAILABLE"}
        labels = ' version_labels { key: "stable" value: 1 } version_labels { key: "new" value: 2 }'
        _reload(client, tmp_path, both + labels)
        for request, version in (
            (_with(version=1), 1),
            (_with(label="stable"), 1),
            (_with(label="new"), 2),
        ):
            assert client.predict(request).model_spec.version.value == version
        assert client.predict(_score_request()).model_spec.version.value == 2
        missing = both + ' version_labels { key: "stable" value: 7 }'
        assert _error(lambda: _reload(client, tmp_path, missing)) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "Request to assign label to version 7 of model m, "
            "which is not currently available for inference",
        )
        assert client.predict(_with(label="stable")).model_spec.version.value == 1


@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        ("", [3]),
        ("model_version_policy { latest { num_versions: 2 } }", [2, 3]),
        ("model_version_policy { all {} }", [1, 2, 3]),
        ("model_version_policy { specific { versions: 2 } }", [2]),
    ],
)
def test_the_version_policy_says_what_is_loaded(
    tmp_path: pathlib.Path, models: pathlib.Path, policy: str, versions: list[int]
) -> None:
    for version in (1, 2, 3):
        (tmp_path / str(version)).symlink_to(models / "m" / "1")
    with model_server.ModelServer({"lookup": models / "lookup"}, poll_seconds=None) as server:
        _reload(_Client(server.port), tmp_path, policy)
        assert server.manager.available_versions()["m"] == versions
        assert server.manager.available_versions()["lookup"] == []


def test_a_specific_version_that_is_missing_is_named(
    tmp_path: pathlib.Path, models: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "1").symlink_to(models / "m" / "1")
    config = model_config.build({"m": tmp_path}, model_config.ServedReleases((1, 7), {}))
    with model_server.ModelServer(config, poll_seconds=None) as server:
        assert server.manager.available_versions() == {"m": [1]}
    assert "Version 7 of servable m, which was requested to be served" in caplog.text


def test_a_corrupt_new_version_leaves_the_old_one_serving(tmp_path: pathlib.Path) -> None:
    saved_models.save_score(tmp_path / "1")
    options = model_server.Options(max_num_load_retries=1, load_retry_seconds=0.0)
    with model_server.ModelServer({"m": tmp_path}, poll_seconds=None, options=options) as server:
        client = _Client(server.port)
        (tmp_path / "2").mkdir()
        (tmp_path / "2" / "saved_model.pb").write_bytes(b"\xff broken")
        server.manager.poll()
        assert _states(client) == {2: "LOADING", 1: "AVAILABLE"}
        assert _array(client.predict(_score_request()), "s").tolist() == [5.0, 11.0]
        server.manager.poll()
        assert _states(client) == {2: "END", 1: "AVAILABLE"}
        saved_models.save_score(tmp_path / "3", factor=3.0)
        server.manager.poll()
        assert _states(client) == {3: "AVAILABLE", 2: "END", 1: "END"}


def test_versions_that_vanish_are_unloaded_unless_the_base_path_does(
    tmp_path: pathlib.Path,
) -> None:
    base = tmp_path / "base"
    saved_models.save_score(base / "1")
    with model_server.ModelServer({"m": base}, poll_seconds=None) as server:
        client = _Client(server.port)
        base.rename(tmp_path / "away")
        server.manager.poll()
        assert _states(client) == {1: "AVAILABLE"}
        (tmp_path / "away").rename(base)
        (base / "1").rename(base / "was-1")
        server.manager.poll()
        assert _states(client) == {1: "END"}
        (base / "was-1").rename(base / "1")
        server.manager.poll()
        assert _states(client) == {1: "AVAILABLE"}


def test_a_reload_that_is_wrong_is_refused_and_changes_nothing(
    models: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with model_server.ModelServer({"m": models / "m"}, poll_seconds=None) as server:
        client = _Client(server.port)
        code, message = _error(lambda: _reload(client, pathlib.Path("relative")))
        assert (code, message) == (
            _INVALID,
            "Expected model m to have an absolute path or URI; got base_path()=relative",
        )
        code, message = _error(lambda: _reload(client, tmp_path / "gone", name="other"))
        assert code is _INVALID
        assert message.startswith(f"Could not find base path {tmp_path}/gone for servable other")
        (tmp_path / "empty").mkdir()
        for base, policy in (
            (tmp_path / "empty", ""),
            (models / "m", "model_version_policy { specific { versions: 9 } }"),
        ):
            # Otherwise, the model would be unloaded without a replacement.
            code, message = _error(lambda base=base, policy=policy: _reload(client, base, policy))
            assert code is grpc.StatusCode.NOT_FOUND
            assert message.startswith(f"No versions of servable m found under base path {base}")
            assert _states(client) == {1: "AVAILABLE"}
        code, message = _error(
            lambda: client.models.HandleReloadConfigRequest(
                model_management_pb2.ReloadConfigRequest(), timeout=20
            )
        )
        assert code is _INVALID
        assert client.predict(_score_request()).model_spec.version.value == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'config { name: "c" base_path: "/c" model_type: TENSORFLOW } config { name: "c" }',
            "Illegal to list model c multiple times in config list",
        ),
        (
            'config { name: "a" base_path: "b" }',
            "Expected model a to have an absolute path or URI; got base_path()=b",
        ),
        (
            'config { name: "a" base_path: "gs://bucket/a" }',
            "Expected model a to have an absolute path or URI; got base_path()=gs://bucket/a; "
            "the only URIs served here are file://",
        ),
        (
            'config { name: "n" base_path: "/n" model_platform: "tensorflow"'
            ' version_labels { key: "stable" value: 7 } }',
            "Request to assign label to version 7 of model n, "
            "which is not currently available for inference",
        ),
        (
            'config { name: "n" base_path: "/n" model_platform: "x" }',
            "Model n requests unsupported platform 'x'; expected 'tensorflow'",
        ),
        (
            'config { name: "n" base_path: "/n" }',
            "Model n requests unsupported platform ''; expected 'tensorflow'",
        ),
        (
            'config { name: "n" base_path: "/n" model_type: TENSORFLOW'
            " logging_config { sampling_config { sampling_rate: 1.0 } } }",
            "No request-logger-creator provided.",
        ),
        (
            'config { name: "n" base_path: "/n" model_platform: "tensorflow" }',
            "Could not find base path /n for servable n with error NOT_FOUND: /n not found",
        ),
    ],
)
def test_a_wrong_configuration_changes_nothing_and_is_named(
    server: model_server.ModelServer, client: _Client, text: str, message: str
) -> None:
    request = model_management_pb2.ReloadConfigRequest()
    text_format.Merge(text, request.config.model_config_list)
    assert _error(lambda: client.models.HandleReloadConfigRequest(request, timeout=20))[1] == (
        message
    )
    assert client.predict(_score_request()).model_spec.version.value == 1


def test_a_base_path_may_be_a_file_uri_and_the_last_of_two_names_of_a_version_counts(
    tmp_path: pathlib.Path,
) -> None:
    saved_models.save_score(tmp_path / "1", factor=2.0)
    saved_models.save_score(tmp_path / "001", factor=3.0)
    config = model_config.build({"m": f"file://{tmp_path}"})
    with model_server.ModelServer(config, poll_seconds=None) as server:
        reply = _Client(server.port).predict(_score_request())
        assert _array(reply, "s").tolist() == [10.0, 22.0]


def test_an_invalid_saved_model_has_the_error_of_the_cpp_loader(
    tmp_path: pathlib.Path, models: pathlib.Path
) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    path = tmp_path / "m" / "1"
    missing = (
        "NOT_FOUND: Could not find SavedModel .pb or .pbtxt at supplied export directory path: "
        f"{path}. Check that the directory exists and that you have the right permissions for "
        "accessing it."
    )
    with pytest.raises(errors.ServerStartError) as caught:
        model_server.ModelServer({"m": tmp_path / "m"}).start()
    assert str(caught.value) == (
        "UNKNOWN: 1 servable(s) did not become available: "
        f"{{{{{{name: m version: 1}} due to error: {missing}}}, }}"
    )
    with model_server.ModelServer({"lookup": models / "lookup"}, poll_seconds=None) as server:
        assert _error(lambda: _reload(_Client(server.port), tmp_path / "m")) == (
            grpc.StatusCode.UNKNOWN,
            "1 model(s) did not become available: "
            f"{{{{{{name: m version: 1}} due to error: {missing}}}, }}",
        )
    (path / "saved_model.pb").write_bytes(b"\xff" * 100)
    with pytest.raises(errors.ServerStartError) as caught:
        model_server.ModelServer({"m": tmp_path / "m"}).start()
    assert f"DATA_LOSS: Can't parse {path}/saved_model.pb as binary proto" in str(caught.value)
    saved = saved_model_pb2.SavedModel.FromString(
        (models / "m" / "1" / "saved_model.pb").read_bytes()
    )
    saved.meta_graphs[0].meta_info_def.tags[:] = ["train"]
    (path / "saved_model.pb").write_bytes(saved.SerializeToString())
    with pytest.raises(errors.ServerStartError) as caught:
        model_server.ModelServer({"m": tmp_path / "m"}).start()
    assert "NOT_FOUND: Could not find meta graph def matching supplied tags: { serve }." in (
        str(caught.value)
    )


def test_a_long_message_is_cut_after_1024_bytes(client: _Client) -> None:
    # 39 bytes of ASCII, then 492 letters of two bytes and half of one more.
    code, message = _error(lambda: client.predict(_request(name="é" * 600, x=_ONE)))
    assert code is _NOT_FOUND
    assert message == f"Servable not found for request: Latest({'é' * 492}...TRUNCATED"


def _warm_up_log(x: np.ndarray) -> prediction_log_pb2.PredictionLog:
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(_request(uid=np.array([1]), x=x))
    return log


def test_warm_up_records_run_and_a_failing_one_fails_the_load(tmp_path: pathlib.Path) -> None:
    saved_models.save_score(tmp_path / "1")
    saved_models.write_warm_up(tmp_path / "1", [_warm_up_log(_ONE)])
    with model_server.ModelServer({"m": tmp_path}, poll_seconds=None) as server:
        saved_models.save_score(tmp_path / "2")
        saved_models.write_warm_up(
            tmp_path / "2", [_warm_up_log(_ONE), _warm_up_log(np.ones([1, 5], np.float32))]
        )
        server.manager.poll()
        assert _states(_Client(server.port)) == {2: "LOADING", 1: "AVAILABLE"}


def test_more_than_a_thousand_warm_up_records_fail_the_load(tmp_path: pathlib.Path) -> None:
    saved_models.save_score(tmp_path / "1")
    saved_models.write_warm_up(tmp_path / "1", [_warm_up_log(_ONE)] * 1001)
    with pytest.raises(
        errors.ServerStartError, match=r"warmup records exceeds the maximum \(1000\)"
    ):
        model_server.ModelServer({"m": tmp_path}).start()


def test_errors_at_the_start_name_the_problem(tmp_path: pathlib.Path, models: pathlib.Path) -> None:
    gone = model_server.ModelServer({"m": tmp_path / "gone"})
    with pytest.raises(errors.ServerStartError, match=r"Could not find base path .*gone"):
        gone.start()
    with pytest.raises(errors.ServerStartError, match="No versions of servable m found"):
        model_server.ModelServer({"m": tmp_path}).start()
    (tmp_path / "1").mkdir()
    with pytest.raises(errors.ServerStartError, match="did not become available"):
        model_server.ModelServer({"m": tmp_path}).start()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for ports in ({"port": port}, {"rest_port": port}):
            with pytest.raises(errors.ServerStartError, match=f"{port}; is the port in use"):
                model_server.ModelServer({"m": models / "m"}, **ports).start()


def test_a_missing_or_invalid_config_file_is_named(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "models.config"
    with pytest.raises(FileNotFoundError, match=str(path)):
        model_config.read(path)
    path.write_text("model_config_list { nonsense: 1 }")
    with pytest.raises(
        ValueError, match=f"Invalid protobuf file: '{path}'. Expected a ModelServer"
    ):
        model_config.read(path)


def test_new_versions_and_a_changed_config_file_are_polled(
    tmp_path: pathlib.Path, models: pathlib.Path
) -> None:
    base, path = tmp_path / "m", tmp_path / "models.config"
    saved_models.save_score(base / "1")
    config = model_config.build({"m": base})
    path.write_text(text_format.MessageToString(config))
    options = model_server.Options(
        model_config_file=str(path), model_config_file_poll_wait_seconds=0.05
    )
    with model_server.ModelServer(config, poll_seconds=0.05, options=options) as server:
        saved_models.save_score(base / ".staging-2")
        (base / ".staging-2").rename(base / "2")
        waiting.until(lambda: server.manager.available_versions() == {"m": [2]})
        both = model_config.build({"m": base, "lookup": models / "lookup"})
        staged = tmp_path / "models.config.new"
        staged.write_text(text_format.MessageToString(both))
        staged.rename(path)
        waiting.until(lambda: server.manager.available_versions() == {"m": [2], "lookup": [1]})


def test_a_config_file_that_stays_invalid_is_logged_once(
    tmp_path: pathlib.Path,
    models: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read, reads = model_config.read, []

    def counted(path: str) -> model_config.ModelServerConfig:
        reads.append(path)
        return read(path)

    monkeypatch.setattr(model_config, "read", counted)
    path = tmp_path / "models.config"
    path.write_text("improper config")
    options = model_server.Options(
        model_config_file=str(path), model_config_file_poll_wait_seconds=0.01
    )
    caplog.set_level("ERROR")
    with model_server.ModelServer({"m": models / "m"}, poll_seconds=None, options=options):
        waiting.until(lambda: len(reads) > 3)
    # Other threads of this process log, too.
    (record,) = [record for record in caplog.records if record.name == model_server.__name__]
    assert "Invalid protobuf file" in record.getMessage()
    assert record.exc_info is None


def test_a_stopped_server_refuses_connections(models: pathlib.Path) -> None:
    ports = free_port(), free_port()
    served = model_server.ModelServer({"m": models / "m"}, port=ports[0], rest_port=ports[1])
    with served as server:
        assert _array(_Client(server.port).predict(_score_request()), "s").size == 2
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=30)
    assert _error(lambda: _Client(ports[0]).predict(_score_request()))[0] is (
        grpc.StatusCode.UNAVAILABLE
    )


def test_the_health_check_is_answered_only_if_enabled(
    client: _Client, models: pathlib.Path
) -> None:
    path = "/grpc.health.v1.Health/Check"
    assert _error(lambda: client.channel.unary_unary(path)(b"", timeout=20))[0] is (
        grpc.StatusCode.UNIMPLEMENTED
    )
    options = model_server.Options(enable_grpc_healthcheck_service=True)
    with model_server.ModelServer({"m": models / "m"}, options=options) as server:
        check = _Client(server.port).channel.unary_unary(path)
        # HealthCheckResponse{status: SERVING}: field 1, value 1.
        assert check(b"", timeout=20) == b"\x08\x01"
        # HealthCheckRequest{service: "zz"}.
        assert _error(lambda: check(b"\x0a\x02zz", timeout=20)) == (
            grpc.StatusCode.NOT_FOUND,
            "service name unknown",
        )
