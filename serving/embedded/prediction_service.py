"""TensorFlow Serving's gRPC services, and the operations behind them that REST shares.

References: TensorFlow Serving, `apis/prediction_service.proto`, `apis/model_service.proto`.
"""

from collections.abc import Callable
from typing import TypeVar

import grpc
from google.protobuf import any_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.embedded import rpc_status, servable, servable_manager, tensor_codec

SIGNATURE_FIELD = "signature_def"
_Reply = TypeVar("_Reply")


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata; the other calls are answered by UNIMPLEMENTED."""

    def __init__(self, manager: servable_manager.ServableManager, as_content: bool) -> None:
        """Serves the manager's models.

        Args:
            manager: the models.
            as_content: whether replies carry `tensor_content` instead of typed fields.
        """
        self._manager = manager
        self._as_content = as_content

    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """Runs a signature on the request's tensors."""
        return _answer(context, lambda: predict(self._manager, request, self._as_content))

    def GetModelMetadata(
        self,
        request: get_model_metadata_pb2.GetModelMetadataRequest,
        context: grpc.ServicerContext,
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Describes a model's signatures."""
        return _answer(context, lambda: model_metadata(self._manager, request))


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus and HandleReloadConfigRequest."""

    def __init__(self, manager: servable_manager.ServableManager) -> None:
        """Serves the manager's states and takes its new configurations."""
        self._manager = manager

    def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Lists versions and their states."""
        return _answer(context, lambda: model_status(self._manager, request))

    def HandleReloadConfigRequest(
        self, request: model_management_pb2.ReloadConfigRequest, context: grpc.ServicerContext
    ) -> model_management_pb2.ReloadConfigResponse:
        """Replaces the list of models."""
        return _answer(context, lambda: reload_config(self._manager, request))


def predict(
    manager: servable_manager.ServableManager,
    request: predict_pb2.PredictRequest,
    as_content: bool,
) -> predict_pb2.PredictResponse:
    """Answers a Predict request.

    Raises:
        StatusError: with the code and words of TensorFlow Serving.
    """
    if not request.HasField("model_spec"):
        raise rpc_status.invalid_argument("Missing ModelSpec")
    with manager.use(request.model_spec) as model:
        return run(model, request, as_content)


def run(
    model: servable.Servable, request: predict_pb2.PredictRequest, as_content: bool
) -> predict_pb2.PredictResponse:
    """Answers a Predict request of a loaded model.

    Raises:
        StatusError: as `Servable.predict`.
    """
    spec = request.model_spec
    outputs = model.predict(spec.signature_name, request.inputs, request.output_filter)
    response = predict_pb2.PredictResponse()
    response.model_spec.name = spec.name
    response.model_spec.version.value = model.version
    response.model_spec.signature_name = spec.signature_name or servable.DEFAULT_SIGNATURE
    for alias, array in outputs.items():
        response.outputs[alias].CopyFrom(tensor_codec.encode(array, as_content))
    return response


def model_metadata(
    manager: servable_manager.ServableManager,
    request: get_model_metadata_pb2.GetModelMetadataRequest,
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Answers a GetModelMetadata request.

    Raises:
        StatusError: with the code and words of TensorFlow Serving.
    """
    if not request.HasField("model_spec"):
        raise rpc_status.invalid_argument("Missing ModelSpec")
    if not request.metadata_field:
        raise rpc_status.invalid_argument(
            "GetModelMetadataRequest must specify at least one metadata_field"
        )
    for field in request.metadata_field:
        if field != SIGNATURE_FIELD:
            raise rpc_status.invalid_argument(f"Metadata field {field} is not supported")
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    signatures = get_model_metadata_pb2.SignatureDefMap()
    with manager.use(request.model_spec) as model:
        for key, definition in model.signature_defs.items():
            signatures.signature_def[key].CopyFrom(definition)
        response.model_spec.name = model.name
        response.model_spec.version.value = model.version
    packed = any_pb2.Any()
    packed.Pack(signatures)
    response.metadata[SIGNATURE_FIELD].CopyFrom(packed)
    return response


def model_status(
    manager: servable_manager.ServableManager,
    request: get_model_status_pb2.GetModelStatusRequest,
) -> get_model_status_pb2.GetModelStatusResponse:
    """Answers a GetModelStatus request.

    Raises:
        StatusError: with the code and words of TensorFlow Serving.
    """
    if not request.HasField("model_spec"):
        raise rpc_status.invalid_argument("Missing ModelSpec")
    return get_model_status_pb2.GetModelStatusResponse(
        model_version_status=manager.status(request.model_spec)
    )


def reload_config(
    manager: servable_manager.ServableManager,
    request: model_management_pb2.ReloadConfigRequest,
) -> model_management_pb2.ReloadConfigResponse:
    """Answers a HandleReloadConfigRequest, after each new model serves.

    Raises:
        StatusError: if the configuration is refused or a new model cannot be loaded.
    """
    if request.config.WhichOneof("config") != "model_config_list":
        raise rpc_status.invalid_argument(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. "
            "Only ModelConfigList is currently supported"
        )
    manager.reload(request.config)
    response = model_management_pb2.ReloadConfigResponse()
    response.status.error_code = 0
    return response


def _answer(context: grpc.ServicerContext, operation: Callable[[], _Reply]) -> _Reply:
    if not context.is_active():
        # The caller's deadline passed while the request waited for a thread.
        context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline exceeded before the run")
    try:
        return operation()
    except Exception as error:
        status = rpc_status.from_exception(error)
    context.abort(status.code, status.grpc_message())
    raise AssertionError("abort raises")
