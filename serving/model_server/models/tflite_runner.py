"""A TensorFlow Lite model, run by the names of its tensors like a SavedModel.

References: TensorFlow Serving, `servables/tensorflow/tflite_session.cc`; TensorFlow,
    `lite/tools/signature/signature_def_util.cc` (where signatures are kept in the file).
"""

import os
import queue
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from flatbuffers import flexbuffers
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.lite.python import schema_py_generated

from serving import saved_model

FILE = "model.tflite"
_SIGNATURES = b"signature_defs_metadata"
_DEFAULT_SIGNATURE = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY


class TfliteRunner:
    """Interpreters of one model, each for one request at a time."""

    def __init__(self, path: str, num_interpreters: int) -> None:
        """Loads the model.

        Args:
            path: the directory that holds `model.tflite`.
            num_interpreters: how many requests run at once.

        Raises:
            StatusError: if the file cannot be loaded.
        """
        try:
            with open(os.path.join(path, FILE), "rb") as file:
                content = file.read()
            first = _interpreter(content)
            self._interpreters: queue.LifoQueue[Any] = queue.LifoQueue()
            self._interpreters.put(first)
            for _ in range(num_interpreters - 1):
                self._interpreters.put(_interpreter(content))
            self._inputs = _indices(first.get_input_details())
            self._outputs = _indices(first.get_output_details())
            self.signature_defs = _signatures(content) or {_DEFAULT_SIGNATURE: _definition(first)}
        except Exception as error:
            raise saved_model.status_from_exception(error) from error

    def run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> saved_model.Arrays:
        """Returns the fetched tensors by name; see `saved_model.Runner`."""
        interpreter = self._interpreters.get()
        try:
            for name, array in feeds.items():
                interpreter.resize_tensor_input(self._index(self._inputs, name), array.shape)
            interpreter.allocate_tensors()
            for name, array in feeds.items():
                interpreter.set_tensor(self._index(self._inputs, name), array)
            interpreter.invoke()
            return {
                name: interpreter.get_tensor(self._index(self._outputs, name)) for name in fetches
            }
        except (RuntimeError, ValueError) as error:
            raise saved_model.invalid_argument(f"TensorFlow Lite: {error}") from error
        finally:
            self._interpreters.put(interpreter)

    def close(self) -> None:
        """Frees the interpreters; no call may be running or follow."""
        while not self._interpreters.empty():
            self._interpreters.get()

    def _index(self, indices: Mapping[str, int], name: str) -> int:
        # Converters of today drop the `:0` that signatures have.
        found = indices.get(name, indices.get(_plain(name)))
        if found is None:
            raise saved_model.invalid_argument(
                f"Unknown tensor '{name}': expected one of {sorted(indices)}"
            )
        return found


def is_present(path: str) -> bool:
    """Returns whether a version's directory holds a TensorFlow Lite model."""
    return os.path.exists(os.path.join(path, FILE))


def _interpreter(content: bytes) -> Any:
    with warnings.catch_warnings():
        # It says that the class moves to another package.
        warnings.simplefilter("ignore")
        interpreter = tf.lite.Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def _indices(details: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {detail["name"]: detail["index"] for detail in details}


def _signatures(content: bytes) -> dict[str, meta_graph_pb2.SignatureDef]:
    """Returns the signatures that the file carries, none if it carries none."""
    model = schema_py_generated.Model.GetRootAs(content, 0)
    for number in range(model.MetadataLength()):
        metadata = model.Metadata(number)
        if metadata.Name() != _SIGNATURES:
            continue
        data = model.Buffers(metadata.Buffer()).DataAsNumpy().tobytes()
        values = flexbuffers.GetRoot(data).AsMap
        return {
            key.AsKey: meta_graph_pb2.SignatureDef.FromString(value.AsStringBytes)
            for key, value in zip(values.Keys, values.Values, strict=True)
        }
    return {}


def _definition(interpreter: Any) -> meta_graph_pb2.SignatureDef:
    """Returns the signature of a file without one: all inputs and outputs by their names."""
    definition = meta_graph_pb2.SignatureDef(method_name=tf.saved_model.PREDICT_METHOD_NAME)
    for details, infos in (
        (interpreter.get_input_details(), definition.inputs),
        (interpreter.get_output_details(), definition.outputs),
    ):
        for detail in details:
            info = infos[_plain(detail["name"])]
            info.name = detail["name"]
            info.dtype = tf.dtypes.as_dtype(detail["dtype"]).as_datatype_enum
            for size in detail["shape_signature"]:
                info.tensor_shape.dim.add(size=size)
    return definition


def _plain(name: str) -> str:
    return name.split(":")[0]
