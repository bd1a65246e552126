"""Serves the REST API over HTTP/1.1: keep-alive, whole bodies, a thread per running request."""

import asyncio
import math
import threading
import time
from concurrent import futures
from typing import Any

import uvicorn
from starlette import requests, responses

from serving import process
from serving.model_server import server_options
from serving.model_server.rest import rest_api

_BACKLOG = 2048
# How long an idle connection is kept: libevent's default, which TensorFlow Serving uses.
_IDLE_SECONDS = 50
_START_POLL_SECONDS = 0.01


class RestServer:
    """An HTTP server on its own thread."""

    def __init__(
        self,
        api: rest_api.RestApi,
        host: str,
        port: int,
        options: server_options.ServerOptions,
    ) -> None:
        """Binds the port; nothing is answered before `start`.

        Args:
            api: The API.
            host: Address to bind.
            port: The port; 0 is any free one.
            options: Number of threads, and limits of time and size.

        Raises:
            OSError: The port cannot be bound.
        """
        self._api = api
        self._timeout_seconds = options.rest_api_timeout_seconds
        self._max_bytes = options.max_request_bytes
        self._socket = process.bound_socket(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._pool = futures.ThreadPoolExecutor(
            options.rest_api_num_threads, thread_name_prefix="rest"
        )
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
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="rest-server", daemon=True
        )

    def start(self) -> None:
        """Starts answering.

        Raises:
            RuntimeError: The server's thread ended at once.
        """
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("The REST server did not start: its thread ended.")
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
            body = await self._body(received)
        except requests.ClientDisconnect:
            return
        if body is None:
            text = f"The body is larger than --max_request_bytes={self._max_bytes}."
            await responses.JSONResponse({"error": text}, 413)(scope, receive, send)
            return
        query = scope["query_string"].decode("latin-1")
        request = rest_api.RestRequest(
            received.method,
            scope["raw_path"].decode("latin-1") + (f"?{query}" if query else ""),
            body,
            time.monotonic() + self._timeout_seconds,
        )
        answer = asyncio.get_running_loop().run_in_executor(self._pool, self._api.handle, request)
        try:
            seconds = None if math.isinf(self._timeout_seconds) else self._timeout_seconds
            reply = await asyncio.wait_for(answer, seconds)
        except TimeoutError:
            # The run ends at the same deadline, or after its current operation.
            reply = self._api.time_out(request)
        headers = {"content-type": reply.content_type}
        await responses.Response(reply.body, reply.status, headers)(scope, receive, send)

    async def _body(self, received: requests.Request) -> bytes | None:
        """Returns the body, or None if it is too large."""
        body = bytearray()
        async for chunk in received.stream():
            body += chunk
            if len(body) > self._max_bytes:
                return None
        return bytes(body)
