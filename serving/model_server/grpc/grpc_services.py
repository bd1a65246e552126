"""TensorFlow Serving's gRPC services: PredictionService and ModelService.

References: TensorFlow Serving, `apis/prediction_service.proto` and `apis/model_service.proto`.
"""

import math
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from serving import saved_model
from serving.model_server import server_metrics, server_options
from serving.model_server.models import servable_manager
from serving.model_server.operations import examples, operations

# Maps a request message to its reply; some operations take the loaded model first.
_Operation: TypeAlias = Callable[..., Any]


def handlers(
    manager: servable_manager.ServableManager,
    options: server_options.ServerOptions,
    metrics: server_metrics.ServerMetrics,
) -> tuple[grpc.GenericRpcHandler, grpc.GenericRpcHandler]:
    """Returns the handlers of both services, to be added to a gRPC server."""
    as_content = options.enable_serialization_as_tensor_content
    # As in TensorFlow Serving, no request waits for a thread.
    method = partial(_method, threading.Semaphore(options.grpc_max_threads))

    def counted(api: str, request_type: type, operation: _Operation) -> grpc.RpcMethodHandler:
        on_model = partial(operations.on_model, operation, manager)
        return method(request_type, on_model, partial(_record, metrics, api))

    prediction_service = {
        "Predict": counted(
            "Predict",
            predict_pb2.PredictRequest,
            partial(operations.run_predict, as_content=as_content),
        ),
        "Classify": counted(
            "Classify", classification_pb2.ClassificationRequest, examples.classify
        ),
        "Regress": counted("Regress", regression_pb2.RegressionRequest, examples.regress),
        "MultiInference": method(
            inference_pb2.MultiInferenceRequest,
            partial(operations.multi_inference, manager, metrics=metrics),
        ),
        "GetModelMetadata": method(
            get_model_metadata_pb2.GetModelMetadataRequest,
            partial(operations.model_metadata, manager),
        ),
    }
    model_service = {
        "GetModelStatus": method(
            get_model_status_pb2.GetModelStatusRequest, partial(operations.model_status, manager)
        ),
        "HandleReloadConfigRequest": method(
            model_management_pb2.ReloadConfigRequest,
            partial(operations.reload_config, manager),
        ),
    }
    return (
        grpc.method_handlers_generic_handler(
            "tensorflow.serving.PredictionService", prediction_service
        ),
        grpc.method_handlers_generic_handler("tensorflow.serving.ModelService", model_service),
    )


def _record(
    metrics: server_metrics.ServerMetrics, api: str, request: Any, status: str, seconds: float
) -> None:
    name = request.model_spec.name
    if status == grpc.StatusCode.OK.name:
        metrics.record_latency(name, api, "GRPC", seconds)
    metrics.record_request(name, status)


def _method(
    free: threading.Semaphore,
    request_type: Any,
    operation: _Operation,
    record: Callable[[Any, str, float], None] = lambda request, status, seconds: None,
) -> grpc.RpcMethodHandler:
    """Returns the handler of a method; `record` gets the request, the status code and the time."""

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        started = time.perf_counter()
        try:
            if not context.is_active():
                # The caller's deadline passed while the request waited for a thread.
                raise saved_model.StatusError(
                    grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline exceeded before the run"
                )
            seconds = context.time_remaining()
            deadline = math.inf if seconds is None else time.monotonic() + seconds
            if not free.acquire(blocking=False):
                raise saved_model.StatusError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted"
                )
            try:
                with saved_model.deadline_at(deadline):
                    reply = operation(request)
            finally:
                free.release()
        except Exception as error:
            status = saved_model.status_from_exception(error)
            record(request, status.code.name, time.perf_counter() - started)
            context.abort(status.code, status.grpc_message())
        record(request, grpc.StatusCode.OK.name, time.perf_counter() - started)
        return reply

    return grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=request_type.FromString,
        response_serializer=lambda reply: reply.SerializeToString(),
    )
