"""Classify, Regress and MultiInference: a signature runs on the serialized examples of a request.

References: TensorFlow Serving, `servables/tensorflow/classifier.cc`, `regressor.cc` and
    `multi_inference.cc`.
"""

from collections.abc import Collection, Mapping

import numpy as np
import tensorflow as tf
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

_CLASSIFY = tf.saved_model.CLASSIFY_METHOD_NAME
_REGRESS = tf.saved_model.REGRESS_METHOD_NAME
_CLASSES = tf.saved_model.CLASSIFY_OUTPUT_CLASSES
_SCORES = tf.saved_model.CLASSIFY_OUTPUT_SCORES
_REGRESS_OUTPUTS = tf.saved_model.REGRESS_OUTPUTS
# Both kinds of signature use this name for their only input.
_INPUTS = tf.saved_model.CLASSIFY_INPUTS
# Maximum size of all copies of a common context, one for each example.
_MAX_CONTEXT_BYTES = 2**26
_KINDS = {_CLASSIFY: "classification", _REGRESS: "regression"}


def classify(
    model: servable.Servable, request: classification_pb2.ClassificationRequest
) -> classification_pb2.ClassificationResponse:
    """Answers a Classify request.

    Raises:
        StatusError: INVALID_ARGUMENT if the signature or the examples do not fit, and the errors
            of the model's operations.
    """
    definition, values, num_examples = _run(model, request, "Classify", _CLASSIFY)
    return classification_pb2.ClassificationResponse(
        model_spec=model.effective_spec(request.model_spec),
        result=_classes(definition, values, num_examples),
    )


def regress(
    model: servable.Servable, request: regression_pb2.RegressionRequest
) -> regression_pb2.RegressionResponse:
    """Answers a Regress request; see `classify`."""
    definition, values, num_examples = _run(model, request, "Regress", _REGRESS)
    return regression_pb2.RegressionResponse(
        model_spec=model.effective_spec(request.model_spec),
        result=_numbers(definition, values, num_examples),
    )


def multi_inference(
    model: servable.Servable, request: inference_pb2.MultiInferenceRequest
) -> tuple[inference_pb2.MultiInferenceResponse, int]:
    """Answers a MultiInference request with one run for all its tasks.

    Returns:
        The response, and the number of examples.

    Raises:
        StatusError: INVALID_ARGUMENT if a task or the examples do not fit, UNIMPLEMENTED for a
            task that neither classifies nor regresses, and the errors of the operations.
    """
    definitions: dict[str, meta_graph_pb2.SignatureDef] = {}
    sources, targets = set(), set()
    for task in request.tasks:
        key = _checked_key(model, task, request, definitions)
        definitions[key] = model.signature_defs[key]
        source, outputs = _tensors(definitions[key], task.method_name)
        sources.add(source)
        targets.update(outputs)
    batch = _serialized(model, request.input)
    # TensorFlow Serving counts the examples of such a run, not its time.
    values = model.run(None, dict.fromkeys(sources, batch), sorted(targets))
    response = inference_pb2.MultiInferenceResponse()
    for task, definition in zip(request.tasks, definitions.values(), strict=True):
        answer = response.results.add(model_spec=model.effective_spec(task.model_spec))
        if task.method_name == _CLASSIFY:
            answer.classification_result.CopyFrom(_classes(definition, values, len(batch)))
        else:
            answer.regression_result.CopyFrom(_numbers(definition, values, len(batch)))
    return response, len(batch)


def _checked_key(
    model: servable.Servable,
    task: inference_pb2.InferenceTask,
    request: inference_pb2.MultiInferenceRequest,
    seen: Collection[str],
) -> str:
    """Returns the signature key of a task; `seen` are the keys of the tasks before it."""
    if not task.model_spec.name:
        raise saved_model.invalid_argument("Found ModelSpec with an empty model name.")
    if task.model_spec.name != request.tasks[0].model_spec.name:
        raise saved_model.invalid_argument(
            "All ModelSpecs in a MultiInferenceRequest must access the same model name."
        )
    key = _key(task.model_spec)
    if key in seen:
        raise saved_model.invalid_argument(f"Duplicate evaluation of signature: {key}")
    if key not in model.signature_defs:
        raise saved_model.invalid_argument(f"Requested signature not found in model graph: {key}")
    if task.method_name not in _KINDS:
        raise saved_model.unimplemented(f"Unsupported signature method_name: {task.method_name}")
    return key


