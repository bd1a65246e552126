"""Writes arrays and JSON values as TensorFlow Serving writes them.

References: TensorFlow Serving, `util/json_tensor.cc` (numbers, the 256-byte limit of values shown
    in messages) and RapidJSON's `PrettyWriter` (the layout).
"""

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from serving.embedded import rpc_status, tensor_codec

_INDENT = "    "
_SHOWN_BYTES = 256
# TensorFlow Serving shows the last string whole, however long; a message has no need of more.
_SHOWN_STRING = 65_536
_UNWRITABLE = (np.uint16, np.float16, tf.bfloat16.as_numpy_dtype, np.complex64, np.complex128)


def string(value: str | bytes) -> str:
    """Returns a quoted string; bytes that are not UTF-8 become surrogates to be written back."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    return json.dumps(value, ensure_ascii=False)


def scalars(array: np.ndarray, as_base64: bool = False) -> list[str]:
    """Returns the text of each value, in order.

    Args:
        array: any shape.
        as_base64: whether strings are written as `{"b64": ...}`.

    Raises:
        StatusError: INVALID_ARGUMENT if the type has no JSON form.
    """
    flat = array.reshape(-1)
    if array.dtype == object:
        if as_base64:
            encoded = (base64.b64encode(value).decode("ascii") for value in flat)
            return [f'{{"b64": "{text}"}}' for text in encoded]
        return [string(value) for value in flat]
    if array.dtype == np.bool_:
        return ["true" if value else "false" for value in flat.tolist()]
    if any(array.dtype == dtype for dtype in _UNWRITABLE):
        raise rpc_status.invalid_argument(
            "Failed to write JSON value for tensor type: "
            + tensor_codec.type_name(tf.dtypes.as_dtype(array.dtype))
        )
    if array.dtype.kind == "f":
        return _decimals(flat)
    return [str(value) for value in flat.tolist()]


def single_line(values: Sequence[str], shape: Sequence[int]) -> str:
    """Returns nested arrays on one line.

    Args:
        values: the text of each value, in order.
        shape: the sizes of the arrays, outermost first; none for a scalar.
    """
    if not shape:
        return values[0]
    width = len(values) // shape[0] if shape[0] else 0
    parts = (
        single_line(values[index * width : (index + 1) * width], shape[1:])
        for index in range(shape[0])
    )
    return f"[{', '.join(parts)}]"


def nested(array: np.ndarray, depth: int, as_base64: bool = False) -> str:
    """Returns nested arrays with each value on a line, the outermost indented by `depth`."""
    return _multi_line(scalars(array, as_base64), array.shape, depth)


def debug(value: Any) -> str:
    """Returns a JSON value for a message, cut after 256 bytes."""
    written: list[str] = []
    _write_debug(value, 0, written)
    return "".join(written)


def _multi_line(values: Sequence[str], shape: Sequence[int], depth: int) -> str:
    if not shape:
        return values[0]
    if not shape[0]:
        return "[]"
    width = len(values) // shape[0]
    line = "\n" + _INDENT * (depth + 1)
    parts = (
        line + _multi_line(values[index * width : (index + 1) * width], shape[1:], depth + 1)
        for index in range(shape[0])
    )
    return f"[{','.join(parts)}\n{_INDENT * depth}]"


def _decimals(flat: np.ndarray) -> list[str]:
    """Six digits where they give the same number back, else as many as it takes."""
    digits = 9 if flat.dtype == np.float32 else 17
    numbers = flat.tolist()
    texts = [f"{number:g}" for number in numbers]
    with np.errstate(over="ignore"):
        exact = np.array([float(text) for text in texts]).astype(flat.dtype) == flat
    for index in np.flatnonzero(~exact):
        texts[index] = f"{numbers[index]:.{digits}g}"
    for index in np.flatnonzero(~np.isfinite(flat)):
        number = flat[index]
        texts[index] = "NaN" if np.isnan(number) else ("Infinity" if number > 0 else "-Infinity")
    return [text if any(mark in text for mark in ".eNI") else text + ".0" for text in texts]


def _write_debug(value: Any, depth: int, written: list[str]) -> bool:
    """Appends the value; returns whether there was room for all of it."""
    if sum(map(len, written)) >= _SHOWN_BYTES:
        return False
    if isinstance(value, list):
        written.append("[")
        for index, item in enumerate(value):
            if index:
                written.append(", ")
            if not _write_debug(item, depth + 1, written):
                return False
        written.append("]")
    elif isinstance(value, dict):
        written.append("{")
        for index, (key, item) in enumerate(value.items()):
            comma = "," if index else ""
            written.append(f"{comma}\n{_INDENT * (depth + 1)}{string(key)}: ")
            if not _write_debug(item, depth + 1, written):
                return False
        written.append(f"\n{_INDENT * depth}}}" if value else "}")
    else:
        if isinstance(value, str):
            value = value[:_SHOWN_STRING]
        written.append(json.dumps(value, ensure_ascii=False))
    return True
