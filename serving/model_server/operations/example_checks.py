"""What classification and regression signatures have in common."""

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from serving import saved_model


def check_method(kind: str, method: str, definition: meta_graph_pb2.SignatureDef) -> None:
    """Raises INVALID_ARGUMENT if the signature names another method."""
    if definition.method_name != method:
        raise saved_model.invalid_argument(
            f"Expected {kind} signature method_name to be {method}. Was: {definition.method_name}"
        )


def check_single_input(definition: meta_graph_pb2.SignatureDef) -> None:
    """Raises INVALID_ARGUMENT if the signature has no or several inputs."""
    if len(definition.inputs) != 1:
        raise saved_model.invalid_argument("Expected one input Tensor.")


def shape_text(array: np.ndarray) -> str:
    """Returns a shape as TensorFlow's C++ messages write it: `[2,3]`."""
    return "[" + ",".join(map(str, array.shape)) + "]"


def type_text(array: np.ndarray) -> str:
    """Returns a type as TensorFlow's messages name its enum: `DT_FLOAT`."""
    return types_pb2.DataType.Name(tf.dtypes.as_dtype(array.dtype).as_datatype_enum)
