"""TensorFlow Serving's REST API as a function from request to reply; `rest_server` carries it.

References: TensorFlow Serving, `model_servers/http_rest_api_handler.cc`, `http_rest_api_util.cc`
    and `http_server.cc`.
"""

import dataclasses
import http
import json
import math
import re
import threading
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

import grpc
import tensorflow as tf
from google.protobuf import json_format, message
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    regression_pb2,
)

from serving import saved_model
from serving.model_server import server_metrics, server_options
from serving.model_server.models import servable, servable_manager
from serving.model_server.operations import examples, operations
from serving.model_server.rest import json_input, json_output

_MODEL = r"/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?"
_PREDICTION_PATH = re.compile(_MODEL + ":(classify|regress|predict)", re.IGNORECASE)
_STATUS_PATH = re.compile(
    r"/v1/models(?:/([^/:]+))?(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?(?:/(metadata))?",
    re.IGNORECASE,
)
_PATTERNS = {"POST": _PREDICTION_PATH, "GET": _STATUS_PATH}
_API_PATH = re.compile("/v1/.*", re.IGNORECASE | re.DOTALL)
_MAX_VERSION = 2**63 - 1
_NOT_FOUND_PAGE = (
    b"<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n"
    b"<H1>Not Found</H1>\n</BODY></HTML>\n"
)
_EXAMPLE_ACTIONS: dict[str, tuple[Any, Any, Any]] = {
    "classify": (
        examples.classify,
        classification_pb2.ClassificationRequest,
        json_output.classifications,
    ),
    "regress": (examples.regress, regression_pb2.RegressionRequest, json_output.regressions),
}


@dataclasses.dataclass(frozen=True)
class RestRequest:
    """An HTTP request.

    Attributes:
        method: GET, POST or another method.
        path: The path as sent, with the query: TensorFlow Serving does not separate them.
        body: The whole body.
        deadline: End of the client's wait on the monotonic clock, in seconds.
    """

    method: str
    path: str
    body: bytes
    deadline: float = math.inf
    _counted: threading.Lock = dataclasses.field(default_factory=threading.Lock, repr=False)

    def is_first_answer(self) -> bool:
        """Returns True once: either the run or the timeout counts the request."""
        return self._counted.acquire(blocking=False)


@dataclasses.dataclass(frozen=True)
class RestReply:
    """An HTTP reply."""

    status: int
    body: bytes
    content_type: str = "application/json"


