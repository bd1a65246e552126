"""Signatures that put examples into classes.

References: TensorFlow Serving, `servables/tensorflow/classifier.cc`.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import classification_pb2

from serving import saved_model
from serving.model_server.operations import example_checks

METHOD = tf.saved_model.CLASSIFY_METHOD_NAME
_INPUTS = tf.saved_model.CLASSIFY_INPUTS
_CLASSES = tf.saved_model.CLASSIFY_OUTPUT_CLASSES
_SCORES = tf.saved_model.CLASSIFY_OUTPUT_SCORES


def tensors(definition: meta_graph_pb2.SignatureDef, check_method: bool) -> tuple[str, list[str]]:
    """Returns the name of the input tensor and those of the output tensors.

    Args:
        definition: the signature.
        check_method: whether the signature must say that it classifies.

    Raises:
        StatusError: INVALID_ARGUMENT if it is no classification signature.
    """
    if check_method:
        example_checks.check_method("classification", METHOD, definition)
    example_checks.check_single_input(definition)
    if len(definition.outputs) not in (1, 2):
        raise saved_model.invalid_argument(
            f"Expected one or two output Tensors, found {len(definition.outputs)}"
        )
    if _INPUTS not in definition.inputs:
        raise saved_model.invalid_argument(
            f"No classification inputs found in SignatureDef: {definition}"
        )
    outputs = [
        definition.outputs[key].name for key in (_CLASSES, _SCORES) if key in definition.outputs
    ]
    if not outputs:
        raise saved_model.invalid_argument(
            "Expected classification signature outputs to contain at least one of "
            f'"{_CLASSES}" or "{_SCORES}". Signature was: {definition}'
        )
    return definition.inputs[_INPUTS].name, outputs


def result(
    definition: meta_graph_pb2.SignatureDef, values: Mapping[str, np.ndarray], num_examples: int
) -> classification_pb2.ClassificationResult:
    """Returns the classes of each example.

    Args:
        definition: the signature.
        values: the output tensors by name, [num_examples, number of classes] each: labels as
            strings, scores as float32.
        num_examples: the number of examples.

    Raises:
        StatusError: INVALID_ARGUMENT if a tensor has another shape or type.
    """
    labels = _output(definition, _CLASSES, values)
    scores = _output(definition, _SCORES, values)
    _check("classes", labels, "DT_STRING", num_examples)
    _check("scores", scores, "DT_FLOAT", num_examples)
    if labels is not None and scores is not None and labels.shape[1] != scores.shape[1]:
        raise saved_model.invalid_argument(
            "Tensors class and score should match in dim_size(1). "
            f"Got {labels.shape[1]} vs. {scores.shape[1]}"
        )
    answer = classification_pb2.ClassificationResult()
    num_classes = next(array.shape[1] for array in (labels, scores) if array is not None)
    for row in range(num_examples):
        classes = answer.classifications.add().classes
        for column in range(num_classes):
            added = classes.add()
            if labels is not None:
                added.label = labels[row, column].decode("utf-8", "replace")
            if scores is not None:
                added.score = scores[row, column]
    return answer


def _output(
    definition: meta_graph_pb2.SignatureDef, key: str, values: Mapping[str, np.ndarray]
) -> np.ndarray | None:
    return values[definition.outputs[key].name] if key in definition.outputs else None


def _check(what: str, array: np.ndarray | None, dtype: str, num_examples: int) -> None:
    if array is None:
        return
    if array.ndim != 2:
        raise saved_model.invalid_argument(
            "Expected Tensor shape: [batch_size num_classes] but got "
            f"{example_checks.shape_text(array)}"
        )
    if example_checks.type_text(array) != dtype:
        raise saved_model.invalid_argument(
            f"Expected {what} Tensor of {dtype}. Got: {example_checks.type_text(array)}"
        )
    if len(array) != num_examples:
        raise saved_model.invalid_argument(
            f"Expected {what} output batch size of {num_examples}. Got: {len(array)}"
        )
