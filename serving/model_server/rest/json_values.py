"""Turns a JSON value into an array of a given type, without coercion.

References: TensorFlow Serving, `util/json_tensor.cc`.
"""

import base64
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from serving import saved_model
from serving.model_server import tensor_codec
from serving.model_server.rest import json_document, json_shown

# All padding or none of it, by either mark, and white space anywhere: absl's `Base64Unescape`.
_BASE64 = re.compile("([A-Za-z0-9+/]*)([=.]*)")
_WHITE = re.compile("[ \t\n\v\f\r]")
# One less than NumPy's limit: the row form adds a dimension.
_MAX_RANK = 63
_INT32 = (-(2**31), 2**31 - 1)
_TOO_BIG = "JSON Parse error: Number too big to be stored in double."
# The range that the JSON number must have; narrower types wrap around, as in TensorFlow Serving.
_INTEGERS = {
    tf.int8: _INT32,
    tf.uint8: _INT32,
    tf.int16: _INT32,
    tf.int32: _INT32,
    tf.int64: (-(2**63), 2**63 - 1),
    tf.uint32: (0, 2**32 - 1),
    tf.uint64: (0, 2**64 - 1),
}


def to_array(value: Any, dtype: tf.DType) -> np.ndarray:
    """Returns the array of a scalar or of nested lists of equal lengths.

    Raises:
        StatusError: INVALID_ARGUMENT if lists differ in length or depth or a value has another
            type, UNIMPLEMENTED if the type has no JSON form.
    """
    shape: list[int] = []
    first = value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    if len(shape) > _MAX_RANK:
        raise saved_model.invalid_argument(
            f"Expected at most {_MAX_RANK} nested lists, got {len(shape)}"
        )
    flat: list[Any] = []
    try:
        _flatten(value, 0, shape, flat)
    except saved_model.StatusError:
        # A wrong value before the place where the lists differ is the first error.
        _convert(flat, dtype)
        raise
    return _convert(flat, dtype).reshape(shape)


def _convert(flat: Sequence[Any], dtype: tf.DType) -> np.ndarray:
    if dtype == tf.string:
        array = np.empty(len(flat), object)
        array[:] = [to_bytes(item) for item in flat]
    elif dtype in (tf.float32, tf.float64):
        array = _to_floats(flat, dtype)
    elif dtype in _INTEGERS:
        array = _to_integers(flat, dtype)
    elif dtype == tf.bool:
        _check_types(flat, {bool}, dtype)
        array = np.array(flat, np.bool_)
    elif not flat:
        array = np.empty(0, dtype.as_numpy_dtype)
    elif isinstance(flat[0], dict):
        raise _type_error(flat[0], dtype)
    else:
        raise saved_model.unimplemented(
            f"Conversion of JSON Value: {json_shown.text(flat[0])} to type: "
            f"{tensor_codec.type_name(dtype)}"
        )
    return array


def is_base64(value: Any) -> bool:
    """Returns whether the value is `{"b64": "..."}`, which stands for a binary string."""
    return (
        isinstance(value, dict)
        and [name for name, _ in json_document.members(value)] == ["b64"]
        and isinstance(value["b64"], str)
    )


def _flatten(value: Any, level: int, shape: Sequence[int], flat: list[Any]) -> None:
    rank = len(shape)
    if not isinstance(value, list):
        if level != rank:
            raise saved_model.invalid_argument(
                f"JSON Value: {json_shown.text(value)} found at incorrect level: {level + 1} "
                f"in the JSON DOM. Expected at level: {rank}"
            )
        flat.append(value)
        return
    if level >= rank:
        raise saved_model.invalid_argument(
            f"Encountered list at unexpected level: {level} expected < {rank}"
        )
    if len(value) != shape[level]:
        raise saved_model.invalid_argument(
            f"Encountered list at unexpected size: {len(value)} at level: {level} "
            f"expected size: {shape[level]}"
        )
    if level == rank - 1 and list not in set(map(type, value)):
        flat.extend(value)
        return
    for item in value:
        _flatten(item, level + 1, shape, flat)


def _check_types(flat: Sequence[Any], allowed: set[type], dtype: tf.DType) -> None:
    if set(map(type, flat)) <= allowed:
        return
    raise _type_error(next(item for item in flat if type(item) not in allowed), dtype)


def _to_floats(flat: Sequence[Any], dtype: tf.DType) -> np.ndarray:
    _check_types(flat, {int, float}, dtype)
    try:
        with np.errstate(over="ignore"):
            return np.array(flat, np.float64).astype(dtype.as_numpy_dtype)
    except OverflowError as error:
        raise saved_model.invalid_argument(_TOO_BIG) from error


def _to_integers(flat: Sequence[Any], dtype: tf.DType) -> np.ndarray:
    low, high = _INTEGERS[dtype]
    if flat and not (set(map(type, flat)) == {int} and low <= min(flat) <= max(flat) <= high):
        wrong = next(item for item in flat if type(item) is not int or not low <= item <= high)
        raise _type_error(wrong, dtype)
    wide = np.uint64 if dtype == tf.uint64 else np.int64
    return np.array(flat, wide).astype(dtype.as_numpy_dtype)


def to_bytes(value: Any) -> bytes:
    """Returns the bytes of a string, or of `{"b64": ...}`.

    Raises:
        StatusError: INVALID_ARGUMENT if the value is neither.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if not isinstance(value, dict):
        raise _type_error(value, tf.string)
    if not is_base64(value):
        raise saved_model.invalid_argument(
            f"JSON Value: {json_shown.text(value)} not formatted correctly for base64 data"
        )
    match = _BASE64.fullmatch(_WHITE.sub("", value["b64"]))
    if match is None or len(match[1]) % 4 == 1 or len(match[2]) not in (0, -len(match[1]) % 4):
        raise saved_model.invalid_argument("Unable to base64 decode")
    return base64.b64decode(match[1] + "=" * (-len(match[1]) % 4))


def _type_error(value: Any, dtype: tf.DType) -> saved_model.StatusError:
    return saved_model.invalid_argument(
        f"JSON Value: {json_shown.text(value)} Type: {type_name(value)} "
        f"is not of expected type: {tensor_codec.type_name(dtype)}"
    )


def to_double(value: float) -> float:
    """Returns a number as a floating-point number.

    Raises:
        StatusError: INVALID_ARGUMENT if it is beyond all of them.
    """
    try:
        return float(value)
    except OverflowError as error:
        raise saved_model.invalid_argument(_TOO_BIG) from error


def type_name(value: Any) -> str:
    """Returns the name of a value's JSON type, as TensorFlow Serving's messages have it."""
    if isinstance(value, bool):
        return "True" if value else "False"
    if isinstance(value, dict):
        return "Object"
    names = {list: "Array", str: "String", type(None): "Null"}
    return names.get(type(value), "Number")
