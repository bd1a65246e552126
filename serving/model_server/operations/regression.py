"""Signatures that give each example a number.

References: TensorFlow Serving, `servables/tensorflow/regressor.cc`.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import regression_pb2

from serving import saved_model
from serving.model_server.operations import example_checks

METHOD = tf.saved_model.REGRESS_METHOD_NAME
_INPUTS = tf.saved_model.REGRESS_INPUTS
_OUTPUTS = tf.saved_model.REGRESS_OUTPUTS


def tensors(definition: meta_graph_pb2.SignatureDef, check_method: bool) -> tuple[str, list[str]]:
    """Returns the name of the input tensor and, in a list, that of the output tensor.

    Args:
        definition: the signature.
        check_method: whether the signature must say that it regresses.

    Raises:
        StatusError: INVALID_ARGUMENT if it is no regression signature.
    """
    if check_method:
        example_checks.check_method("regression", METHOD, definition)
    example_checks.check_single_input(definition)
    if len(definition.outputs) != 1:
        raise saved_model.invalid_argument("Expected one output Tensor.")
    if _INPUTS not in definition.inputs:
        raise saved_model.invalid_argument(
            f"No regression inputs found in SignatureDef: {definition}"
        )
    if _OUTPUTS not in definition.outputs:
        raise saved_model.invalid_argument(
            f"No regression outputs found in SignatureDef: {definition}"
        )
    return definition.inputs[_INPUTS].name, [definition.outputs[_OUTPUTS].name]


def result(
    definition: meta_graph_pb2.SignatureDef, values: Mapping[str, np.ndarray], num_examples: int
) -> regression_pb2.RegressionResult:
    """Returns the number of each example.

    Args:
        definition: the signature.
        values: the output tensors by name, the signature's [num_examples] or [num_examples, 1].
        num_examples: the number of examples.

    Raises:
        StatusError: INVALID_ARGUMENT if the tensor has another shape or type.
    """
    array = values[definition.outputs[_OUTPUTS].name]
    if not (array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)):
        raise saved_model.invalid_argument(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            f"{example_checks.shape_text(array)}"
        )
    if len(array) != num_examples:
        raise saved_model.invalid_argument(
            f"Input batch size did not match output batch size: {num_examples} vs. {len(array)}"
        )
    if example_checks.type_text(array) != "DT_FLOAT":
        raise saved_model.invalid_argument(
            f"Expected output Tensor of DT_FLOAT.  Got: {example_checks.type_text(array)}"
        )
    answer = regression_pb2.RegressionResult()
    for value in array.reshape(-1).tolist():
        answer.regressions.add(value=value)
    return answer
