"""One loaded version of a model, run by its signatures."""

import os
import time
from collections.abc import Callable, Mapping, Sequence

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from serving import saved_model
from serving.model_server.metrics import serving_metrics
from serving.model_server.models import signature, tflite_runner

_METHODS = (
    tf.saved_model.PREDICT_METHOD_NAME,
    tf.saved_model.CLASSIFY_METHOD_NAME,
    tf.saved_model.REGRESS_METHOD_NAME,
)
DEFAULT_SIGNATURE = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY

Tensor = signature.Tensor
session_config = saved_model.session_config


class Servable:
    """A loaded model version that answers predictions from many threads at once."""

    def __init__(
        self,
        name: str,
        version: int,
        path: str | os.PathLike[str],
        session_config: config_pb2.ConfigProto | None = None,
        *,
        tags: Sequence[str] = (tf.saved_model.SERVING,),
        metrics: serving_metrics.ServingMetrics | None = None,
        tflite_interpreters: int = 0,
        check_method: bool = False,
    ) -> None:
        """Loads the SavedModel.

        Args:
            name: the model's name.
            version: its version number.
            path: the directory that holds `saved_model.pb`.
            session_config: threads and devices; TensorFlow's defaults if None.
            tags: which of the SavedModel's graphs to load.
            metrics: where the time of each run is counted; nowhere if None.
            tflite_interpreters: how many requests run at once on the directory's
                `model.tflite`, which is loaded instead if it is there; 0 never to load it.
            check_method: whether a signature must name the method that it is used for.

        Raises:
            StatusError: if the SavedModel cannot be loaded.
        """
        self.name = name
        self.version = version
        self.path = os.fspath(path)
        self.check_method = check_method
        self._metrics = metrics
        runner: saved_model.SessionRunner | tflite_runner.TfliteRunner
        if tflite_interpreters and tflite_runner.is_present(self.path):
            runner = tflite_runner.TfliteRunner(self.path, tflite_interpreters)
        else:
            runner = saved_model.SessionRunner(self.path, tags, session_config)
        self._runner: saved_model.Runner = runner
        self.signature_defs = runner.signature_defs
        self._signatures = {
            key: signature.Signature(definition) for key, definition in self.signature_defs.items()
        }

    def wrap(self, wrap: Callable[[saved_model.Runner], saved_model.Runner]) -> None:
        """Lets every run go through `wrap(runner)`, such as one that runs requests together."""
        self._runner = wrap(self._runner)

    def predict(
        self, signature_name: str, inputs: Mapping[str, Tensor], output_filter: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """Runs a signature.

        Args:
            signature_name: the signature's key; the serving default if empty.
            inputs: a tensor, as message or array, for each input without a default.
            output_filter: names of the outputs wanted; all if empty.

        Returns:
            The outputs by name; strings are object arrays of bytes.

        Raises:
            StatusError: FAILED_PRECONDITION if there is no such signature, INTERNAL if it names
                another method, INVALID_ARGUMENT if the inputs do not fit it, and whatever the
                model's operations raise.
        """
        key = signature_name or DEFAULT_SIGNATURE
        if key not in self._signatures:
            raise saved_model.failed_precondition(f'Serving signature key "{key}" not found.')
        self._check_method_of(key)
        started = time.perf_counter()
        try:
            outputs = self._signatures[key].run(
                self._runner, dict(inputs.items()), list(output_filter)
            )
        except tf.errors.OpError as error:
            raise saved_model.status_from_exception(error) from error
        self._record("Predict", started)
        return outputs

    def run(
        self, api: str | None, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Runs the graph by the names of its tensors.

        Args:
            api: the name that the run's time is counted under, such as `Classify`; None if it
                is not counted.
            feeds: arrays by tensor name.
            fetches: the tensors wanted.

        Raises:
            StatusError: whatever the model's operations raise.
        """
        started = time.perf_counter()
        try:
            outputs = self._runner.run(feeds, fetches)
        except tf.errors.OpError as error:
            raise saved_model.status_from_exception(error) from error
        if api is not None:
            self._record(api, started)
        return outputs

    def close(self) -> None:
        """Frees the session; no call may be running or follow."""
        self._signatures.clear()
        self._runner.close()

    def _check_method_of(self, key: str) -> None:
        method = self.signature_defs[key].method_name
        if self.check_method and method not in _METHODS:
            raise saved_model.StatusError(
                grpc.StatusCode.INTERNAL,
                "Expected prediction signature method_name to be one of "
                f"{{{', '.join(_METHODS)}}}. Was: {method}",
            )

    def _record(self, api: str, started: float) -> None:
        if self._metrics is not None:
            self._metrics.record_run(self.name, api, time.perf_counter() - started)
