"""Reads the JSON of REST requests: tensors in the row and the column form, and examples.

Nothing is coerced: a number in a string, a fraction for an integer, or a number for a string is
an error.

References: TensorFlow Serving, `util/json_tensor.cc` (the forms).
"""

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow_serving.apis import input_pb2

from serving import saved_model
from serving.model_server import tensor_codec

_MAX_SHOWN = 256
_INTEGERS = (tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint32, tf.uint64)
# The Python types of the JSON values that a tensor type accepts.
_JSON_TYPES: dict[tf.DType, set[type]] = {
    tf.string: {str, dict},
    tf.bool: {bool},
    tf.float32: {int, float},
    tf.float64: {int, float},
    **{dtype: {int} for dtype in _INTEGERS},
}
_KIND_NAMES = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}

_LARGE_EXPONENTS = (re.compile(r"e\+?\d{3}"), re.compile(r"E\+?\d{3}"))

Dtypes = Mapping[str, tf.DType]


def parse(body: bytes) -> dict[str, Any]:
    """Parses the body of a request.

    Raises:
        StatusError: INVALID_ARGUMENT if it is not a JSON object in UTF-8.
    """
    try:
        text = body.decode("utf-8-sig")
        # Python reads 1e400 as infinity. The check of each number costs time, so only if needed.
        has_large = any(pattern.search(text) for pattern in _LARGE_EXPONENTS)
        document = json.loads(text, parse_float=_finite if has_large else None)
        if "\\ud" in text or "\\uD" in text:
            # An escaped surrogate without its pair has no bytes.
            json.dumps(document, ensure_ascii=False).encode()
    except RecursionError as error:
        raise saved_model.invalid_argument("The body has too many nested levels.") from error
    except ValueError as error:
        raise saved_model.invalid_argument(f"The body is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise saved_model.invalid_argument(
            f"The body is {_shown(document)}; expected a JSON object."
        )
    return document


