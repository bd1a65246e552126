"""TensorFlow Serving's REST API as a function from request to reply; `rest_server` carries it.

References: TensorFlow Serving, `model_servers/http_rest_api_handler.cc`, `http_rest_api_util.cc`
    and `http_server.cc`; libevent 2.1.12, `http.c` (`evhttp_uri_parse`, `evhttp_send_error`).
"""

import dataclasses
import http
import re
import time
import urllib.parse

import grpc
import tensorflow as tf
from google.protobuf import json_format
from google.protobuf import message as protobuf_message
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    input_pb2,
    model_pb2,
    regression_pb2,
)

from serving import saved_model
from serving.model_server import server_options
from serving.model_server.metrics import serving_metrics
from serving.model_server.models import servable, servable_manager
from serving.model_server.operations import operations
from serving.model_server.rest import json_text, rest_examples, rest_json, rest_messages

Reply = rest_messages.Reply
Request = rest_messages.Request

_MODEL = r"/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?"
_PREDICTION_PATH = re.compile(_MODEL + ":(classify|regress|predict)", re.IGNORECASE)
_STATUS_PATH = re.compile(
    r"/v1/models(?:/([^/:]+))?(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?(?:/(metadata))?",
    re.IGNORECASE,
)
_PATTERNS = {"POST": _PREDICTION_PATH, "GET": _STATUS_PATH}
_API_PATH = re.compile("/v1/.*", re.IGNORECASE | re.DOTALL)
_MAX_VERSION = 2**63 - 1
# What libevent, which carries TensorFlow Serving's REST API, answers by a page of its own.
_METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH")
_CHARACTERS = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9a-fA-F]{2})*+"
_URI = re.compile(f"{_CHARACTERS}(?:#{_CHARACTERS})?")
_DEFAULT_CONTENT_TYPE = "text/html; charset=ISO-8859-1"
_CORS_HEADERS = (
    ("access-control-allow-origin", "*"),
    ("access-control-allow-methods", "POST, GET"),
    ("access-control-allow-headers", "Content-Type"),
)


@dataclasses.dataclass
class _Call:
    """What a path asks for: filled in as far as it could be read."""

    spec: model_pb2.ModelSpec = dataclasses.field(default_factory=model_pb2.ModelSpec)
    action: str = ""


