"""The operations of TensorFlow Serving that gRPC and REST share.

All raise `StatusError` with TensorFlow Serving's codes and messages.

References: TensorFlow Serving, `apis/prediction_service.proto` and `apis/model_service.proto`.
"""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_pb2,
    predict_pb2,
)

from serving import saved_model
from serving.model_server import server_metrics, tensor_codec
from serving.model_server.models import config_checks, servable, servable_manager
from serving.model_server.operations import examples

SIGNATURE_FIELD = "signature_def"

_Manager: TypeAlias = servable_manager.ServableManager
_Reply = TypeVar("_Reply")


def on_model(
    operation: Callable[[servable.Servable, Any], _Reply], manager: _Manager, request: Any
) -> _Reply:
    """Returns the answer of an operation on the model that a request names.

    Args:
        operation: `run_predict`, or `classify` or `regress` of `examples`.
        manager: The models.
        request: Request with a `model_spec`.
    """
    _check_spec(request)
    with manager.use(request.model_spec) as model:
        return operation(model, request)


def run_predict(
    model: servable.Servable, request: predict_pb2.PredictRequest, as_content: bool
) -> predict_pb2.PredictResponse:
    """Answers a Predict request of a loaded model.

    Args:
        model: The loaded version.
        request: Signature, inputs and output filter.
        as_content: Whether the reply fills `tensor_content` instead of the typed fields.
    """
    spec = request.model_spec
    outputs = model.predict(spec.signature_name, request.inputs, request.output_filter)
    response = predict_pb2.PredictResponse(model_spec=model.effective_spec(spec))
    for alias, array in outputs.items():
        response.outputs[alias].CopyFrom(tensor_codec.encode_tensor(array, as_content))
    return response


def multi_inference(
    manager: _Manager,
    request: inference_pb2.MultiInferenceRequest,
    metrics: server_metrics.ServerMetrics,
) -> inference_pb2.MultiInferenceResponse:
    """Answers a MultiInference request on the model of its first task."""
    spec = request.tasks[0].model_spec if request.tasks else model_pb2.ModelSpec()
    with manager.use(spec) as model:
        response, count = examples.multi_inference(model, request)
    metrics.record_examples(spec.name, count)
    return response


def model_metadata(
    manager: _Manager, request: get_model_metadata_pb2.GetModelMetadataRequest
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Answers a GetModelMetadata request."""
    _check_spec(request)
    if not request.metadata_field:
        raise saved_model.invalid_argument(
            "GetModelMetadataRequest must specify at least one metadata_field"
        )
    for field in request.metadata_field:
        if field != SIGNATURE_FIELD:
            raise saved_model.invalid_argument(f"Metadata field {field} is not supported")
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    signatures = get_model_metadata_pb2.SignatureDefMap()
    with manager.use(request.model_spec) as model:
        for key, definition in model.signature_defs.items():
            signatures.signature_def[key].CopyFrom(definition)
        response.model_spec.name = model.name
        response.model_spec.version.value = model.version
    response.metadata[SIGNATURE_FIELD].Pack(signatures)
    return response


def model_status(
    manager: _Manager, request: get_model_status_pb2.GetModelStatusRequest
) -> get_model_status_pb2.GetModelStatusResponse:
    """Answers a GetModelStatus request."""
    _check_spec(request)
    return get_model_status_pb2.GetModelStatusResponse(
        model_version_status=manager.status(request.model_spec)
    )


def reload_config(
    manager: _Manager, request: model_management_pb2.ReloadConfigRequest
) -> model_management_pb2.ReloadConfigResponse:
    """Answers a HandleReloadConfigRequest after each new model serves."""
    if request.config.WhichOneof("config") != "model_config_list":
        raise config_checks.unsupported_config()
    manager.reload(request.config)
    response = model_management_pb2.ReloadConfigResponse()
    response.status.error_code = 0
    return response


def _check_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise saved_model.invalid_argument("Missing ModelSpec")