def signature_name(document: Mapping[str, Any]) -> str:
    """Returns the signature that a request names, empty if none.

    Raises:
        StatusError: INVALID_ARGUMENT if it is not a string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise saved_model.invalid_argument(
            f"'signature_name' is {_shown(name)}; expected a string."
        )
    return name


def to_inputs(document: Mapping[str, Any], dtypes: Dtypes) -> tuple[dict[str, np.ndarray], bool]:
    """Returns the inputs of a Predict request.

    In the row form, `instances` is a list of rows, each an object with all inputs. In the column
    form, `inputs` is an object with all inputs. In both, the value of the only input needs no
    object around it.

    Args:
        document: Body of the request.
        dtypes: Type of each input of the signature.

    Returns:
        The inputs by name, in the row form each [number of rows, ...]; and whether it is the row
        form.

    Raises:
        StatusError: INVALID_ARGUMENT if names, shapes or types do not fit.
    """
    if "instances" not in document and "inputs" not in document:
        raise saved_model.invalid_argument("Missing 'inputs' or 'instances' key")
    if "instances" in document and "inputs" in document:
        raise saved_model.invalid_argument(
            "The body has both 'inputs' and 'instances'; expected only one of them."
        )
    is_row_form = "instances" in document
    value = document["instances" if is_row_form else "inputs"]
    if is_row_form and (not isinstance(value, list) or not value):
        raise saved_model.invalid_argument(
            f"'instances' is {_shown(value)}; expected a list of at least one row."
        )
    first = value[0] if is_row_form else value
    if not isinstance(first, dict) or _is_base64(first):
        if len(dtypes) > 1:
            raise saved_model.invalid_argument(
                f"The values have no names, but the signature has {len(dtypes)} inputs; expected "
                f"objects with the keys {', '.join(sorted(dtypes))}."
            )
        columns = dict.fromkeys(dtypes, value)
    else:
        columns = _columns(value, dtypes) if is_row_form else value
    for name in dtypes:
        if name not in columns:
            raise saved_model.invalid_argument(f"Missing named input: {name} in 'inputs' object.")
    arrays = {name: _to_array(columns[name], name, dtype) for name, dtype in dtypes.items()}
    return arrays, is_row_form


def to_examples(document: Mapping[str, Any]) -> input_pb2.Input:
    """Returns the examples of a Classify or Regress request, and their common context.

    Raises:
        StatusError: INVALID_ARGUMENT if `examples` is not a list of at least one object, or a
            value is neither a number, a string nor `{"b64": ...}`.
    """
    rows = document.get("examples")
    if not isinstance(rows, list) or not rows:
        raise saved_model.invalid_argument(
            f"'examples' is {_shown(rows)}; expected a list of at least one object."
        )
    request = input_pb2.Input()
    added = request.example_list.examples
    if "context" in document:
        _fill(request.example_list_with_context.context, "'context'", document["context"])
        added = request.example_list_with_context.examples
    for position, row in enumerate(rows):
        _fill(added.add(), f"Row {position} of 'examples'", row)
    return request


def _columns(rows: Sequence[Any], dtypes: Dtypes) -> dict[str, list[Any]]:
    for position, row in enumerate(rows):
        if not isinstance(row, dict) or row.keys() != dtypes.keys():
            raise saved_model.invalid_argument(
                f"Row {position} of 'instances' is {_shown(row)}; expected an object with the "
                f"keys {', '.join(sorted(dtypes))}."
            )
    return {name: [row[name] for row in rows] for name in dtypes}


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large for a floating-point number")
    return value


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and list(value) == ["b64"] and isinstance(value["b64"], str)


def _to_array(value: Any, name: str, dtype: tf.DType) -> np.ndarray:
    """Returns the array of a scalar or of nested lists of equal lengths."""
    if dtype not in _JSON_TYPES:
        raise saved_model.unimplemented(
            f"Input {name}: tensors of type {tensor_codec.type_name(dtype)} have no JSON form."
        )
    # Ragged lists are not converted, and are not values of the type.
    array = np.array(value, object)
    flat = array.reshape(-1).tolist()
    wrong = _first_wrong(flat, dtype)
    if wrong is not None:
        raise saved_model.invalid_argument(
            f"Input {_path(name, wrong, array.shape)}: got {_shown(flat[wrong])}; expected a value "
            f"of type {tensor_codec.type_name(dtype)}, in lists of equal lengths."
        )
    return _converted(flat, name, dtype).reshape(array.shape)


def _first_wrong(flat: Sequence[Any], dtype: tf.DType) -> int | None:
    """Returns the position of the first value of another type; None if there is none."""
    allowed = _JSON_TYPES[dtype]
    if not set(map(type, flat)) <= allowed:
        return next(index for index, item in enumerate(flat) if type(item) not in allowed)
    if flat and dtype in _INTEGERS and not dtype.min <= min(flat) <= max(flat) <= dtype.max:
        return next(index for index, item in enumerate(flat) if not dtype.min <= item <= dtype.max)
    return None


def _converted(flat: Sequence[Any], name: str, dtype: tf.DType) -> np.ndarray:
    if dtype == tf.string:
        array = np.empty(len(flat), object)
        array[:] = [_to_bytes(item, f"Input {name}") for item in flat]
        return array
    if dtype not in (tf.float32, tf.float64):
        return np.array(flat, dtype.as_numpy_dtype)
    try:
        with np.errstate(over="ignore"):
            return np.array(flat, np.float64).astype(dtype.as_numpy_dtype)
    except OverflowError as error:
        raise saved_model.invalid_argument(
            f"Input {name}: an integer is too large for a floating-point number."
        ) from error


def _to_bytes(value: Any, where: str) -> bytes:
    """Returns the bytes of a string or of `{"b64": ...}`, with or without padding."""
    if isinstance(value, str):
        return value.encode()
    if not _is_base64(value):
        raise saved_model.invalid_argument(
            f'{where}: got {_shown(value)}; expected a string or {{"b64": "..."}}.'
        )
    encoded = value["b64"]
    padding = "" if "=" in encoded else "=" * (-len(encoded) % 4)
    try:
        return base64.b64decode(encoded + padding, validate=True)
    except ValueError as error:
        raise saved_model.invalid_argument(
            f"{where}: {_shown(encoded)} is not valid base64: {error}."
        ) from error


def _fill(example: example_pb2.Example, where: str, row: Any) -> None:
    if not isinstance(row, dict):
        raise saved_model.invalid_argument(f"{where} is {_shown(row)}; expected an object.")
    for name, content in row.items():
        values = content if isinstance(content, list) else [content]
        example.features.feature[name].CopyFrom(_feature(values, f"{where}, feature {name}"))


def _feature(values: Sequence[Any], where: str) -> feature_pb2.Feature:
    """Returns a feature whose values are all of one kind; a feature may have no values."""
    feature = feature_pb2.Feature()
    for value in values:
        kind = _kind(value, where)
        known = feature.WhichOneof("kind")
        if known not in (None, kind):
            raise saved_model.invalid_argument(
                f"{where}: got {_shown(value)}; expected {_KIND_NAMES[known]} as before it."
            )
        if kind == "bytes_list":
            feature.bytes_list.value.append(_to_bytes(value, where))
        else:
            getattr(feature, kind).value.append(value)
    return feature


def _kind(value: Any, where: str) -> str:
    if isinstance(value, str) or _is_base64(value):
        return "bytes_list"
    if type(value) is float:
        return "float_list"
    if type(value) is int and tf.int64.min <= value <= tf.int64.max:
        return "int64_list"
    raise saved_model.invalid_argument(
        f'{where}: got {_shown(value)}; expected a string, {{"b64": "..."}}, an int64 or a float.'
    )


def _path(name: str, index: int, shape: Sequence[int]) -> str:
    return name + "".join(f"[{position}]" for position in np.unravel_index(index, shape))


def _shown(value: Any) -> str:
    """Returns a value as JSON, cut to a length that fits a message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."
