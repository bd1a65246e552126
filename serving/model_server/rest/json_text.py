"""Writes strings and arrays as TensorFlow Serving writes them in JSON.

References: TensorFlow Serving, `util/json_tensor.cc` (numbers) and RapidJSON 1.1.0, `writer.h`
    (strings) and `prettywriter.h` (the layout).
"""

import base64
import json
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from serving import saved_model
from serving.model_server import tensor_codec

INDENT = "    "
_CONTROL_CHARACTERS = {code: f"\\u{code:04X}" for code in range(0x20)}
_ESCAPES = str.maketrans(
    _CONTROL_CHARACTERS | {ord(text): json.dumps(text)[1:-1] for text in '"\\\b\f\n\r\t'}
)
_UNWRITABLE = (np.uint16, np.float16, tf.bfloat16.as_numpy_dtype, np.complex64, np.complex128)


def string(value: str | bytes) -> str:
    """Returns a quoted string; bytes that are not UTF-8 become surrogates to be written back."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    text = json.dumps(value, ensure_ascii=False)
    # Python writes some control characters with small hexadecimal digits.
    return f'"{value.translate(_ESCAPES)}"' if "\\u00" in text else text


def scalars(array: np.ndarray, base64_depth: int | None = None) -> list[str]:
    """Returns the text of each value, in order.

    Args:
        array: any shape.
        base64_depth: in how many arrays and objects a value stands, if strings are written as
            `{"b64": ...}`; None if they are written as they are.

    Raises:
        StatusError: INVALID_ARGUMENT if there are values of a type that has no JSON form.
    """
    flat = array.reshape(-1)
    if array.dtype == object:
        if base64_depth is not None:
            return [_base64_object(value, base64_depth) for value in flat]
        return [string(value) for value in flat]
    if array.dtype == np.bool_:
        return ["true" if value else "false" for value in flat.tolist()]
    if flat.size and any(array.dtype == dtype for dtype in _UNWRITABLE):
        raise saved_model.invalid_argument(
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
    values = scalars(array, depth + array.ndim if as_base64 else None)
    return _multi_line(values, array.shape, depth)


def _base64_object(value: bytes, depth: int) -> str:
    encoded = base64.b64encode(value).decode("ascii")
    return f'{{\n{INDENT * (depth + 1)}"b64": "{encoded}"\n{INDENT * depth}}}'


def _multi_line(values: Sequence[str], shape: Sequence[int], depth: int) -> str:
    if not shape:
        return values[0]
    if not shape[0]:
        return "[]"
    width = len(values) // shape[0]
    line = "\n" + INDENT * (depth + 1)
    parts = (
        line + _multi_line(values[index * width : (index + 1) * width], shape[1:], depth + 1)
        for index in range(shape[0])
    )
    return f"[{','.join(parts)}\n{INDENT * depth}]"


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
