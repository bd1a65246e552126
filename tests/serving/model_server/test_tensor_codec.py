"""Tensor messages are read and written as TensorFlow's own C++ code does it."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from serving.model_server import tensor_codec

_NUMERIC = [
    tf.float32,
    tf.float64,
    tf.float16,
    tf.bfloat16,
    tf.int8,
    tf.int16,
    tf.int32,
    tf.int64,
    tf.uint8,
    tf.uint16,
    tf.uint32,
    tf.uint64,
    tf.bool,
    tf.complex64,
    tf.complex128,
]


def _parsed(message: tensor_pb2.TensorProto, dtype: tf.DType) -> np.ndarray:
    return tf.io.parse_tensor(message.SerializeToString(), dtype).numpy()


@pytest.mark.parametrize("as_content", [False, True])
@pytest.mark.parametrize("dtype", _NUMERIC, ids=lambda dtype: dtype.name)
def test_numbers_are_read_back_here_and_by_tensorflow(dtype: tf.DType, as_content: bool) -> None:
    array = np.array([[1, 0, 3], [4, 100, 1]]).astype(dtype.as_numpy_dtype)
    message = tensor_codec.encode_tensor(array, as_content)
    assert bool(message.tensor_content) is as_content
    for read in (tensor_codec.decode(message), _parsed(message, dtype)):
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("as_content", [False, True])
def test_strings_are_read_back_here_and_by_tensorflow(as_content: bool) -> None:
    array = np.array([[b"", b"ab"], [b"\x00\xff", b"x" * 300]], object)
    message = tensor_codec.encode_tensor(array, as_content)
    assert tensor_codec.decode(message).tolist() == array.tolist()
    assert _parsed(message, tf.string).tolist() == array.tolist()


def test_unsigned_integers_on_both_sides_of_the_signed_range_keep_their_values() -> None:
    values = [2**63 + 1, 1, 2**64 - 1]
    message = tensor_pb2.TensorProto(dtype=tf.uint64.as_datatype_enum, uint64_val=values)
    message.tensor_shape.dim.add(size=3)
    assert tensor_codec.decode(message).tolist() == values
    assert tensor_codec.encode_tensor(np.array(values, np.uint64)).uint64_val == values


def test_integers_wider_than_their_type_wrap_around() -> None:
    message = tensor_pb2.TensorProto(dtype=tf.int8.as_datatype_enum, int_val=[300, -129])
    message.tensor_shape.dim.add(size=2)
    # 300 - 256 and -129 + 256.
    assert tensor_codec.decode(message).tolist() == [44, 127]


def test_the_typed_fields_are_those_of_tensorflow() -> None:
    for array in (np.array([1.5, -2.5], np.float32), np.array([-1, 2], np.int64)):
        expected = tf.make_tensor_proto(array)
        message = tensor_codec.encode_tensor(array)
        assert not message.tensor_content
        np.testing.assert_array_equal(tf.make_ndarray(message), tf.make_ndarray(expected))
        assert message.tensor_shape == expected.tensor_shape


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


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (tensor_pb2.TensorProto(), "Tensor type 0 is not supported"),
        (tensor_pb2.TensorProto(dtype=tf.variant.as_datatype_enum), "type 21 is not supported"),
        (_message(b"", tf.float32, -1), r"The shape is \[-1\]; expected a fully known shape"),
        (
            _message(b"", tf.float32, 2**40),
            "has 1099511627776 elements; expected at",
        ),
        # The rest is refused by TensorFlow's parser.
        (_message(b"1234567", tf.float32), "Cannot parse tensor"),
        (_message(b"\x01", tf.string), "Cannot parse tensor"),
        (_message(b"\x01\x05ab", tf.string), "Cannot parse tensor"),
        (_message(b"\xff\xff\xff\xff\xff\xff\xff", tf.string), "Cannot parse tensor"),
    ],
)
def test_an_invalid_tensor_is_refused(message: tensor_pb2.TensorProto, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        tensor_codec.decode(message)


def test_values_are_read_from_their_own_field_if_others_are_filled_too() -> None:
    for dtype, field in ((tf.float32, "float_val"), (tf.float64, "double_val")):
        message = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum, string_val=[b"12345678"])
        message.tensor_shape.dim.add(size=2)
        getattr(message, field).extend([1.5, -2.5])
        assert tensor_codec.decode(message).tolist() == [1.5, -2.5]


def test_a_scalar_string_in_tensor_content_is_read() -> None:
    message = tensor_codec.encode_tensor(np.array(b"ab", object), as_content=True)
    assert tensor_codec.decode(message).item() == b"ab"
