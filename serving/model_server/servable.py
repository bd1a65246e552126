"""A loaded version of a model, run by its signatures.

References: TensorFlow Serving, `servables/tensorflow/predict_util.cc` and
    `servables/tensorflow/saved_model_warmup_util.cc`.
"""

import os
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow_serving.apis import prediction_log_pb2

from serving import saved_model
from serving.model_server import tensor_codec

DEFAULT_SIGNATURE = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
WARM_UP_PATH = os.path.join("assets.extra", "tf_serving_warmup_requests")
_MAX_WARM_UP_RECORDS = 1000

Tensor: TypeAlias = tensor_pb2.TensorProto | np.ndarray


class Servable:
    """A loaded model version that answers predictions from many threads at once."""

    def __init__(
        self,
        name: str,
        version: int,
        path: str | os.PathLike[str],
        session_config: config_pb2.ConfigProto | None = None,
    ) -> None:
        """Loads the SavedModel.

        Args:
            name: Model name.
            version: Version number.
            path: Directory with `saved_model.pb`.
            session_config: Threads and devices; None for TensorFlow's defaults.

        Raises:
            StatusError: The SavedModel cannot be loaded.
        """
        self.name = name
        self.version = version
        self.path = os.fspath(path)
        self._runner = saved_model.SessionRunner(self.path, session_config)
        self.signature_defs = self._runner.signature_defs

    def predict(
        self, signature_name: str, inputs: Mapping[str, Tensor], output_filter: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """Runs a signature.

        Args:
            signature_name: Key of the signature; empty for the serving default.
            inputs: Tensors, as messages or arrays, of all inputs without a default.
            output_filter: Names of the outputs to return; empty for all.

        Returns:
            The outputs by name; strings are object arrays of bytes.

        Raises:
            StatusError: FAILED_PRECONDITION if there is no such signature, INVALID_ARGUMENT if
                the inputs do not fit it, and the errors of the model's operations.
        """
        key = signature_name or DEFAULT_SIGNATURE
        if key not in self.signature_defs:
            raise saved_model.StatusError(
                grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{key}" not found.'
            )
        signature = self.signature_defs[key]
        unknown = sorted(set(output_filter) - set(signature.outputs))
        if unknown or len(set(output_filter)) < len(output_filter):
            raise saved_model.invalid_argument(
                f"output_filter is {list(output_filter)}; expected different ones of "
                f"{sorted(signature.outputs)}."
            )
        outputs = {
            alias: signature.outputs[alias].name
            for alias in output_filter or sorted(signature.outputs)
        }
        feeds = _feeds(signature, inputs)
        try:
            values = self._runner.run(feeds, list(outputs.values()))
        except tf.errors.OpError as error:
            raise saved_model.status_from_exception(error) from error
        return {alias: values[name] for alias, name in outputs.items()}

    def warm_up(self) -> None:
        """Replays the recorded requests, so that the first caller does not wait for TensorFlow.

        Raises:
            StatusError: A record fails, or is not a Predict request.
        """
        path = os.path.join(self.path, WARM_UP_PATH)
        if not os.path.exists(path):
            return
        records = tf.data.TFRecordDataset(path).take(_MAX_WARM_UP_RECORDS + 1)
        for number, record in enumerate(records.as_numpy_iterator()):
            log = prediction_log_pb2.PredictionLog.FromString(record)
            if number == _MAX_WARM_UP_RECORDS or not log.HasField("predict_log"):
                raise saved_model.invalid_argument(
                    f"{path}: expected at most {_MAX_WARM_UP_RECORDS} records, each a Predict "
                    f"request; got another one at {number}."
                )
            request = log.predict_log.request
            self.predict(request.model_spec.signature_name, request.inputs, request.output_filter)

    def close(self) -> None:
        """Frees the session; no call may be running or follow."""
        self._runner.close()


def _feeds(
    signature: meta_graph_pb2.SignatureDef, inputs: Mapping[str, Tensor]
) -> dict[str, np.ndarray]:
    """Returns the arrays of a signature's inputs by the name of the tensor to feed."""
    unknown = sorted(set(inputs) - set(signature.inputs))
    missing = sorted(set(signature.inputs) - set(inputs) - set(signature.defaults))
    if unknown or missing:
        raise saved_model.invalid_argument(
            f"The inputs do not match the signature. Unknown: {unknown}; missing: {missing}."
        )
    feeds = {}
    for alias, info in signature.inputs.items():
        tensor = inputs[alias] if alias in inputs else signature.defaults[alias]
        try:
            array = tensor if isinstance(tensor, np.ndarray) else tensor_codec.decode(tensor)
        except ValueError as error:
            raise saved_model.invalid_argument(f"tensor parsing error: {alias}: {error}") from error
        # A session would cast what it is fed.
        expected = tf.dtypes.as_dtype(info.dtype)
        if array.dtype != expected.as_numpy_dtype:
            raise saved_model.invalid_argument(
                f"Expects {alias} to be {expected.name} but {array.dtype} is provided."
            )
        feeds[info.name] = array
    return feeds
