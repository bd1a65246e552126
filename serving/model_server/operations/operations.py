"""The operations of TensorFlow Serving that gRPC and REST share.

References: TensorFlow Serving, `apis/prediction_service.proto`, `apis/model_service.proto`.
"""

from google.protobuf import any_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from serving import saved_model
from serving.model_server import tensor_codec
from serving.model_server.metrics import serving_metrics
from serving.model_server.models import servable, servable_manager
from serving.model_server.operations import example_service

SIGNATURE_FIELD = "signature_def"


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
        raise saved_model.invalid_argument("Missing ModelSpec")
    with manager.use(request.model_spec) as model:
        return run_predict(model, request, as_content)


def run_predict(
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
        response.outputs[alias].CopyFrom(tensor_codec.encode_tensor(array, as_content))
    return response


def classify(
    manager: servable_manager.ServableManager,
    request: classification_pb2.ClassificationRequest,
) -> classification_pb2.ClassificationResponse:
    """Answers a Classify request.

    Raises:
        StatusError: with the code and words of TensorFlow Serving.
    """
    if not request.HasField("model_spec"):
        raise saved_model.invalid_argument("Missing ModelSpec")
    with manager.use(request.model_spec) as model:
        return example_service.classify(model, request)


def regress(
    manager: servable_manager.ServableManager,
    request: regression_pb2.RegressionRequest,
) -> regression_pb2.RegressionResponse:
    """Answers a Regress request; see `classify`."""
    if not request.HasField("model_spec"):
        raise saved_model.invalid_argument("Missing ModelSpec")
    with manager.use(request.model_spec) as model:
        return example_service.regress(model, request)


def model_metadata(
    manager: servable_manager.ServableManager,
    request: get_model_metadata_pb2.GetModelMetadataRequest,
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Answers a GetModelMetadata request.

    Raises:
        StatusError: with the code and words of TensorFlow Serving.
    """
    if not request.HasField("model_spec"):
        raise saved_model.invalid_argument("Missing ModelSpec")
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
        raise saved_model.invalid_argument("Missing ModelSpec")
    return get_model_status_pb2.GetModelStatusResponse(
        model_version_status=manager.status(request.model_spec)
    )


def reload_config(
    manager: servable_manager.ServableManager,
    request: model_management_pb2.ReloadConfigRequest,
    metrics: serving_metrics.ServingMetrics,
) -> model_management_pb2.ReloadConfigResponse:
    """Answers a HandleReloadConfigRequest, after each new model serves.

    Raises:
        StatusError: if the configuration is refused or a new model cannot be loaded.
    """
    if request.config.WhichOneof("config") != "model_config_list":
        raise saved_model.invalid_argument(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. "
            "Only ModelConfigList is currently supported"
        )
    before = metrics.first_values(request.metric_names)
    manager.reload(request.config)
    response = model_management_pb2.ReloadConfigResponse()
    response.status.error_code = 0
    for name, value in metrics.first_values(request.metric_names).items():
        response.metric.add(name=name, int64_value_increase=value - before[name])
    return response
