"""TensorFlow Serving's REST API as a function from request to reply; `rest_server` carries it.

References: TensorFlow Serving, `model_servers/http_rest_api_handler.cc`, `http_rest_api_util.cc`
    and `http_server.cc`.
"""

import dataclasses
import http
import re
import urllib.parse
from collections.abc import Mapping

import tensorflow as tf
from google.protobuf import json_format
from google.protobuf import message as protobuf_message
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2

from serving.embedded import (
    json_text,
    prediction_service,
    rest_json,
    rpc_status,
    servable,
    servable_manager,
)

_MODEL = r"/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?"
_PREDICTION_PATH = re.compile(_MODEL + ":(classify|regress|predict)", re.IGNORECASE)
_STATUS_PATH = re.compile(
    r"/v1/models(?:/([^/:]+))?(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?(?:/(metadata))?",
    re.IGNORECASE,
)
_API_PATH = re.compile("/v1/.*", re.IGNORECASE | re.DOTALL)
_MAX_VERSION = 2**63 - 1
_NOT_FOUND_PAGE = (
    b"<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n<H1>Not Found</H1>\n"
    b"</BODY></HTML>\n"
)


@dataclasses.dataclass(frozen=True)
class Reply:
    """An HTTP reply: status, body and its type."""

    status: int
    body: bytes
    content_type: str = "application/json"


class RestApi:
    """Answers REST requests from a manager's models."""

    def __init__(self, manager: servable_manager.ServableManager) -> None:
        """Serves the manager's models."""
        self._manager = manager

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Answers one request; never raises.

        Args:
            method: GET, POST and so on.
            path: the path as sent, without the query.
            headers: by lower-case name.
            body: the whole body.
        """
        if not _API_PATH.fullmatch(path):
            return Reply(http.HTTPStatus.NOT_FOUND, _NOT_FOUND_PAGE, "text/html")
        if method == "OPTIONS":
            allowed = re.search("https?://", headers.get("origin", ""))
            return Reply(http.HTTPStatus.OK if allowed else http.HTTPStatus.BAD_REQUEST, b"")
        try:
            return Reply(http.HTTPStatus.OK, _to_bytes(self._dispatch(method, path, body)))
        except Exception as error:
            status = rpc_status.from_exception(error)
        text = f'{{\n    "error": {json_text.string(status.message)}\n}}'
        return Reply(status.http_code(), _to_bytes(text))

    def _dispatch(self, method: str, path: str, body: bytes) -> str:
        pattern = {"POST": _PREDICTION_PATH, "GET": _STATUS_PATH}.get(method)
        match = pattern.fullmatch(path) if pattern else None
        if match is None:
            raise rpc_status.invalid_argument(f"Malformed request: {method} {path}")
        name, version, label, action = match.groups()
        spec = _spec(name or "", version, label)
        if action == "predict":
            return self._predict(spec, body)
        if method == "POST":
            if action in ("classify", "regress"):
                raise rpc_status.unimplemented(
                    f"Expected :predict; this server does not implement :{action}"
                )
            raise rpc_status.invalid_argument(f"Malformed request: {method} {path}")
        if not name:
            raise rpc_status.invalid_argument("Missing model name in request.")
        return self._metadata(spec) if action == "metadata" else self._status(spec)

    def _predict(self, spec: model_pb2.ModelSpec, body: bytes) -> str:
        document = rest_json.parse(body)
        signature = document.get("signature_name", "")
        if not isinstance(signature, str):
            raise rpc_status.invalid_argument(
                f"JSON Value: {json_text.debug(document)} not formatted correctly. "
                "'signature_name' key must be a string value."
            )
        # One version from look-up to run, even if a newer one arrives between them.
        with self._manager.use(spec) as model:
            key = signature or servable.DEFAULT_SIGNATURE
            if key not in model.signature_defs:
                raise rpc_status.invalid_argument(
                    f'Serving signature name: "{key}" not found in signature def'
                )
            infos = model.signature_defs[key].inputs
            if not infos:
                raise rpc_status.invalid_argument(
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

    def _status(self, spec: model_pb2.ModelSpec) -> str:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
        return _to_json(prediction_service.model_status(self._manager, request)) + "\n"

    def _metadata(self, spec: model_pb2.ModelSpec) -> str:
        field = prediction_service.SIGNATURE_FIELD
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=spec, metadata_field=[field]
        )
        response = prediction_service.model_metadata(self._manager, request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata[field].Unpack(signatures)
        return (
            f'{{\n"model_spec":{_to_json(response.model_spec)}\n,\n'
            f'"metadata": {{"signature_def": {_to_json(signatures)}\n}}\n}}\n'
        )


def _spec(name: str, version: str | None, label: str | None) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=_unquote("model name", name))
    if version is not None:
        if len(version) > len(str(_MAX_VERSION)) or int(version) > _MAX_VERSION:
            raise rpc_status.invalid_argument(f"Failed to convert version: {version} to numeric.")
        spec.version.value = int(version)
    if label is not None:
        spec.version_label = _unquote("model version label", label)
    return spec


def _unquote(what: str, text: str) -> str:
    try:
        return urllib.parse.unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise rpc_status.invalid_argument(f"Failed to decode {what}:{text}") from error


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
