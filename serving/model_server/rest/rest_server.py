"""Carries the REST API over HTTP/1.1: keep-alive, whole bodies, a thread per running request."""

import asyncio
import dataclasses
import logging
import math
import socket
import threading
import time
import zlib
from concurrent import futures
from typing import Any

import uvicorn

from serving.model_server.rest import rest_api, rest_messages

_logger = logging.getLogger(__name__)
_MAX_BODY_BYTES = 2**31 - 1
_BACKLOG = 2048
# libevent's, which TensorFlow Serving leaves as it is: an idle connection is kept so long.
_IDLE_SECONDS = 50
# TensorFlow Serving's limit of what a compressed body may hold.
_MAX_UNCOMPRESSED_BYTES = 100 * 1024 * 1024


class RestServer:
    """An HTTP server on a thread of its own."""

    def __init__(
        self,
        api: rest_api.RestApi,
        host: str,
        port: int,
        num_threads: int,
        timeout_seconds: float = 30.0,
    ) -> None:
        """Takes the port; answers nothing before `start`.

        Args:
            api: answers the requests.
            host: the address to bind.
            port: the port, or 0 for any free one.
            num_threads: how many requests run at once.
            timeout_seconds: after this time a request is answered by 504; infinity for never.

        Raises:
            OSError: if the port cannot be bound.
        """
        self._api = api
        self._timeout_seconds = timeout_seconds
        self._socket = _bind(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._pool = futures.ThreadPoolExecutor(num_threads, thread_name_prefix="rest")
        config = uvicorn.Config(
            self._application,
            http="h11",
            ws="none",
            lifespan="off",
            interface="asgi3",
            proxy_headers=False,
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_IDLE_SECONDS,
        )
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._run, name="rest-server", daemon=True)

    def start(self) -> None:
        """Starts answering.

        Raises:
            RuntimeError: if the server's thread ended at once.
        """
        self._thread.start()
        self._server.ready.wait()
        if not self._server.started:
            raise RuntimeError("Expected the REST server to start, but its thread ended")

    def stop(self, grace_seconds: float) -> None:
        """Closes the port, and waits for running requests for at most `grace_seconds`."""
        if self._thread.is_alive():
            self._server.config.timeout_graceful_shutdown = max(1, round(grace_seconds))
            self._server.should_exit = True
            self._thread.join()
        self._socket.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._server.ready.set()

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {
            key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]
        }
        body = await _read_body(receive)
        if body is None:
            return
        query = scope["query_string"].decode("latin-1")
        request = rest_messages.Request(
            scope["method"],
            scope["raw_path"].decode("latin-1") + (f"?{query}" if query else ""),
            headers,
            body,
            time.monotonic() + self._timeout_seconds,
        )
        answer = asyncio.get_running_loop().run_in_executor(self._pool, self._answer, request)
        try:
            seconds = None if math.isinf(self._timeout_seconds) else self._timeout_seconds
            reply = await asyncio.wait_for(answer, seconds)
        except TimeoutError:
            # The run ends at the same deadline, or with the operation that it is in.
            reply = self._api.time_out(request)
        fields = [
            (b"content-type", reply.content_type.encode("ascii")),
            (b"content-length", str(len(reply.body)).encode("ascii")),
            *((name.encode("ascii"), value.encode("ascii")) for name, value in reply.headers),
        ]
        await send({"type": "http.response.start", "status": int(reply.status), "headers": fields})
        await send({"type": "http.response.body", "body": reply.body})

    def _answer(self, request: rest_messages.Request) -> rest_messages.Reply:
        if "gzip" in request.headers.get("content-encoding", ""):
            request = dataclasses.replace(request, body=_uncompressed(request.body))
        return self._api.handle(request)


class _Server(uvicorn.Server):
    """Tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


async def _read_body(receive: Any) -> bytes | None:
    """Returns the whole body, or None if the client left before its end or sends too much."""
    chunks: list[bytes] = []
    size = 0
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        chunks.append(event.get("body", b""))
        size += len(chunks[-1])
        if size > _MAX_BODY_BYTES:
            _logger.warning("Refused a body of more than %d bytes", _MAX_BODY_BYTES)
            return None
        if not event.get("more_body", False):
            return b"".join(chunks)


def _uncompressed(body: bytes) -> bytes:
    """Returns what a gzip body holds; nothing, as in TensorFlow Serving, if it is bad or large."""
    decompressor = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        content = decompressor.decompress(body, _MAX_UNCOMPRESSED_BYTES + 1)
    except zlib.error as error:
        _logger.warning("Failed to uncompress the gzipped body: %s", error)
        return b""
    if len(content) > _MAX_UNCOMPRESSED_BYTES or not decompressor.eof:
        _logger.warning(
            "Refused a gzipped body that is cut off or holds more than %d bytes",
            _MAX_UNCOMPRESSED_BYTES,
        )
        return b""
    return content


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off (40 ms a reply) only where the protocol is spelt out.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener
