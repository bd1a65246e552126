"""Between the JSON of the REST API and arrays: the row and the column form, without coercion.

The layout (four spaces, values of a row on one line) and the messages are TensorFlow Serving's.

References: TensorFlow Serving, `util/json_tensor.cc`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from serving import saved_model
from serving.model_server.rest import json_document, json_shown, json_text, json_values

_BYTES_SUFFIX = "_bytes"

Dtypes = Mapping[str, tf.DType]


def parse(body: bytes) -> dict[str, Any]:
    """Parses a request's body; what follows the first JSON value is ignored.

    Raises:
        StatusError: INVALID_ARGUMENT if it is not a JSON object.
    """
    if not body:
        raise saved_model.invalid_argument("JSON Parse error: The document is empty")
    try:
        document = json_document.decode(body)
    except (RecursionError, ValueError) as error:
        raise saved_model.invalid_argument(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise saved_model.invalid_argument(f"{shown(document)} Is not object")
    return document


def signature_name(document: Mapping[str, Any]) -> str:
    """Returns the signature that a request names, empty if none.

    Raises:
        StatusError: INVALID_ARGUMENT if it is not a string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise saved_model.invalid_argument(
            f"{shown(document)} not formatted correctly. "
            "'signature_name' key must be a string value."
        )
    return name


def is_row_form(document: Mapping[str, Any]) -> bool:
    """Returns whether a request has `instances` (rows) rather than `inputs` (columns).

    Raises:
        StatusError: INVALID_ARGUMENT if it has both or neither, or rows that are not a list.
    """
    if "instances" not in document and "inputs" not in document:
        raise saved_model.invalid_argument("Missing 'inputs' or 'instances' key")
    if "instances" not in document:
        return False
    if "inputs" in document:
        raise saved_model.invalid_argument(
            f"{shown(document)} Not formatted correctly expecting only one of 'inputs' or "
            "'instances' keys to exist "
        )
    if not isinstance(document["instances"], list):
        raise saved_model.invalid_argument(
            f"{shown(document)} Expecting 'instances' to be an list/array"
        )
    if not document["instances"]:
        raise saved_model.invalid_argument(f"{shown(document)} No values in 'instances' array")
    return True


def from_rows(rows: Sequence[Any], dtypes: Dtypes) -> dict[str, np.ndarray]:
    """Returns the inputs of the row form, each with the number of rows as its 0th dimension.

    Raises:
        StatusError: INVALID_ARGUMENT if keys, shapes or types differ from what is expected.
    """
    if not isinstance(rows[0], dict) and len(dtypes) > 1:
        raise saved_model.invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    named = _is_named(rows[0])
    values: dict[str, list[np.ndarray]] = {name: [] for name in dtypes}
    for position, row in enumerate(rows):
        if named != _is_named(row):
            expected, got = ("object", "list") if named else ("value/list", "object")
            raise saved_model.invalid_argument(
                f"Expecting {expected} but got {got} at item {position} of input list"
            )
        for name, value in row.items() if named else [(next(iter(dtypes)), row)]:
            try:
                _append(values, name, value, dtypes)
            except saved_model.StatusError as error:
                key = f" key: {name}" if named else ""
                raise saved_model.invalid_argument(
                    f"Failed to process element: {position}{key} of 'instances' list. "
                    f"Error: {error}"
                ) from error
        if named and row.keys() != dtypes.keys():
            raise saved_model.invalid_argument(
                f"Failed to process element: {position} of 'instances' list. JSON object: "
                f"{json_shown.text(row)} keys must be equal to: {','.join(sorted(dtypes))}"
            )
    # Rows of base64 are taken for the first input's, and whether more are needed is not asked here.
    return {name: np.stack(arrays) for name, arrays in values.items() if arrays}


def from_columns(inputs: Any, dtypes: Dtypes) -> dict[str, np.ndarray]:
    """Returns the inputs of the column form; a model's only input may go without its name.

    Raises:
        StatusError: INVALID_ARGUMENT if names, shapes or types differ from what is expected.
    """
    if not _is_named(inputs):
        if len(dtypes) > 1:
            raise saved_model.invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        name, dtype = next(iter(dtypes.items()))
        return {name: json_values.to_array(inputs, dtype)}
    for name in dtypes:
        if name not in inputs:
            raise saved_model.invalid_argument(f"Missing named input: {name} in 'inputs' object.")
    return {name: json_values.to_array(inputs[name], dtype) for name, dtype in dtypes.items()}


def to_rows(outputs: Mapping[str, np.ndarray]) -> str:
    """Returns `{"predictions": [...]}`, one element for each row.

    Raises:
        StatusError: INVALID_ARGUMENT if outputs differ in their 0th dimension or have none.
    """
    size = -1
    for name, array in outputs.items():
        if not array.ndim:
            raise saved_model.invalid_argument(f"Tensor name: {name} has no shape information ")
        if size not in (-1, len(array)):
            raise saved_model.invalid_argument(
                f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {size}"
            )
        size = len(array)
    depth = 3 if len(outputs) > 1 else 2
    columns = {name: _lines(name, array, depth) for name, array in outputs.items()}
    if len(columns) == 1:
        elements = ", ".join(next(iter(columns.values())))
    else:
        elements = ",".join(
            "\n        {\n"
            + ",\n".join(
                f"            {json_text.string(name)}: {values[row]}"
                for name, values in columns.items()
            )
            + "\n        }"
            for row in range(size)
        )
    end = "\n    " if size else ""
    return f'{{\n    "predictions": [{elements}{end}]\n}}'


def to_columns(outputs: Mapping[str, np.ndarray]) -> str:
    """Returns `{"outputs": ...}`, each output whole; a single one goes without its name."""
    depth = 2 if len(outputs) > 1 else 1
    values = {
        name: json_text.nested(array, depth, _as_base64(name, array))
        for name, array in outputs.items()
    }
    if len(values) == 1:
        text = next(iter(values.values()))
    else:
        members = (f"        {json_text.string(name)}: {text}" for name, text in values.items())
        text = "{\n" + ",\n".join(members) + "\n    }"
    return f'{{\n    "outputs": {text}\n}}'


def _append(values: Mapping[str, list[np.ndarray]], name: str, value: Any, dtypes: Dtypes) -> None:
    if name not in dtypes:
        raise saved_model.invalid_argument(f"JSON object: does not have named input: {name}")
    array = json_values.to_array(value, dtypes[name])
    first = values[name][0] if values[name] else array
    if array.size != first.size:
        raise saved_model.invalid_argument(
            f"Expecting tensor size: {first.size} but got: {array.size}"
        )
    if array.shape != first.shape:
        raise saved_model.invalid_argument(
            f"Expecting shape {_shape(first)} but got: {_shape(array)}"
        )
    values[name].append(array)


def _shape(array: np.ndarray) -> str:
    return "[" + ",".join(map(str, array.shape)) + "]"


def _lines(name: str, array: np.ndarray, depth: int) -> list[str]:
    inner = depth + array.ndim - 1
    flat = json_text.scalars(array, inner if _as_base64(name, array) else None)
    width = math.prod(array.shape[1:])
    return [
        json_text.single_line(flat[row * width : (row + 1) * width], array.shape[1:])
        for row in range(len(array))
    ]


def _as_base64(name: str, array: np.ndarray) -> bool:
    return array.dtype == object and name.endswith(_BYTES_SUFFIX)


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not json_values.is_base64(value)


def shown(value: Any) -> str:
    """Returns how messages show a JSON value."""
    return f"JSON Value: {json_shown.text(value)}"
