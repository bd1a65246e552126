"""The JSON of `:classify` and `:regress`: examples in, results out.

References: TensorFlow Serving, `util/json_tensor.cc`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow_serving.apis import classification_pb2, input_pb2, regression_pb2

from serving import saved_model
from serving.model_server.rest import json_document, json_text, json_values, rest_json

_INT64_MAX = 2**63 - 1
_KIND_NAMES = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}


def to_input(document: Mapping[str, Any]) -> input_pb2.Input:
    """Returns the examples of a request, and the context that they share.

    Raises:
        StatusError: INVALID_ARGUMENT if `examples` is missing, empty or no list, or a value is
            neither a number, a string nor `{"b64": ...}`.
    """
    request = input_pb2.Input()
    if "context" in document:
        _fill(request.example_list_with_context.context, document["context"])
    shown = rest_json.shown(document)
    if "examples" not in document:
        raise saved_model.invalid_argument(
            f"{shown} When method is classify, key 'examples' is expected and was not found"
        )
    rows = document["examples"]
    if not isinstance(rows, list):
        raise saved_model.invalid_argument(
            f"{shown} Expecting 'examples' value to be an list/array"
        )
    if not rows:
        raise saved_model.invalid_argument(f"{shown} 'examples' value is an empty array")
    with_context = "context" in document
    for row in rows:
        added = (
            request.example_list_with_context.examples.add()
            if with_context
            else request.example_list.examples.add()
        )
        _fill(added, row)
    return request


def classifications(result: classification_pb2.ClassificationResult) -> str:
    """Returns `{"results": ...}`: for each example, pairs of label and score."""
    rows = []
    for classification in result.classifications:
        classes = classification.classes
        scores = json_text.scalars(np.array([item.score for item in classes], np.float32))
        pairs = (
            f"[{json_text.string(item.label)}, {score}]"
            for item, score in zip(classes, scores, strict=True)
        )
        rows.append(f"[{', '.join(pairs)}]")
    return f'{{\n    "results": [{", ".join(rows)}\n    ]\n}}'


def regressions(result: regression_pb2.RegressionResult) -> str:
    """Returns `{"results": ...}`: a number for each example."""
    values = np.array([item.value for item in result.regressions], np.float32)
    return f'{{\n    "results": [{", ".join(json_text.scalars(values))}]\n}}'


def _fill(example: example_pb2.Example, row: Any) -> None:
    if not isinstance(row, dict):
        raise saved_model.invalid_argument(
            f"Example must be JSON object but got JSON {json_values.type_name(row)}"
        )
    for name, content in json_document.members(row):
        feature = feature_pb2.Feature()
        for value in content if isinstance(content, list) else [content]:
            _add(feature, name, value)
        # Also a feature without values is in the example. One whose name is not UTF-8 has no place
        # in Python's message, but no model asks for it.
        if _is_utf8(name):
            example.features.feature[name].CopyFrom(feature)


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _add(feature: feature_pb2.Feature, name: str, value: Any) -> None:
    kind = _kind(name, value)
    known = feature.WhichOneof("kind")
    if known not in (None, kind):
        raise saved_model.invalid_argument(
            f"Unexpected element type in feature: {name} expecting type: {_KIND_NAMES[known]}"
        )
    if kind == "bytes_list":
        feature.bytes_list.value.append(json_values.to_bytes(value))
    elif kind == "float_list":
        feature.float_list.value.append(json_values.to_double(value))
    elif value > _INT64_MAX:
        raise saved_model.invalid_argument(
            f"Feature: {name} has uint64_t element. Only int64_t is supported."
        )
    else:
        feature.int64_list.value.append(int(value))


def _kind(name: str, value: Any) -> str:
    if isinstance(value, str) or json_values.is_base64(value):
        return "bytes_list"
    # What no integer type holds is a floating-point number.
    if isinstance(value, float) or (isinstance(value, int) and not json_document.is_integer(value)):
        return "float_list"
    if isinstance(value, int):
        return "int64_list"
    raise saved_model.invalid_argument(
        f"Feature: {name} has element with unexpected JSON type: {json_values.type_name(value)}"
    )
