"""TensorFlow Lite models on the embedded server."""

import pathlib
from concurrent import futures

import numpy as np
import pytest
import saved_models

from serving import errors, saved_model
from serving.model_server import server as model_server
from serving.model_server.models import servable


def test_a_tflite_model_is_preferred_where_that_is_asked_for(tmp_path: pathlib.Path) -> None:
    saved_models.save_tflite(tmp_path / "1")
    options = model_server.Options(tflite_interpreters=2)
    with model_server.ModelServer({"m": tmp_path}, options=options) as server:
        assert server.available_versions() == {"m": [1]}
    with pytest.raises(errors.ServerStartError, match="did not become available"):
        model_server.ModelServer({"m": tmp_path}).start()


def test_each_of_many_threads_gets_its_own_answer_of_any_number_of_rows(
    tmp_path: pathlib.Path,
) -> None:
    saved_models.save_tflite(tmp_path / "1")
    model = servable.Servable("m", 1, tmp_path / "1", tflite_interpreters=2)
    (definition,) = model.signature_defs.values()
    ((source, _),) = definition.inputs.items()
    ((target, info),) = definition.outputs.items()
    assert info.dtype == 1

    def ask(number: int) -> list[float]:
        rows = np.full(number, number % 3, np.int32)
        return model.predict("", {source: rows})[target].tolist()

    with futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(1, 40)))
    # Row n is [10, 20, 30][n].
    assert answers == [[10.0 * (number % 3 + 1)] * number for number in range(1, 40)]
    model.close()


def test_what_is_no_tflite_model_fails_the_load(tmp_path: pathlib.Path) -> None:
    (tmp_path / "model.tflite").write_bytes(b"nothing")
    with pytest.raises(saved_model.StatusError):
        servable.Servable("m", 1, tmp_path, tflite_interpreters=1)
