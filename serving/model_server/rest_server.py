"""TensorFlow Serving's REST API over HTTP/1.1, with a thread for each running request.

References: TensorFlow Serving, `model_servers/http_rest_api_handler.cc` and `http_server.cc`.
"""

import asyncio
import json
import os
import re
import threading
import time
import urllib.parse
from concurrent import futures
from typing import Any

import grpc
import tensorflow as tf
import uvicorn
from google.protobuf import json_format, message
from starlette import requests, responses
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2

from serving import process, saved_model
from serving.model_server import operations, rest_json, servable, servable_manager

TIMEOUT_SECONDS = 30.0

_PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?(?:(/metadata)|(:predict))?")
_MAX_VERSION = 2**63 - 1
_HTTP_CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_START_POLL_SECONDS = 0.01


class RestServer:
    """An HTTP server on its own thread."""

    def __init__(self, manager: servable_manager.ServableManager, host: str, port: int) -> None:
        """Binds the port, 0 for any free one; nothing is answered before `start`."""
        self._manager = manager
        self._socket = process.bound_socket(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._pool = futures.ThreadPoolExecutor(
            4 * (os.cpu_count() or 1), thread_name_prefix="rest"
        )
        config = uvicorn.Config(
            self._application,
            ws="none",
            lifespan="off",
            interface="asgi3",
            proxy_headers=False,
            log_config=None,
            access_log=False,
            server_header=False,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="rest-server", daemon=True
        )

    def start(self) -> None:
        """Starts answering."""
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(_START_POLL_SECONDS)

    def stop(self, grace_seconds: float) -> None:
        """Closes the port and waits at most `grace_seconds` for running requests."""
        if self._thread.is_alive():
            self._server.config.timeout_graceful_shutdown = max(1, round(grace_seconds))
            self._server.should_exit = True
            self._thread.join()
        self._socket.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        received = requests.Request(scope, receive)
        try:
            body = await received.body()
        except requests.ClientDisconnect:
            return
        path = scope["raw_path"].decode("latin-1")
        deadline = time.monotonic() + TIMEOUT_SECONDS
        answer = asyncio.get_running_loop().run_in_executor(
            self._pool, self._handle, received.method, path, body, deadline
        )
        try:
            status, content = await asyncio.wait_for(answer, TIMEOUT_SECONDS)
        except TimeoutError:
            # The run ends at the same deadline, or after its current operation.
            status, content = 504, rest_json.write({"error": "The request timed out."})
        reply = responses.Response(content, status, media_type="application/json")
        await reply(scope, receive, send)

    def _handle(self, method: str, path: str, body: bytes, deadline: float) -> tuple[int, bytes]:
        """Returns the HTTP status and the body of a reply; never raises."""
        try:
            with saved_model.deadline_at(deadline):
                return 200, self._answer(method, path, body)
        except Exception as error:
            status = saved_model.status_from_exception(error)
            # All characters are ASCII: a message may contain half of a surrogate pair.
            text = json.dumps({"error": status.message})
            return _HTTP_CODES.get(status.code, 500), text.encode("ascii")

    def _answer(self, method: str, path: str, body: bytes) -> bytes:
        if not path.startswith("/v1/"):
            raise saved_model.not_found(f"Not found: {path}")
        match = _PATH.fullmatch(path)
        if match is None or method != ("POST" if match[4] else "GET"):
            raise saved_model.invalid_argument(f"Malformed request: {method} {path}")
        name, version, metadata, predict = match.groups()
        # A name that is not UTF-8 is decoded to one that no model has.
        spec = model_pb2.ModelSpec(name=urllib.parse.unquote(name))
        if version is not None:
            if len(version) > len(str(_MAX_VERSION)) or int(version) > _MAX_VERSION:
                raise saved_model.invalid_argument(f"The version {version} is too large.")
            spec.version.value = int(version)
        if predict:
            return self._predict(spec, rest_json.parse(body))
        return self._metadata(spec) if metadata else self._status(spec)

    def _predict(self, spec: model_pb2.ModelSpec, document: dict[str, Any]) -> bytes:
        key = document.get("signature_name") or servable.DEFAULT_SIGNATURE
        # One version from lookup to run, even if a newer one arrives between them.
        with self._manager.use(spec) as model:
            if not isinstance(key, str) or key not in model.signature_defs:
                raise saved_model.invalid_argument(
                    f"signature_name: expected one of {sorted(model.signature_defs)}, got {key!r}."
                )
            infos = model.signature_defs[key].inputs
            dtypes = {alias: tf.dtypes.as_dtype(infos[alias].dtype) for alias in sorted(infos)}
            inputs, is_row_form = rest_json.to_inputs(document, dtypes)
            outputs = model.predict(key, inputs)
        return rest_json.to_rows(outputs) if is_row_form else rest_json.to_columns(outputs)

    def _status(self, spec: model_pb2.ModelSpec) -> bytes:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
        return rest_json.write(_to_dict(operations.model_status(self._manager, request)))

    def _metadata(self, spec: model_pb2.ModelSpec) -> bytes:
        field = operations.SIGNATURE_FIELD
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=spec, metadata_field=[field]
        )
        response = operations.model_metadata(self._manager, request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata[field].Unpack(signatures)
        return rest_json.write(
            {
                "model_spec": _to_dict(response.model_spec),
                "metadata": {field: _to_dict(signatures)},
            }
        )


def _to_dict(source: message.Message) -> dict[str, Any]:
    return json_format.MessageToDict(
        source, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
