"""Converts between `TensorProto` and NumPy as TensorFlow's C++ `Tensor` does.

`tf.make_ndarray` and `tf.make_tensor_proto` differ from it (missing values, strings in
`tensor_content`, no typed fields) and take 100 times as long for thousands of numbers. Common and
large types are converted here; TensorFlow's own parser does the rest.

References: TensorFlow, `core/framework/tensor.cc`: `Tensor::FromProto`, `AsProtoField` and
    `AsProtoTensorContent`.
"""

import math
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

_VALUE_FIELDS = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.int32: "int_val",
    tf.int16: "int_val",
    tf.int8: "int_val",
    tf.uint8: "int_val",
    tf.uint16: "int_val",
    tf.int64: "int64_val",
    tf.uint32: "uint32_val",
    tf.uint64: "uint64_val",
    tf.bool: "bool_val",
    tf.float16: "half_val",
    tf.bfloat16: "half_val",
    tf.complex64: "scomplex_val",
    tf.complex128: "dcomplex_val",
    tf.string: "string_val",
}
_BY_ENUM = {
    dtype.as_datatype_enum: (np.dtype(dtype.as_numpy_dtype), field)
    for dtype, field in _VALUE_FIELDS.items()
}
_BY_NUMPY = {numpy_dtype: (enum, field) for enum, (numpy_dtype, field) in _BY_ENUM.items()}
_STRING = np.dtype(object)
# Packed fixed-width values are the array's own bytes after a tag and a length.
_PACKED_TAGS = {"float_val": b"\x2a", "double_val": b"\x32"}
# Fields whose values are not the tensor's numbers.
_ENCODED_FIELDS = ("half_val", "scomplex_val", "dcomplex_val")
# A tensor of doubles with this many elements takes 2 GiB, the limit of a message.
MAX_ELEMENTS = 2**28 - 1
# The names of C++'s `DataTypeString`, where they differ from Python's.
_CPP_NAMES = {"float32": "float", "float64": "double", "float16": "half"}


class TooManyElementsError(ValueError):
    """A tensor claims more elements than allowed."""


def type_name(dtype: tf.DType) -> str:
    """Returns the type's name as TensorFlow's C++ messages write it (`float`, not `float32`)."""
    return _CPP_NAMES.get(dtype.name, dtype.name)


def decode(tensor: tensor_pb2.TensorProto, max_elements: int = MAX_ELEMENTS) -> np.ndarray:
    """Returns the array of a tensor in either form; strings are an object array of bytes.

    As in TensorFlow, zeros are filled in if there are no values, the last value is repeated if
    there are too few, and values beyond the shape are ignored.

    Args:
        tensor: The message.
        max_elements: Maximum number of elements. A scalar may represent a whole tensor, so 30 bytes
            could claim terabytes.

    Raises:
        TooManyElementsError: The shape has more than `max_elements` elements.
        ValueError: The tensor is invalid: no type or an unsupported one, an unknown shape, or a
            `tensor_content` of another length.
    """
    if tensor.dtype not in _BY_ENUM:
        raise ValueError(f"Tensor type {tensor.dtype} is not supported.")
    dtype, field = _BY_ENUM[tensor.dtype]
    # Like TensorFlow, without regard to `unknown_rank`.
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if any(size < 0 for size in shape):
        raise ValueError(f"The shape is {shape}; expected a fully known shape.")
    count = math.prod(shape)
    if count > max_elements:
        raise TooManyElementsError(
            f"The shape {shape} has {count} elements; expected at most {max_elements}."
        )
    if count == 0:
        return np.zeros(shape, dtype)
    if tensor.tensor_content:
        is_plain = dtype != _STRING and len(tensor.tensor_content) == count * dtype.itemsize
        values = np.frombuffer(tensor.tensor_content, dtype) if is_plain else None
    else:
        values = _decode_values(tensor, field, count, dtype)
    return _parse(tensor) if values is None else values.reshape(shape)


def encode_tensor(array: np.ndarray, as_content: bool = False) -> tensor_pb2.TensorProto:
    """Returns a tensor with the values in the typed field or, on request, in `tensor_content`.

    Raises:
        ValueError: The array's type has no tensor type.
    """
    if array.dtype not in _BY_NUMPY:
        raise ValueError(f"Arrays of type {array.dtype} have no tensor type.")
    enum, field = _BY_NUMPY[array.dtype]
    tensor = tensor_pb2.TensorProto(dtype=enum)
    # Present even if it is empty, as for a scalar.
    tensor.tensor_shape.SetInParent()
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if as_content:
        is_string = array.dtype == _STRING
        tensor.tensor_content = _encode_strings(array) if is_string else array.tobytes()
    elif field in _PACKED_TAGS:
        values = array.tobytes()
        tensor.MergeFromString(_packed_header(field, len(values)) + values)
    else:
        getattr(tensor, field).extend(_as_values(array, field))
    return tensor


def _decode_values(
    tensor: tensor_pb2.TensorProto, field: str, count: int, dtype: np.dtype
) -> np.ndarray | None:
    """Returns the values of a typed field, [count]; None if it takes TensorFlow to read them."""
    values = getattr(tensor, field)
    if len(values) != count or field in _ENCODED_FIELDS:
        return None
    if field == "string_val":
        array = np.empty(count, _STRING)
        array[:] = values[:]
        return array
    if field in _PACKED_TAGS:
        # The field is last in the message. Reading it there avoids an object for each value.
        serialized = tensor.SerializeToString()
        start = len(serialized) - count * dtype.itemsize
        if serialized[:start].endswith(_packed_header(field, count * dtype.itemsize)):
            return np.frombuffer(serialized, dtype, offset=start)
    if field == "uint64_val":
        # NumPy would turn values on both sides of 2^63 into floating-point numbers.
        return np.array(values, np.uint64)
    return np.array(values).astype(dtype, copy=False)


def _parse(tensor: tensor_pb2.TensorProto) -> np.ndarray:
    try:
        dtype = tf.dtypes.as_dtype(tensor.dtype)
        parsed = tf.io.parse_tensor(tensor.SerializeToString(), dtype).numpy()
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(error.message) from error
    # A scalar string is bare bytes.
    return np.array(parsed, object) if isinstance(parsed, bytes) else np.asarray(parsed)


def _as_values(array: np.ndarray, field: str) -> list[Any]:
    flat = np.ascontiguousarray(array).reshape(-1)
    if field == "half_val":
        flat = flat.view(np.uint16)
    elif field in _ENCODED_FIELDS:
        flat = flat.view(flat.real.dtype)
    return flat.tolist()


def _encode_strings(array: np.ndarray) -> bytes:
    values = array.reshape(-1).tolist()
    return b"".join([_varint(len(value)) for value in values] + values)


def _packed_header(field: str, num_bytes: int) -> bytes:
    return _PACKED_TAGS[field] + _varint(num_bytes)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
