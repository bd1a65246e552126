"""TensorFlow Serving's gRPC services.

References: TensorFlow Serving, `apis/prediction_service.proto` and `apis/model_service.proto`.
"""

import functools
import time
from collections.abc import Callable
from typing import TypeVar

import grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving import saved_model
from serving.model_server import server_metrics
from serving.model_server.models import servable_manager
from serving.model_server.operations import operations

_Reply = TypeVar("_Reply")
_Request = TypeVar(
    "_Request",
    predict_pb2.PredictRequest,
    classification_pb2.ClassificationRequest,
    regression_pb2.RegressionRequest,
)


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict, Classify, Regress, MultiInference and GetModelMetadata."""

    def __init__(
        self,
        manager: servable_manager.ServableManager,
        as_content: bool,
        metrics: server_metrics.ServerMetrics,
    ) -> None:
        """Serves the manager's models.

        Args:
            manager: The models.
            as_content: Whether replies fill `tensor_content` instead of the typed fields.
            metrics: Metrics of the requests.
        """
        self._manager = manager
        self._predict = functools.partial(operations.predict, as_content=as_content)
        self._metrics = metrics

    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """Runs a signature on the request's tensors."""
        return self._count("Predict", self._predict, request, context)

    def Classify(
        self, request: classification_pb2.ClassificationRequest, context: grpc.ServicerContext
    ) -> classification_pb2.ClassificationResponse:
        """Classifies the request's examples."""
        return self._count("Classify", operations.classify, request, context)

    def Regress(
        self, request: regression_pb2.RegressionRequest, context: grpc.ServicerContext
    ) -> regression_pb2.RegressionResponse:
        """Predicts a number for each of the request's examples."""
        return self._count("Regress", operations.regress, request, context)

    def MultiInference(
        self, request: inference_pb2.MultiInferenceRequest, context: grpc.ServicerContext
    ) -> inference_pb2.MultiInferenceResponse:
        """Classifies and regresses the same examples in one run."""
        return _answer(
            context, lambda: operations.multi_inference(self._manager, request, self._metrics)
        )

    def GetModelMetadata(
        self,
        request: get_model_metadata_pb2.GetModelMetadataRequest,
        context: grpc.ServicerContext,
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Describes a model's signatures."""
        return _answer(context, lambda: operations.model_metadata(self._manager, request))

    def _count(
        self,
        api: str,
        operation: Callable[[servable_manager.ServableManager, _Request], _Reply],
        request: _Request,
        context: grpc.ServicerContext,
    ) -> _Reply:
        """Answers like `_answer`, and records the request and its time."""
        started, name = time.perf_counter(), request.model_spec.name

        def counted() -> _Reply:
            reply = operation(self._manager, request)
            self._metrics.record_latency(name, api, "GRPC", time.perf_counter() - started)
            self._metrics.record_request(name, grpc.StatusCode.OK.name)
            return reply

        def count_failure(status: saved_model.StatusError) -> None:
            self._metrics.record_request(name, status.code.name)

        return _answer(context, counted, count_failure)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus and HandleReloadConfigRequest."""

    def __init__(
        self, manager: servable_manager.ServableManager, metrics: server_metrics.ServerMetrics
    ) -> None:
        """Serves the manager's states and takes its new configurations."""
        self._manager = manager
        self._metrics = metrics

    def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Lists versions and their states."""
        return _answer(context, lambda: operations.model_status(self._manager, request))

    def HandleReloadConfigRequest(
        self, request: model_management_pb2.ReloadConfigRequest, context: grpc.ServicerContext
    ) -> model_management_pb2.ReloadConfigResponse:
        """Replaces the list of models."""
        return _answer(
            context, lambda: operations.reload_config(self._manager, request, self._metrics)
        )


def _answer(
    context: grpc.ServicerContext,
    operation: Callable[[], _Reply],
    on_failure: Callable[[saved_model.StatusError], None] = lambda status: None,
) -> _Reply:
    """Returns the operation's reply, or ends the call with the status of its error."""
    try:
        if not context.is_active():
            # The caller's deadline passed while the request waited for a thread.
            raise saved_model.StatusError(
                grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline exceeded before the run"
            )
        with saved_model.deadline_within(context.time_remaining()):
            return operation()
    except Exception as error:
        status = saved_model.status_from_exception(error)
    on_failure(status)
    context.abort(status.code, status.grpc_message())
    raise AssertionError("abort raises")
