"""The profiler service of the embedded server, asked by TensorFlow's own client."""

import pathlib
import threading
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
import saved_models
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving.model_server import config_messages, tensor_codec
from serving.model_server import server as model_server


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("models") / "m"
    saved_models.save_lookup(directory / "1")
    return directory


@pytest.fixture
def server(base: pathlib.Path) -> Iterator[model_server.ModelServer]:
    with model_server.ModelServer({"m": base}) as running:
        yield running


@pytest.fixture
def channel(server: model_server.ModelServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as connected:
        yield connected


def _ask(channel: grpc.Channel, until: threading.Event) -> None:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = predict_pb2.PredictRequest(model_spec={"name": "m"})
    request.inputs["rows"].CopyFrom(tensor_codec.encode_tensor(np.array([1], np.int32)))
    while not until.is_set():
        stub.Predict(request, timeout=20)


def test_a_trace_holds_what_the_server_runs(
    server: model_server.ModelServer, channel: grpc.Channel, tmp_path: pathlib.Path
) -> None:
    done = threading.Event()
    asking = threading.Thread(target=_ask, args=(channel, done))
    asking.start()
    try:
        tf.profiler.experimental.client.trace(
            f"grpc://127.0.0.1:{server.port}", str(tmp_path), duration_ms=300
        )
    finally:
        done.set()
        asking.join()
    (written,) = tmp_path.glob("plugins/profile/*/*.xplane.pb")
    space = xplane_pb2.XSpace.FromString(written.read_bytes())
    names = {event.name for plane in space.planes for event in plane.event_metadata.values()}
    # The operation that looks the rows up.
    assert any("Gather" in name for name in names)


def test_a_trace_ends_when_its_session_is_terminated(
    channel: grpc.Channel, tmp_path: pathlib.Path
) -> None:
    request = config_messages.ProfileRequest(
        duration_ms=60_000, repository_root=str(tmp_path), session_id="s", host_name="a:1"
    )
    service = "/tensorflow.ProfilerService/"
    trace = channel.unary_unary(service + "Profile").future(request.SerializeToString())
    terminate = channel.unary_unary(service + "Terminate")
    session = config_messages.TerminateRequest(session_id="s").SerializeToString()
    while not trace.done():
        assert terminate(session, timeout=20) == b""
    assert isinstance(trace.result(), bytes)
    assert (tmp_path / "s" / "a_1.xplane.pb").exists()


def test_there_is_no_profiler_where_it_is_turned_off(base: pathlib.Path) -> None:
    options = model_server.Options(enable_profiler=False)
    with (
        model_server.ModelServer({"m": base}, options=options) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        channel.unary_unary("/tensorflow.ProfilerService/Profile")(b"", timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