class RestApi:
    """Answers REST requests from a manager's models."""

    def __init__(
        self,
        manager: servable_manager.ServableManager,
        options: server_options.ServerOptions,
        metrics: serving_metrics.ServingMetrics,
    ) -> None:
        """Serves the manager's models, and the metrics where the options name a path for them."""
        self._manager = manager
        self._options = options
        self._metrics = metrics

    def handle(self, request: Request) -> Reply:
        """Answers one request; never raises."""
        if request.method not in _METHODS:
            return _page(http.HTTPStatus.NOT_IMPLEMENTED)
        if not _URI.fullmatch(request.path):
            return _page(http.HTTPStatus.BAD_REQUEST)
        if (path := request.path.partition("?")[0]) == self._options.prometheus_path:
            return self._prometheus(request.path, path)
        if not _API_PATH.fullmatch(request.path):
            return _page(http.HTTPStatus.NOT_FOUND)
        started, call = time.perf_counter(), _Call()
        try:
            with saved_model.deadline_at(request.deadline):
                text = self._answer(request, call)
        except Exception as error:
            return self._failure(request, call.spec.name, saved_model.status_from_exception(error))
        if request.is_first_answer():
            seconds = time.perf_counter() - started
            self._metrics.record_latency(call.spec.name, call.action, "REST", seconds)
            self._metrics.record_request(call.spec.name, "OK")
        return self._reply(request, http.HTTPStatus.OK, text)

    def time_out(self, request: Request) -> Reply:
        """Answers a request whose deadline passed before `handle` returned, or began."""
        pattern = _PATTERNS.get(request.method)
        match = pattern.fullmatch(request.path) if pattern else None
        name = urllib.parse.unquote(match[1] or "") if match else ""
        late = saved_model.StatusError(grpc.StatusCode.DEADLINE_EXCEEDED, saved_model.TIMED_OUT)
        return self._failure(request, name, late)

    def _failure(self, request: Request, name: str, status: saved_model.StatusError) -> Reply:
        if request.is_first_answer():
            self._metrics.record_request(name, status.code.name)
        text = f'{{\n    "error": {json_text.string(status.message)}\n}}'
        return self._reply(request, status.http_code(), text)

    def _reply(self, request: Request, status: int, text: str) -> Reply:
        headers = _CORS_HEADERS if self._options.rest_api_enable_cors_support else ()
        if request.method == "OPTIONS":
            return Reply(status, b"", _DEFAULT_CONTENT_TYPE, headers)
        return Reply(status, _to_bytes(text), headers=headers)

    def _prometheus(self, path: str, expected: str) -> Reply:
        if path != expected:
            text = f"Unexpected path: {path}. Should be {expected}"
            return Reply(http.HTTPStatus.BAD_REQUEST, _to_bytes(text), "text/plain")
        return Reply(http.HTTPStatus.OK, _to_bytes(self._metrics.render()), "text/plain")

    def _answer(self, request: Request, call: _Call) -> str:
        method, path, body = request.method, request.path, request.body
        if method == "OPTIONS":
            if not re.search("https?://", request.headers.get("origin", "")):
                raise saved_model.failed_precondition("Origin header is missing in CORS preflight")
            return ""
        pattern = _PATTERNS.get(method)
        match = pattern.fullmatch(path) if pattern else None
        if match is None:
            raise saved_model.invalid_argument(f"Malformed request: {method} {path}")
        name, version, label, action = match.groups()
        spec = call.spec = _spec(name or "", version, label)
        if method == "POST":
            call.action = action
            post = {"predict": self._predict, "classify": self._classify, "regress": self._regress}
            if action not in post:
                # The path is matched in any case, its last word is not.
                raise saved_model.invalid_argument(f"Malformed request: {method} {path}")
            return post[action](spec, body)
        if not name:
            raise saved_model.invalid_argument("Missing model name in request.")
        return self._metadata(spec) if action == "metadata" else self._status(spec)

    def _predict(self, spec: model_pb2.ModelSpec, body: bytes) -> str:
        document = rest_json.parse(body)
        signature = rest_json.signature_name(document)
        # One version from look-up to run, even if a newer one arrives between them.
        with self._manager.use(spec) as model:
            key = signature or servable.DEFAULT_SIGNATURE
            if key not in model.signature_defs:
                raise saved_model.invalid_argument(
                    f'Serving signature name: "{key}" not found in signature def'
                )
            infos = model.signature_defs[key].inputs
            if not infos:
                raise saved_model.invalid_argument(
                    f"Failed to get input map for signature: {signature or 'DEFAULT'}"
                )
            dtypes = {alias: tf.dtypes.as_dtype(infos[alias].dtype) for alias in sorted(infos)}
            rows = rest_json.is_row_form(document)
            if rows:
                inputs = rest_json.from_rows(document["instances"], dtypes)
            else:
                inputs = rest_json.from_columns(document["inputs"], dtypes)
            outputs = model.predict(key, inputs)
        return rest_json.to_rows(outputs) if rows else rest_json.to_columns(outputs)

    def _classify(self, spec: model_pb2.ModelSpec, body: bytes) -> str:
        request = classification_pb2.ClassificationRequest(input=self._examples(spec, body))
        request.model_spec.CopyFrom(spec)
        response = operations.classify(self._manager, request)
        return rest_examples.classifications(response.result)

    def _regress(self, spec: model_pb2.ModelSpec, body: bytes) -> str:
        request = regression_pb2.RegressionRequest(input=self._examples(spec, body))
        request.model_spec.CopyFrom(spec)
        response = operations.regress(self._manager, request)
        return rest_examples.regressions(response.result)

    def _examples(self, spec: model_pb2.ModelSpec, body: bytes) -> input_pb2.Input:
        """Reads a request's examples, and its signature into `spec`."""
        document = rest_json.parse(body)
        name = rest_json.signature_name(document)
        examples = rest_examples.to_input(document)
        try:
            spec.signature_name = name
        except UnicodeEncodeError as error:
            # The name is not UTF-8, so that no signature has it; that the model is there comes
            # first.
            with self._manager.use(spec):
                message = f"No signature was found with the name: {name}"
                raise saved_model.invalid_argument(message) from error
        return examples

    def _status(self, spec: model_pb2.ModelSpec) -> str:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
        return _to_json(operations.model_status(self._manager, request)) + "\n"

    def _metadata(self, spec: model_pb2.ModelSpec) -> str:
        field = operations.SIGNATURE_FIELD
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=spec, metadata_field=[field]
        )
        response = operations.model_metadata(self._manager, request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata[field].Unpack(signatures)
        return (
            f'{{\n"model_spec":{_to_json(response.model_spec)}\n,\n'
            f'"metadata": {{"signature_def": {_to_json(signatures)}\n}}\n}}\n'
        )


def _spec(name: str, version: str | None, label: str | None) -> model_pb2.ModelSpec:
    # What is not UTF-8 names no model and no label.
    spec = model_pb2.ModelSpec(name=urllib.parse.unquote(name))
    if version is not None:
        if len(version) > len(str(_MAX_VERSION)) or int(version) > _MAX_VERSION:
            raise saved_model.invalid_argument(f"Failed to convert version: {version} to numeric.")
        spec.version.value = int(version)
    if label is not None:
        spec.version_label = urllib.parse.unquote(label)
    return spec


def _page(status: http.HTTPStatus) -> Reply:
    text = (
        f"<HTML><HEAD>\n<TITLE>{status.value} {status.phrase}</TITLE>\n</HEAD><BODY>\n"
        f"<H1>{status.phrase}</H1>\n</BODY></HTML>\n"
    )
    return Reply(status, text.encode("ascii"), "text/html", (("connection", "close"),))


def _to_json(message: protobuf_message.Message) -> str:
    return json_format.MessageToJson(
        message,
        indent=1,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        ensure_ascii=False,
    )


def _to_bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")
