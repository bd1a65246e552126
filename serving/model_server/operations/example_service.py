"""Classify, Regress and MultiInference of a loaded model.

References: TensorFlow Serving, `servables/tensorflow/classifier.cc`, `regressor.cc`,
    `multi_inference.cc`.
"""

from types import ModuleType

import numpy as np
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    input_pb2,
    model_pb2,
    regression_pb2,
)

from serving import saved_model
from serving.model_server.models import servable
from serving.model_server.operations import classification, regression

_KINDS = {classification.METHOD: classification, regression.METHOD: regression}


def classify(
    model: servable.Servable,
    request: classification_pb2.ClassificationRequest,
) -> classification_pb2.ClassificationResponse:
    """Answers a Classify request.

    Args:
        model: the loaded version.
        request: its signature and examples.

    Raises:
        StatusError: INVALID_ARGUMENT if the signature or the examples do not fit, and whatever
            the model's operations raise.
    """
    definition = _definition(model, request.model_spec)
    source, targets = classification.tensors(definition, model.check_method)
    batch = serialized(request.input)
    values = model.run("Classify", {source: batch}, targets)
    response = classification_pb2.ClassificationResponse()
    fill_spec(response.model_spec, request.model_spec, model)
    response.result.CopyFrom(classification.result(definition, values, len(batch)))
    return response


def regress(
    model: servable.Servable,
    request: regression_pb2.RegressionRequest,
) -> regression_pb2.RegressionResponse:
    """Answers a Regress request; see `classify`."""
    definition = _definition(model, request.model_spec)
    source, targets = regression.tensors(definition, model.check_method)
    batch = serialized(request.input)
    values = model.run("Regress", {source: batch}, targets)
    response = regression_pb2.RegressionResponse()
    fill_spec(response.model_spec, request.model_spec, model)
    response.result.CopyFrom(regression.result(definition, values, len(batch)))
    return response


def multi_inference(
    model: servable.Servable,
    request: inference_pb2.MultiInferenceRequest,
) -> tuple[inference_pb2.MultiInferenceResponse, int]:
    """Answers a MultiInference request with one run for all its tasks.

    Returns:
        The answer, and the number of examples.

    Raises:
        StatusError: INVALID_ARGUMENT if a task or the examples do not fit, UNIMPLEMENTED for a
            task that neither classifies nor regresses, and whatever the operations raise.
    """
    tasks: list[tuple[ModuleType, meta_graph_pb2.SignatureDef, model_pb2.ModelSpec]] = []
    sources, targets = set(), set()
    for task in request.tasks:
        kind, definition = _checked(model, task, request, [item[2] for item in tasks])
        source, outputs = kind.tensors(definition, model.check_method)
        sources.add(source)
        targets.update(outputs)
        tasks.append((kind, definition, task.model_spec))
    batch = serialized(request.input)
    # TensorFlow Serving counts the examples of such a run, not its time.
    values = model.run(None, dict.fromkeys(sources, batch), sorted(targets))
    response = inference_pb2.MultiInferenceResponse()
    for kind, definition, spec in tasks:
        answer = response.results.add()
        fill_spec(answer.model_spec, spec, model)
        result = kind.result(definition, values, len(batch))
        if kind is classification:
            answer.classification_result.CopyFrom(result)
        else:
            answer.regression_result.CopyFrom(result)
    return response, len(batch)


def fill_spec(
    answer: model_pb2.ModelSpec, asked: model_pb2.ModelSpec, model: servable.Servable
) -> None:
    """Writes what a reply says of the model: name, effective version and signature."""
    answer.name = asked.name
    answer.version.value = model.version
    answer.signature_name = _key(asked)


def _checked(
    model: servable.Servable,
    task: inference_pb2.InferenceTask,
    request: inference_pb2.MultiInferenceRequest,
    before: list[model_pb2.ModelSpec],
) -> tuple[ModuleType, meta_graph_pb2.SignatureDef]:
    spec = task.model_spec
    if not spec.name:
        raise saved_model.invalid_argument("Found ModelSpec with an empty model name.")
    if spec.name != request.tasks[0].model_spec.name:
        raise saved_model.invalid_argument(
            "All ModelSpecs in a MultiInferenceRequest must access the same model name."
        )
    key = _key(spec)
    if key in map(_key, before):
        raise saved_model.invalid_argument(f"Duplicate evaluation of signature: {key}")
    if key not in model.signature_defs:
        raise saved_model.invalid_argument(f"Requested signature not found in model graph: {key}")
    if task.method_name not in _KINDS:
        raise saved_model.unimplemented(f"Unsupported signature method_name: {task.method_name}")
    return _KINDS[task.method_name], model.signature_defs[key]


def _definition(model: servable.Servable, spec: model_pb2.ModelSpec) -> meta_graph_pb2.SignatureDef:
    key = _key(spec)
    if key not in model.signature_defs:
        raise saved_model.invalid_argument(f"No signature was found with the name: {key}")
    return model.signature_defs[key]


def _key(spec: model_pb2.ModelSpec) -> str:
    return spec.signature_name or servable.DEFAULT_SIGNATURE


def serialized(request_input: input_pb2.Input) -> np.ndarray:
    """Returns the examples as a vector of bytes, each with the context merged into it.

    Raises:
        StatusError: INVALID_ARGUMENT if there are none.
    """
    if request_input.WhichOneof("kind") == "example_list_with_context":
        both = request_input.example_list_with_context
        # Messages that follow each other are one message in which the later values hold.
        context = both.context.SerializeToString()
        values = [context + example.SerializeToString() for example in both.examples]
    else:
        values = [item.SerializeToString() for item in request_input.example_list.examples]
    if not values:
        raise saved_model.invalid_argument("Input is empty.")
    array = np.empty(len(values), object)
    array[:] = values
    return array
