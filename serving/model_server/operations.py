"""The operations of TensorFlow Serving that gRPC and REST share; all raise `StatusError`.

References: TensorFlow Serving, `apis/prediction_service.proto` and `apis/model_service.proto`.
"""

from typing import Any

from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
)

from serving import saved_model
from serving.model_server import servable, servable_manager, tensor_codec

SIGNATURE_FIELD = "signature_def"


def predict(
    manager: servable_manager.ServableManager, request: predict_pb2.PredictRequest
) -> predict_pb2.PredictResponse:
    """Answers a Predict request by the model that it names."""
    _check_spec(request)
    with manager.use(request.model_spec) as model:
        return run_predict(model, request)


def run_predict(
    model: servable.Servable, request: predict_pb2.PredictRequest
) -> predict_pb2.PredictResponse:
    """Answers a Predict request of a loaded model; raises `StatusError` as `Servable.predict`."""
    signature_name = request.model_spec.signature_name or servable.DEFAULT_SIGNATURE
    outputs = model.predict(signature_name, request.inputs, request.output_filter)
    response = predict_pb2.PredictResponse()
    # The version that answered.
    response.model_spec.name = request.model_spec.name
    response.model_spec.version.value = model.version
    response.model_spec.signature_name = signature_name
    for alias, array in outputs.items():
        response.outputs[alias].CopyFrom(tensor_codec.encode_tensor(array))
    return response


def model_metadata(
    manager: servable_manager.ServableManager,
    request: get_model_metadata_pb2.GetModelMetadataRequest,
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Answers a GetModelMetadata request."""
    _check_spec(request)
    if set(request.metadata_field) != {SIGNATURE_FIELD}:
        raise saved_model.invalid_argument(
            f"metadata_field is {list(request.metadata_field)}; expected {SIGNATURE_FIELD}."
        )
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
    manager: servable_manager.ServableManager, request: get_model_status_pb2.GetModelStatusRequest
) -> get_model_status_pb2.GetModelStatusResponse:
    """Answers a GetModelStatus request."""
    _check_spec(request)
    return get_model_status_pb2.GetModelStatusResponse(
        model_version_status=manager.status(request.model_spec)
    )


def reload_config(
    manager: servable_manager.ServableManager, request: model_management_pb2.ReloadConfigRequest
) -> model_management_pb2.ReloadConfigResponse:
    """Answers a HandleReloadConfigRequest after each new model serves."""
    manager.reload(request.config)
    response = model_management_pb2.ReloadConfigResponse()
    response.status.error_code = 0
    return response


def _check_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise saved_model.invalid_argument("Missing ModelSpec")
