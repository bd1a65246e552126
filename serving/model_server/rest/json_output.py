"""Writes the JSON of REST replies.

References: TensorFlow Serving, `util/json_tensor.cc` (the forms).
"""

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, regression_pb2

from serving import saved_model
from serving.model_server import tensor_codec

# Strings of outputs with such a name are written as base64.
_BYTES_SUFFIX = "_bytes"
_WRITABLE = frozenset(
    np.dtype(name)
    for name in (
        *("float32", "float64", "int8", "int16", "int32", "int64"),
        *("uint8", "uint32", "uint64", "bool", "object"),
    )
)


def to_rows(outputs: Mapping[str, np.ndarray]) -> bytes:
    """Returns `{"predictions": [...]}`, one element for each row.

    Raises:
        StatusError: INVALID_ARGUMENT if outputs differ in their 0th dimension, have none, or are
            of a type that has no JSON form.
    """
    sizes = {name: array.shape[:1] for name, array in outputs.items()}
    first = next(iter(sizes.values()))
    for name, size in sizes.items():
        if not size:
            raise saved_model.invalid_argument(f"Tensor name: {name} has no shape information ")
        if size != first:
            raise saved_model.invalid_argument(
                f"Tensor name: {name} has inconsistent batch size: {size[0]} expecting: {first[0]}"
            )
    columns = {name: _to_lists(name, array) for name, array in outputs.items()}
    rows = next(iter(columns.values()))
    if len(columns) > 1:
        rows = [
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]
    return write({"predictions": rows})


def to_columns(outputs: Mapping[str, np.ndarray]) -> bytes:
    """Returns `{"outputs": ...}`, each output as a whole; the name of a single one is omitted.

    Raises:
        StatusError: INVALID_ARGUMENT if an output's type has no JSON form.
    """
    columns = {name: _to_lists(name, array) for name, array in outputs.items()}
    return write({"outputs": next(iter(columns.values())) if len(columns) == 1 else columns})


def classifications(result: classification_pb2.ClassificationResult) -> bytes:
    """Returns `{"results": ...}`: for each example, pairs of label and score."""
    return write(
        {
            "results": [
                [[item.label, _shortest(np.float32(item.score))] for item in classification.classes]
                for classification in result.classifications
            ]
        }
    )


def regressions(result: regression_pb2.RegressionResult) -> bytes:
    """Returns `{"results": ...}`: a number for each example."""
    return write({"results": [_shortest(np.float32(item.value)) for item in result.regressions]})


def write(document: Any) -> bytes:
    """Returns a document as JSON; bytes that are not UTF-8 are written as they are."""
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogateescape")


def _to_lists(name: str, array: np.ndarray) -> Any:
    if array.dtype not in _WRITABLE:
        raise saved_model.invalid_argument(
            "Failed to write JSON value for tensor type: "
            + tensor_codec.type_name(tf.dtypes.as_dtype(array.dtype))
        )
    flat, values = array.reshape(-1), np.empty(array.size, object)
    if array.dtype == np.float32:
        values[:] = [_shortest(value) for value in flat]
    elif array.dtype != object:
        return array.tolist()
    elif name.endswith(_BYTES_SUFFIX):
        values[:] = [{"b64": base64.b64encode(value).decode("ascii")} for value in flat]
    else:
        values[:] = [value.decode("utf-8", "surrogateescape") for value in flat]
    return values.reshape(array.shape).tolist()


def _shortest(value: np.float32) -> float:
    """Returns the number of the fewest digits that rounds to this one: 0.1, not 0.100000001."""
    return float(str(value))