class RestApi:
    """Answers REST requests from a manager's models."""

    def __init__(
        self,
        manager: servable_manager.ServableManager,
        options: server_options.ServerOptions,
        metrics: server_metrics.ServerMetrics,
    ) -> None:
        """Serves the manager's models, and the metrics if the options name their path."""
        self._manager = manager
        self._options = options
        self._metrics = metrics

    def handle(self, request: RestRequest) -> RestReply:
        """Answers one request; never raises."""
        if (path := request.path.partition("?")[0]) == self._options.prometheus_path:
            return self._prometheus(request.path, path)
        if not _API_PATH.fullmatch(request.path):
            return RestReply(http.HTTPStatus.NOT_FOUND, _NOT_FOUND_PAGE, "text/html")
        started, spec = time.perf_counter(), model_pb2.ModelSpec()
        try:
            with saved_model.deadline_at(request.deadline):
                action, body = self._answer(request, spec)
        except Exception as error:
            return self._failure(request, spec.name, saved_model.status_from_exception(error))
        if request.is_first_answer():
            seconds = time.perf_counter() - started
            self._metrics.record_latency(spec.name, action, "REST", seconds)
            self._metrics.record_request(spec.name, "OK")
        return RestReply(http.HTTPStatus.OK, body)

    def time_out(self, request: RestRequest) -> RestReply:
        """Answers a request whose deadline passed before `handle` began or returned."""
        pattern = _PATTERNS.get(request.method)
        match = pattern.fullmatch(request.path) if pattern else None
        name = urllib.parse.unquote(match[1] or "") if match else ""
        late = saved_model.StatusError(grpc.StatusCode.DEADLINE_EXCEEDED, saved_model.TIMED_OUT)
        return self._failure(request, name, late)

    def _failure(
        self, request: RestRequest, name: str, status: saved_model.StatusError
    ) -> RestReply:
        if request.is_first_answer():
            self._metrics.record_request(name, status.code.name)
        body = json.dumps({"error": status.message}).encode("ascii")
        return RestReply(status.http_code(), body)

    def _prometheus(self, path: str, expected: str) -> RestReply:
        if path != expected:
            text = f"Unexpected path: {path}. Should be {expected}"
            return RestReply(http.HTTPStatus.BAD_REQUEST, text.encode(), "text/plain")
        return RestReply(http.HTTPStatus.OK, self._metrics.render(), "text/plain")

    def _answer(self, request: RestRequest, spec: model_pb2.ModelSpec) -> tuple[str, bytes]:
        """Sets `spec` to the model in the path; returns the action of a POST, and the reply."""
        method, path = request.method, request.path
        pattern = _PATTERNS.get(method)
        match = pattern.fullmatch(path) if pattern else None
        if match is None:
            raise saved_model.invalid_argument(f"Malformed request: {method} {path}")
        name, version, label, action = match.groups()
        spec.MergeFrom(_spec(name or "", version, label))
        if method == "POST":
            if action not in ("predict", *_EXAMPLE_ACTIONS):
                # Only the last word of the path is case-sensitive.
                raise saved_model.invalid_argument(f"Malformed request: {method} {path}")
            document = json_input.parse(request.body)
            if action == "predict":
                return action, self._predict(spec, document)
            return action, self._examples(action, spec, document)
        if not name:
            raise saved_model.invalid_argument("Missing model name in request.")
        return "", self._metadata(spec) if action == "metadata" else self._status(spec)

    def _predict(self, spec: model_pb2.ModelSpec, document: Mapping[str, Any]) -> bytes:
        key = json_input.signature_name(document) or servable.DEFAULT_SIGNATURE
        # One version from lookup to run, even if a newer one arrives between them.
        with self._manager.use(spec) as model:
            if key not in model.signature_defs:
                raise saved_model.invalid_argument(
                    f'Serving signature name: "{key}" not found in signature def'
                )
            infos = model.signature_defs[key].inputs
            if not infos:
                raise saved_model.invalid_argument(f"Failed to get input map for signature: {key}")
            dtypes = {alias: tf.dtypes.as_dtype(infos[alias].dtype) for alias in sorted(infos)}
            inputs, is_row_form = json_input.to_inputs(document, dtypes)
            outputs = model.predict(key, inputs)
        return json_output.to_rows(outputs) if is_row_form else json_output.to_columns(outputs)

    def _examples(self, action: str, spec: model_pb2.ModelSpec, document: Any) -> bytes:
        operation, request_type, to_json = _EXAMPLE_ACTIONS[action]
        spec.signature_name = json_input.signature_name(document)
        request = request_type(model_spec=spec, input=json_input.to_examples(document))
        return to_json(operations.on_model(operation, self._manager, request).result)

    def _status(self, spec: model_pb2.ModelSpec) -> bytes:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
        return json_output.write(_to_dict(operations.model_status(self._manager, request)))

    def _metadata(self, spec: model_pb2.ModelSpec) -> bytes:
        field = operations.SIGNATURE_FIELD
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=spec, metadata_field=[field]
        )
        response = operations.model_metadata(self._manager, request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata[field].Unpack(signatures)
        return json_output.write(
            {
                "model_spec": _to_dict(response.model_spec),
                "metadata": {field: _to_dict(signatures)},
            }
        )


def _spec(name: str, version: str | None, label: str | None) -> model_pb2.ModelSpec:
    # A name that is not UTF-8 is decoded to one that no model has.
    spec = model_pb2.ModelSpec(name=urllib.parse.unquote(name))
    if version is not None:
        if len(version) > len(str(_MAX_VERSION)) or int(version) > _MAX_VERSION:
            raise saved_model.invalid_argument(f"Failed to convert version: {version} to numeric.")
        spec.version.value = int(version)
    if label is not None:
        spec.version_label = urllib.parse.unquote(label)
    return spec


def _to_dict(source: message.Message) -> dict[str, Any]:
    return json_format.MessageToDict(
        source, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
