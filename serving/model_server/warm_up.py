"""Replays a SavedModel's recorded requests before it serves, so the first caller does not wait.

References: TensorFlow Serving, `servables/tensorflow/saved_model_warmup_util.cc`.
"""

import os

import grpc
import tensorflow as tf
from google.protobuf import message as protobuf_message
from tensorflow_serving.apis import prediction_log_pb2

from serving import saved_model
from serving.model_server.models import servable
from serving.model_server.operations import example_service

RECORDS_PATH = os.path.join("assets.extra", "tf_serving_warmup_requests")
_MAX_RECORDS = 1000


def run(model: servable.Servable, iterations: int = 1) -> int:
    """Runs the model's warm-up records (a TFRecord file of `PredictionLog`).

    Args:
        model: the loaded version.
        iterations: how often each record runs.

    Returns:
        The number of records; 0 if the model has no such file.

    Raises:
        StatusError: if the file is unreadable or holds more than 1,000 records, or whatever the
            first failing record raises.
    """
    path = os.path.join(model.path, RECORDS_PATH)
    if not os.path.exists(path):
        return 0
    count = 0
    try:
        for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
            log = _parse(record, path)
            for _ in range(iterations):
                _replay(model, log)
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


def _parse(record: bytes, path: str) -> prediction_log_pb2.PredictionLog:
    try:
        return prediction_log_pb2.PredictionLog.FromString(record)
    except protobuf_message.DecodeError as error:
        raise saved_model.invalid_argument(
            f"Failed to parse warmup record: {record!r} from {path}"
        ) from error


def _replay(model: servable.Servable, log: prediction_log_pb2.PredictionLog) -> None:
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        request = log.predict_log.request
        model.predict(request.model_spec.signature_name, request.inputs, request.output_filter)
    elif kind == "classify_log":
        example_service.classify(model, log.classify_log.request)
    elif kind == "regress_log":
        example_service.regress(model, log.regress_log.request)
    elif kind == "multi_inference_log":
        example_service.multi_inference(model, log.multi_inference_log.request)
    elif kind is not None:
        number = log.DESCRIPTOR.fields_by_name[kind].number
        raise saved_model.unimplemented(f"Unsupported log_type for warmup: {number}")
