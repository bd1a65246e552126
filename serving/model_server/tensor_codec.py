"""Converts between `TensorProto` and NumPy as TensorFlow's C++ `Tensor` does.

`tf.make_ndarray` differs from it (missing values, strings in `tensor_content`) and takes 100 times
as long for thousands of numbers. Common types are converted here; TensorFlow's own parser does the
rest.

References: TensorFlow, `core/framework/tensor.cc`: `Tensor::FromProto` and `AsProtoField`.
"""

import math

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

_STRING = np.dtype(object)
_FIELDS = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.int32: "int_val",
    tf.int64: "int64_val",
    tf.bool: "bool_val",
    tf.string: "string_val",
}
_BY_ENUM = {
    dtype.as_datatype_enum: (np.dtype(dtype.as_numpy_dtype), field)
    for dtype, field in _FIELDS.items()
}
_BY_NUMPY = {dtype: (enum, field) for enum, (dtype, field) in _BY_ENUM.items()}
# Tag of the field `float_val`. Its packed values are the array's own bytes after tag and length.
_FLOAT_TAG = b"\x2a"


def decode(tensor: tensor_pb2.TensorProto) -> np.ndarray:
    """Returns the array of a tensor; strings are an object array of bytes.

    Values may be in the typed field or in `tensor_content`. As in TensorFlow, the last value is
    repeated if there are too few, and values beyond the shape are ignored.
    """
    # Like TensorFlow, without regard to `unknown_rank`.
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    dtype, field = _BY_ENUM.get(tensor.dtype, (_STRING, ""))
    count = math.prod(shape)
    if tensor.tensor_content and dtype != _STRING:
        if len(tensor.tensor_content) == count * dtype.itemsize and min(shape, default=0) >= 0:
            return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
    elif field and not tensor.tensor_content and min(shape, default=0) >= 0:
        values = getattr(tensor, field)
        if len(values) == count:
            array = np.empty(count, dtype)
            array[:] = values[:]
            return array.reshape(shape)
    return _parse(tensor)


def encode_tensor(array: np.ndarray) -> tensor_pb2.TensorProto:
    """Returns a tensor with the values of common types in the typed field."""
    if array.dtype not in _BY_NUMPY:
        return tf.make_tensor_proto(array)
    enum, field = _BY_NUMPY[array.dtype]
    tensor = tensor_pb2.TensorProto(dtype=enum)
    # Present even if it is empty, as for a scalar.
    tensor.tensor_shape.SetInParent()
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if field == "float_val" and array.size:
        content = tensor_pb2.TensorProto(tensor_content=array.tobytes()).SerializeToString()
        tensor.MergeFromString(_FLOAT_TAG + content[1:])
    else:
        getattr(tensor, field).extend(array.reshape(-1).tolist())
    return tensor


def _parse(tensor: tensor_pb2.TensorProto) -> np.ndarray:
    try:
        dtype = tf.dtypes.as_dtype(tensor.dtype)
        parsed = tf.io.parse_tensor(tensor.SerializeToString(), dtype).numpy()
    except (TypeError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(str(error)) from error
    # A scalar string is bare bytes.
    return np.array(parsed, object) if isinstance(parsed, bytes) else np.asarray(parsed)
