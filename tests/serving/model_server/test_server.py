"""Starting, polling, warming up and stopping the embedded model server."""

import pathlib
import socket

import numpy as np
import pytest
import saved_models
import waiting
from serving_fixtures import free_port
from tensorflow_serving.apis import prediction_log_pb2

from serving import errors, model_config
from serving.model_server import server as model_server
from serving.model_server import tensor_codec


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    base = tmp_path_factory.mktemp("models")
    saved_models.save_lookup(base / "1")
    return base


def _log(rows: int) -> prediction_log_pb2.PredictionLog:
    log = prediction_log_pb2.PredictionLog()
    tensor = tensor_codec.encode_tensor(np.array([rows], np.int32))
    log.predict_log.request.inputs["rows"].CopyFrom(tensor)
    return log


def test_warm_up_records_run_before_a_version_serves(tmp_path: pathlib.Path) -> None:
    saved_models.save_lookup(tmp_path / "1")
    saved_models.write_warm_up(tmp_path / "1", [_log(1)])
    with model_server.ModelServer({"m": tmp_path}, poll_seconds=None) as server:
        saved_models.save_lookup(tmp_path / "2")
        # There is no row 9.
        saved_models.write_warm_up(tmp_path / "2", [_log(1), _log(9)])
        server.manager.poll()
        assert server.manager.available_versions() == {"m": [1]}


@pytest.mark.parametrize(
    "logs", [[_log(1)] * 1001, [prediction_log_pb2.PredictionLog()]], ids=["many", "another kind"]
)
def test_wrong_warm_up_records_fail_the_load(
    tmp_path: pathlib.Path, logs: list[prediction_log_pb2.PredictionLog]
) -> None:
    saved_models.save_lookup(tmp_path / "1")
    saved_models.write_warm_up(tmp_path / "1", logs)
    with pytest.raises(errors.ServerStartError, match="tf_serving_warmup_requests"):
        model_server.ModelServer({"m": tmp_path}).start()


def test_errors_at_the_start_name_the_problem(tmp_path: pathlib.Path, models: pathlib.Path) -> None:
    gone = model_server.ModelServer({"m": tmp_path / "gone"})
    with pytest.raises(errors.ServerStartError, match=r"Could not find base path .*gone"):
        gone.start()
    with pytest.raises(errors.ServerStartError, match="No versions of servable m found"):
        model_server.ModelServer({"m": tmp_path}).start()
    (tmp_path / "1").mkdir()
    with pytest.raises(errors.ServerStartError, match="No version of m could be loaded"):
        model_server.ModelServer({"m": tmp_path}).start()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for ports in ({"port": port}, {"rest_port": port}):
            with pytest.raises(errors.ServerStartError, match=f"{port}; is the port in use"):
                model_server.ModelServer({"m": models}, **ports).start()


def test_a_missing_or_invalid_config_file_is_named(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "models.config"
    with pytest.raises(FileNotFoundError, match=str(path)):
        model_config.read(path)
    path.write_text("model_config_list { nonsense: 1 }")
    with pytest.raises(ValueError, match=f"'{path}'. Expected a ModelServerConfig"):
        model_config.read(path)


def test_new_versions_are_found_by_polling(tmp_path: pathlib.Path) -> None:
    saved_models.save_lookup(tmp_path / "1")
    with model_server.ModelServer({"m": tmp_path}, poll_seconds=0.05) as server:
        saved_models.save_lookup(tmp_path / ".staging-2")
        (tmp_path / ".staging-2").rename(tmp_path / "2")
        waiting.until(lambda: server.manager.available_versions() == {"m": [2]})


def test_a_stopped_server_refuses_connections(models: pathlib.Path) -> None:
    ports = free_port(), free_port()
    with model_server.ModelServer({"m": models}, port=ports[0], rest_port=ports[1]):
        for port in ports:
            socket.create_connection(("127.0.0.1", port), timeout=30).close()
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=30)