def _run(
    model: servable.Servable,
    request: classification_pb2.ClassificationRequest | regression_pb2.RegressionRequest,
    api: str,
    method: str,
) -> tuple[meta_graph_pb2.SignatureDef, Mapping[str, np.ndarray], int]:
    """Returns the signature of a request, its output tensors and the number of examples."""
    key = _key(request.model_spec)
    if key not in model.signature_defs:
        raise saved_model.invalid_argument(f"No signature was found with the name: {key}")
    definition = model.signature_defs[key]
    source, targets = _tensors(definition, method)
    batch = _serialized(model, request.input)
    return definition, model.run(api, {source: batch}, targets), len(batch)


def _key(spec: model_pb2.ModelSpec) -> str:
    return spec.signature_name or servable.DEFAULT_SIGNATURE


def _serialized(model: servable.Servable, request_input: input_pb2.Input) -> np.ndarray:
    """Returns the serialized examples, [num_examples], each merged with the common context."""
    examples, context = request_input.example_list.examples, b""
    if request_input.WhichOneof("kind") == "example_list_with_context":
        examples = request_input.example_list_with_context.examples
        context = request_input.example_list_with_context.context.SerializeToString()
    model.check_rows(_INPUTS, len(examples))
    if not examples:
        raise saved_model.invalid_argument("Input is empty.")
    if len(context) * len(examples) > _MAX_CONTEXT_BYTES:
        raise saved_model.invalid_argument(
            f"The context has {len(context)} bytes for each of {len(examples)} examples; "
            f"expected at most {_MAX_CONTEXT_BYTES} bytes in all. Send several requests"
        )
    # Concatenated messages are one message, in which later values take precedence.
    return np.array([context + example.SerializeToString() for example in examples], object)


def _tensors(definition: meta_graph_pb2.SignatureDef, method: str) -> tuple[str, list[str]]:
    """Returns the name of the input tensor and the names of the output tensors."""
    outputs = definition.outputs
    keys = (_CLASSES, _SCORES) if method == _CLASSIFY else (_REGRESS_OUTPUTS,)
    names = [outputs[key].name for key in keys if key in outputs]
    if set(definition.inputs) != {_INPUTS} or not names or len(names) < len(outputs):
        raise saved_model.invalid_argument(
            f"Expected a {_KINDS[method]} signature with the input {_INPUTS} and outputs among "
            f"{', '.join(keys)}, got: {definition}"
        )
    return definition.inputs[_INPUTS].name, names


def _classes(
    definition: meta_graph_pb2.SignatureDef, values: Mapping[str, np.ndarray], num_examples: int
) -> classification_pb2.ClassificationResult:
    """Returns the classes of each example: labels, scores or both [num_examples, num_classes]."""
    labels = _output(definition, values, _CLASSES, object, num_examples)
    scores = _output(definition, values, _SCORES, np.float32, num_examples)
    found = [array for array in (labels, scores) if array is not None]
    if any(array.ndim != 2 or array.shape != found[0].shape for array in found):
        raise saved_model.invalid_argument(
            f"Expected classes and scores of one shape [{num_examples}, num_classes], got "
            f"{' and '.join(str(list(array.shape)) for array in found)}"
        )
    answer = classification_pb2.ClassificationResult()
    for row in range(num_examples):
        classes = answer.classifications.add().classes
        for column in range(found[0].shape[1]):
            added = classes.add()
            if labels is not None:
                added.label = labels[row, column].decode("utf-8", "replace")
            if scores is not None:
                added.score = scores[row, column]
    return answer


def _numbers(
    definition: meta_graph_pb2.SignatureDef, values: Mapping[str, np.ndarray], num_examples: int
) -> regression_pb2.RegressionResult:
    """Returns the number of each example, of an output [num_examples] or [num_examples, 1]."""
    array = _output(definition, values, _REGRESS_OUTPUTS, np.float32, num_examples)
    if array is None or array.size != num_examples:
        raise saved_model.invalid_argument(
            f"Expected one number for each of {num_examples} examples from {_REGRESS_OUTPUTS}"
        )
    answer = regression_pb2.RegressionResult()
    for value in array.reshape(-1).tolist():
        answer.regressions.add(value=value)
    return answer


def _output(
    definition: meta_graph_pb2.SignatureDef,
    values: Mapping[str, np.ndarray],
    key: str,
    dtype: type,
    num_examples: int,
) -> np.ndarray | None:
    """Returns an output tensor; None if the signature has no output of this name."""
    if key not in definition.outputs:
        return None
    array = values[definition.outputs[key].name]
    if array.dtype != dtype or array.shape[:1] != (num_examples,):
        raise saved_model.invalid_argument(
            f"Expected the output {key} as {np.dtype(dtype)} with {num_examples} rows, got "
            f"{array.dtype} {list(array.shape)}"
        )
    return array
