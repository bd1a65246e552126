"""The JSON of REST requests and replies: tensors in the row and the column form.

Nothing is coerced: a number in a string, a fraction for an integer, or a number for a string is
an error.

References: TensorFlow Serving, `util/json_tensor.cc`.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from serving import saved_model

_INTEGERS = (tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint32, tf.uint64)
# The Python types of the JSON values that a tensor type accepts.
_JSON_TYPES: dict[tf.DType, set[type]] = {
    tf.string: {str, dict},
    tf.bool: {bool},
    tf.float32: {int, float},
    tf.float64: {int, float},
    **{dtype: {int} for dtype in _INTEGERS},
}
# Strings of outputs with such a name are written as base64.
_BYTES_SUFFIX = "_bytes"


def parse(body: bytes) -> dict[str, Any]:
    """Returns the JSON object that the body of a request is."""
    try:
        document = json.loads(body)
    except (RecursionError, ValueError) as error:
        raise saved_model.invalid_argument(f"The body is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise saved_model.invalid_argument("The body is not a JSON object.")
    return document


def to_inputs(
    document: Mapping[str, Any], dtypes: Mapping[str, tf.DType]
) -> tuple[dict[str, np.ndarray], bool]:
    """Returns the inputs of a signature by name, and whether the request has the row form.

    In the row form, `instances` is a list of rows, each an object with all inputs. In the column
    form, `inputs` is an object with all inputs. In both, the value of the only input needs no
    object around it.
    """
    is_row_form = "instances" in document
    if is_row_form == ("inputs" in document):
        raise saved_model.invalid_argument("Expected either 'inputs' or 'instances' in the body.")
    value = document["instances" if is_row_form else "inputs"]
    if is_row_form and (not isinstance(value, list) or not value):
        raise saved_model.invalid_argument("'instances' is not a list of at least one row.")
    rows = value if is_row_form else [value]
    if len(dtypes) == 1 and (not isinstance(rows[0], dict) or _is_base64(rows[0])):
        columns = dict.fromkeys(dtypes, value)
    else:
        for row in rows:
            fits = isinstance(row, dict) and dtypes.keys() <= row.keys()
            if not fits or (is_row_form and len(row) > len(dtypes)):
                raise saved_model.invalid_argument(
                    f"Expected an object with the keys {', '.join(dtypes)}."
                )
        columns = {name: [row[name] for row in rows] for name in dtypes} if is_row_form else value
    arrays = {name: _to_array(columns[name], name, dtype) for name, dtype in dtypes.items()}
    return arrays, is_row_form


def to_rows(outputs: Mapping[str, np.ndarray]) -> bytes:
    """Returns `{"predictions": [...]}`, one element for each row."""
    sizes = {array.shape[:1] for array in outputs.values()}
    if len(sizes) != 1 or () in sizes:
        raise saved_model.invalid_argument(
            "The outputs have no common 0th dimension; send 'inputs' instead of 'instances'."
        )
    columns = {name: _to_lists(name, array) for name, array in outputs.items()}
    if len(columns) == 1:
        return write({"predictions": next(iter(columns.values()))})
    rows = zip(*columns.values(), strict=True)
    return write({"predictions": [dict(zip(columns, row, strict=True)) for row in rows]})


def to_columns(outputs: Mapping[str, np.ndarray]) -> bytes:
    """Returns `{"outputs": ...}`, each output as a whole; the name of a single one is omitted."""
    columns = {name: _to_lists(name, array) for name, array in outputs.items()}
    return write({"outputs": next(iter(columns.values())) if len(columns) == 1 else columns})


def write(document: Any) -> bytes:
    """Returns a document as JSON; bytes that are not UTF-8 are written as they are."""
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogateescape")


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and list(value) == ["b64"] and isinstance(value["b64"], str)


def _to_array(value: Any, name: str, dtype: tf.DType) -> np.ndarray:
    """Returns the array of a scalar or of nested lists of equal lengths."""
    # Ragged lists are not converted, and are not values of the type.
    array = np.array(value, object)
    flat = array.reshape(-1).tolist()
    allowed = _JSON_TYPES.get(dtype, set())
    try:
        if not set(map(type, flat)) <= allowed:
            raise ValueError("a value has another type")
        return _converted(flat, dtype).reshape(array.shape)
    except (OverflowError, ValueError) as error:
        raise saved_model.invalid_argument(
            f"Input {name}: expected values of type {dtype.name} in lists of equal lengths; {error}"
        ) from error


def _converted(flat: Sequence[Any], dtype: tf.DType) -> np.ndarray:
    if dtype == tf.string:
        array = np.empty(len(flat), object)
        array[:] = [_to_bytes(item) for item in flat]
        return array
    with np.errstate(over="ignore"):
        # An integer beyond the type's range raises OverflowError.
        return np.array(flat, dtype.as_numpy_dtype)


def _to_bytes(value: Any) -> bytes:
    """Returns the bytes of a string or of `{"b64": ...}`, with or without padding."""
    if isinstance(value, str):
        return value.encode()
    if not _is_base64(value):
        raise ValueError('an object is not {"b64": "..."}')
    encoded = value["b64"]
    padding = "" if "=" in encoded else "=" * (-len(encoded) % 4)
    return base64.b64decode(encoded + padding, validate=True)


def _to_lists(name: str, array: np.ndarray) -> Any:
    values: list[Any]
    if array.dtype == object and name.endswith(_BYTES_SUFFIX):
        values = [{"b64": base64.b64encode(value).decode("ascii")} for value in array.flat]
    elif array.dtype == object:
        values = [value.decode("utf-8", "surrogateescape") for value in array.flat]
    elif array.dtype == np.float32:
        # The fewest digits that round to the number: 0.1, not 0.100000001.
        values = [float(str(value)) for value in array.flat]
    else:
        return array.tolist()
    shaped = np.empty(array.size, object)
    shaped[:] = values
    return shaped.reshape(array.shape).tolist()
