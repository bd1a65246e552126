"""TensorFlow Serving's gRPC services: PredictionService and ModelService.

References: TensorFlow Serving, `apis/prediction_service.proto` and `apis/model_service.proto`.
"""

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
from serving.model_server import server_metrics
from serving.model_server.models import servable_manager
from serving.model_server.operations import operations

# From a request message to its reply.
_Operation: TypeAlias = Callable[[Any], Any]


def handlers(
    manager: servable_manager.ServableManager,
    as_content: bool,
    metrics: server_metrics.ServerMetrics,
) -> tuple[grpc.GenericRpcHandler, grpc.GenericRpcHandler]:
    """Returns the handlers of both services, to be added to a gRPC server.

    Args:
        manager: The models.
        as_content: Whether Predict replies fill `tensor_content` instead of the typed fields.
        metrics: Metrics of the requests.
    """

    def counted(api: str, request_type: type, operation: _Operation) -> grpc.RpcMethodHandler:
        return _method(request_type, operation, partial(_record, metrics, api))

    prediction_service = {
        "Predict": counted(
            "Predict",
            predict_pb2.PredictRequest,
            partial(operations.predict, manager, as_content=as_content),
        ),
        "Classify": counted(
            "Classify",
            classification_pb2.ClassificationRequest,
            partial(operations.classify, manager),
        ),
        "Regress": counted(
            "Regress", regression_pb2.RegressionRequest, partial(operations.regress, manager)
        ),
        "MultiInference": _method(
            inference_pb2.MultiInferenceRequest,
            partial(operations.multi_inference, manager, metrics=metrics),
        ),
        "GetModelMetadata": _method(
            get_model_metadata_pb2.GetModelMetadataRequest,
            partial(operations.model_metadata, manager),
        ),
    }
    model_service = {
        "GetModelStatus": _method(
            get_model_status_pb2.GetModelStatusRequest, partial(operations.model_status, manager)
        ),
        "HandleReloadConfigRequest": _method(
            model_management_pb2.ReloadConfigRequest,
            partial(operations.reload_config, manager, metrics=metrics),
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
    request_type: Any,
    operation: _Operation,
    record: Callable[[Any, str, float], None] = lambda request, status, seconds: None,
) -> grpc.RpcMethodHandler:
    """Returns the handler of a method.

    Args:
        request_type: Message class of the request.
        operation: Returns the reply.
        record: Records request, name of its status code and time in seconds.
    """

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        started = time.perf_counter()
        try:
            if not context.is_active():
                # The caller's deadline passed while the request waited for a thread.
                raise saved_model.StatusError(
                    grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline exceeded before the run"
                )
            with saved_model.deadline_within(context.time_remaining()):
                reply = operation(request)
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
