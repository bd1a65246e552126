"""Tensor messages are read and written as TensorFlow's own C++ code does it."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from serving.model_server import tensor_codec

_TYPES = [
    *(tf.float32, tf.float64, tf.float16, tf.bfloat16, tf.bool, tf.complex64),
    *(tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16, tf.uint32, tf.uint64),
]


def _parsed(message: tensor_pb2.TensorProto, dtype: tf.DType) -> np.ndarray:
    return tf.io.parse_tensor(message.SerializeToString(), dtype).numpy()


@pytest.mark.parametrize("dtype", _TYPES, ids=lambda dtype: dtype.name)
def test_numbers_are_read_back_here_and_by_tensorflow(dtype: tf.DType) -> None:
    array = np.array([[1, 0, 3], [4, 100, 1]]).astype(dtype.as_numpy_dtype)
    for message in (tensor_codec.encode_tensor(array), tf.make_tensor_proto(array)):
        for read in (tensor_codec.decode(message), _parsed(message, dtype)):
            assert read.dtype == array.dtype
            np.testing.assert_array_equal(read, array)


def test_strings_are_read_back_here_and_by_tensorflow() -> None:
    array = np.array([[b"", b"ab"], [b"\x00\xff", b"x" * 300]], object)
    message = tensor_codec.encode_tensor(array)
    assert tensor_codec.decode(message).tolist() == array.tolist()
    assert _parsed(message, tf.string).tolist() == array.tolist()


def test_common_types_fill_their_typed_field() -> None:
    for array, field in (
        (np.array([1.5, -2.5], np.float32), "float_val"),
        (np.array([-1, 2], np.int64), "int64_val"),
        (np.array([-1, 2], np.int32), "int_val"),
    ):
        message = tensor_codec.encode_tensor(array)
        assert list(getattr(message, field)) == array.tolist()
        assert not message.tensor_content


def test_missing_values_are_filled_and_surplus_ones_ignored_as_tensorflow_does() -> None:
    for values, expected in (([], [0, 0, 0]), ([5], [5, 5, 5]), ([1, 2, 3, 4], [1, 2, 3])):
        message = tensor_pb2.TensorProto(dtype=tf.int32.as_datatype_enum, int_val=values)
        message.tensor_shape.dim.add(size=3)
        assert tensor_codec.decode(message).tolist() == expected
        assert _parsed(message, tf.int32).tolist() == expected


def test_scalars_and_empty_tensors_keep_their_shape() -> None:
    for array in (np.array(2.0), np.zeros([0, 3], np.float32), np.zeros([2, 0], object)):
        assert tensor_codec.decode(tensor_codec.encode_tensor(array)).shape == array.shape


def _message(content: bytes, dtype: tf.DType, size: int = 2) -> tensor_pb2.TensorProto:
    message = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum, tensor_content=content)
    message.tensor_shape.dim.add(size=size)
    return message


def test_strings_in_tensor_content_are_their_lengths_then_their_bytes() -> None:
    decoded = tensor_codec.decode(_message(b"\x02\x01ab\xff", tf.string))
    assert decoded.tolist() == [b"ab", b"\xff"]


@pytest.mark.parametrize(
    "message",
    [
        tensor_pb2.TensorProto(),
        tensor_pb2.TensorProto(dtype=tf.variant.as_datatype_enum),
        tensor_pb2.TensorProto(dtype=1000),
        _message(b"", tf.float32, -1),
        _message(b"1234567", tf.float32),
        _message(b"\x01", tf.string),
        _message(b"\x01\x05ab", tf.string),
    ],
    ids=range(7),
)
def test_an_invalid_tensor_is_refused(message: tensor_pb2.TensorProto) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        tensor_codec.decode(message)
