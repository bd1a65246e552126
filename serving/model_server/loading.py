"""Loads a version of a model and replays its recorded requests before it serves.

The first caller then does not wait for the setup work of TensorFlow's first run.

References: TensorFlow Serving, `servables/tensorflow/saved_model_warmup_util.cc`.
"""

import os
import time

import grpc
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving import saved_model
from serving.model_server import server_metrics, server_options
from serving.model_server.models import servable
from serving.model_server.operations import examples

WARM_UP_PATH = os.path.join("assets.extra", "tf_serving_warmup_requests")
_MAX_RECORDS = 1000


def load(
    options: server_options.ServerOptions,
    metrics: server_metrics.ServerMetrics,
    name: str,
    version: int,
    path: str,
) -> servable.Servable:
    """Returns the loaded version of a model, warmed up.

    Args:
        options: Options of the server.
        metrics: Metrics of loads, warm-ups and runs.
        name: Model name.
        version: Version number.
        path: Directory of the version.

    Raises:
        StatusError: The version cannot be loaded, or one of its warm-up records fails.
    """
    started = time.perf_counter()
    try:
        model = servable.Servable(
            name,
            version,
            path,
            options.session_config or saved_model.session_config(),
            metrics=metrics,
            max_elements=options.max_input_elements,
            max_rows=options.max_input_rows,
        )
    except Exception:
        metrics.record_load(path, False, 0.0)
        raise
    loaded = time.perf_counter()
    metrics.record_load(path, True, loaded - started)
    if not options.enable_model_warmup:
        return model
    try:
        records = _replay_records(model)
    except Exception:
        model.close()
        raise
    if records:
        metrics.record_warm_up(path, records, time.perf_counter() - loaded)
    return model


def _replay_records(model: servable.Servable) -> int:
    """Runs the warm-up records, a TFRecord file of `PredictionLog`, and returns their number."""
    path = os.path.join(model.path, WARM_UP_PATH)
    if not os.path.exists(path):
        return 0
    count = 0
    try:
        for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
            _replay(model, prediction_log_pb2.PredictionLog.FromString(record))
            count += 1
            if count > _MAX_RECORDS:
                raise saved_model.invalid_argument(
                    f"Number of warmup records exceeds the maximum ({_MAX_RECORDS}) at {path}"
                )
    except tf.errors.DataLossError as error:
        raise saved_model.StatusError(
            grpc.StatusCode.DATA_LOSS,
            f"{error.message}. Please verify your warmup data is in TFRecord format.",
        ) from error
    return count


def _replay(model: servable.Servable, log: prediction_log_pb2.PredictionLog) -> None:
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        request = log.predict_log.request
        model.predict(request.model_spec.signature_name, request.inputs, request.output_filter)
    elif kind == "classify_log":
        examples.classify(model, log.classify_log.request)
    elif kind == "regress_log":
        examples.regress(model, log.regress_log.request)
    elif kind == "multi_inference_log":
        examples.multi_inference(model, log.multi_inference_log.request)
    elif kind is not None:
        number = log.DESCRIPTOR.fields_by_name[kind].number
        raise saved_model.unimplemented(f"Unsupported log_type for warmup: {number}")
