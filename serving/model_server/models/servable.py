"""A loaded version of a model, run by its signatures.

References: TensorFlow Serving, `servables/tensorflow/predict_util.cc`.
"""

import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow_serving.apis import model_pb2

from serving import saved_model
from serving.model_server import server_metrics, tensor_codec

DEFAULT_SIGNATURE = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY

Tensor: TypeAlias = tensor_pb2.TensorProto | np.ndarray


class Servable:
    """A loaded model version that answers predictions from many threads at once."""

    def __init__(
        self,
        name: str,
        version: int,
        path: str | os.PathLike[str],
        session_config: config_pb2.ConfigProto | None = None,
        *,
        metrics: server_metrics.ServerMetrics | None = None,
        max_elements: int = tensor_codec.MAX_ELEMENTS,
        max_rows: int = tensor_codec.MAX_ELEMENTS,
    ) -> None:
        """Loads the SavedModel.

        Args:
            name: Model name.
            version: Version number.
            path: Directory with `saved_model.pb`.
            session_config: Threads and devices; None for TensorFlow's defaults.
            metrics: Metrics that record the time of each run; None for none.
            max_elements: Maximum number of elements of an input.
            max_rows: Maximum number of rows of an input: the product of the dimensions that its
                signature leaves open, such as requests and candidates.

        Raises:
            StatusError: The SavedModel cannot be loaded.
        """
        self.name = name
        self.version = version
        self.path = os.fspath(path)
        self._metrics = metrics
        self._max_rows = max_rows
        self._runner = saved_model.SessionRunner(self.path, session_config)
        self.signature_defs = self._runner.signature_defs
        self._signatures = {
            key: _Signature(definition, max_elements, max_rows)
            for key, definition in self.signature_defs.items()
        }

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
        if key not in self._signatures:
            raise saved_model.failed_precondition(f'Serving signature key "{key}" not found.')
        signature, started = self._signatures[key], time.perf_counter()
        arrays = signature.decode(dict(inputs.items()))
        outputs = signature.select(list(output_filter))
        values = self.run(None, signature.feeds(arrays), list(outputs.values()))
        self._record("Predict", started)
        return {alias: values[name] for alias, name in outputs.items()}

    def run(
        self, api: str | None, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Runs the graph by the names of its tensors.

        Args:
            api: Name under which the time is recorded, such as `Classify`; None to skip it.
            feeds: Arrays by tensor name.
            fetches: Names of the tensors to return.

        Raises:
            StatusError: The errors of the model's operations.
        """
        started = time.perf_counter()
        try:
            outputs = self._runner.run(feeds, fetches)
        except tf.errors.OpError as error:
            raise saved_model.status_from_exception(error) from error
        if api is not None:
            self._record(api, started)
        return outputs

    def check_rows(self, name: str, count: int) -> None:
        """Checks the number of rows of an input.

        Raises:
            StatusError: INVALID_ARGUMENT if there are more than `max_rows`.
        """
        _check_rows(name, count, self._max_rows)

    def effective_spec(self, requested: model_pb2.ModelSpec) -> model_pb2.ModelSpec:
        """Returns the spec of a reply: with the version that answered and the signature."""
        return model_pb2.ModelSpec(
            name=requested.name,
            version={"value": self.version},
            signature_name=requested.signature_name or DEFAULT_SIGNATURE,
        )

    def close(self) -> None:
        """Frees the session; no call may be running or follow."""
        self._signatures.clear()
        self._runner.close()

    def _record(self, api: str, started: float) -> None:
        if self._metrics is not None:
            self._metrics.record_run(self.name, api, time.perf_counter() - started)


class _Signature:
    """The inputs and outputs of a Predict request: checks and tensor names."""

    def __init__(
        self, definition: meta_graph_pb2.SignatureDef, max_elements: int, max_rows: int
    ) -> None:
        self._max_elements = max_elements
        self._max_rows = max_rows
        self._open_axes = {
            alias: [axis for axis, dim in enumerate(info.tensor_shape.dim) if dim.size < 0]
            for alias, info in definition.inputs.items()
        }
        self._feeds = {alias: info.name for alias, info in sorted(definition.inputs.items())}
        self._fetches = {alias: info.name for alias, info in sorted(definition.outputs.items())}
        self._dtypes = {
            alias: tf.dtypes.as_dtype(info.dtype) for alias, info in definition.inputs.items()
        }
        self._defaults = dict(definition.defaults.items())
        # A session numbers its feeds in the order of their names.
        self._feed_order = sorted(self._feeds, key=self._feeds.__getitem__)

    def decode(self, inputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Returns the array of each input by its name."""
        self._check_number(inputs)
        arrays = {alias: self._array(alias, inputs) for alias in self._feeds}
        used = sorted(inputs.keys() & self._feeds.keys())
        if len(used) != len(inputs):
            raise saved_model.invalid_argument(
                f"Inputs contains invalid name. Used request inputs: {','.join(used)}, "
                f"request input: {','.join(sorted(inputs))}"
            )
        return arrays

    def feeds(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the arrays by the name of the tensor to feed, whose type they must have."""
        for position, alias in enumerate(self._feed_order):
            expected, got = self._dtypes[alias], arrays[alias].dtype
            if got != expected.as_numpy_dtype:
                raise saved_model.invalid_argument(
                    f"Expects arg[{position}] to be {tensor_codec.type_name(expected)} but "
                    f"{tensor_codec.type_name(tf.dtypes.as_dtype(got))} is provided"
                )
        return {self._feeds[alias]: array for alias, array in arrays.items()}

    def select(self, output_filter: Sequence[str]) -> dict[str, str]:
        """Returns the tensor names of the requested outputs; empty requests all."""
        selected: dict[str, str] = {}
        for alias in output_filter or self._fetches:
            if alias not in self._fetches:
                raise saved_model.invalid_argument(
                    f"output tensor alias not found in signature: {alias} "
                    f"Outputs expected to be in the set {_braced(self._fetches)}."
                )
            if alias in selected:
                raise saved_model.invalid_argument(f"duplicate output tensor alias: {alias}")
            selected[alias] = self._fetches[alias]
        return selected

    def _check_number(self, inputs: Mapping[str, Tensor]) -> None:
        too_few = len(inputs) < len(self._feeds) and not self._defaults
        if len(inputs) <= len(self._feeds) and not too_few:
            return
        raise saved_model.invalid_argument(
            f"input size does not match signature: {len(inputs)}!={len(self._feeds)} "
            f"len({_braced(inputs)}) != len({_braced(self._feeds)}). "
            f"Sent extra: {_braced(inputs.keys() - self._feeds.keys())}. "
            f"Missing but required: {_braced(self._feeds.keys() - inputs.keys())}."
        )

    def _array(self, alias: str, inputs: Mapping[str, Tensor]) -> np.ndarray:
        tensor = inputs.get(alias, self._defaults.get(alias))
        if tensor is None:
            raise saved_model.invalid_argument(
                f"Signature input alias: {alias}(feed name: {self._feeds[alias]}) not found in "
                "request and no default value provided. Inputs expected to be in the request "
                f"{_braced(inputs)}, or default input alias set: "
                f"{','.join(sorted(self._defaults))}"
            )
        array = tensor if isinstance(tensor, np.ndarray) else self._decoded(alias, tensor)
        # The number of rows is at most the number of elements, which is quick to compare.
        if array.size > self._max_rows:
            axes = [axis for axis in self._open_axes[alias] if axis < array.ndim]
            _check_rows(alias, math.prod(array.shape[axis] for axis in axes), self._max_rows)
        return array

    def _decoded(self, alias: str, tensor: tensor_pb2.TensorProto) -> np.ndarray:
        try:
            return tensor_codec.decode(tensor, self._max_elements)
        except tensor_codec.TooManyElementsError as error:
            raise saved_model.invalid_argument(
                f"Input {alias}: {error} Send less, or raise --max_input_elements"
            ) from error
        except ValueError as error:
            raise saved_model.invalid_argument(f"tensor parsing error: {alias}") from error


def _check_rows(name: str, count: int, maximum: int) -> None:
    if count > maximum:
        raise saved_model.invalid_argument(
            f"Input {name} has {count} rows; expected at most {maximum}. Send several requests, or "
            "raise --max_input_rows"
        )


def _braced(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
