"""Receives the body of a request before it is parsed, up to a maximum size and time."""

import asyncio

import starlette.types
from starlette import requests

from serving.service.rest import rest_errors

DEFAULT_SECONDS = 10.0
# Maximum number of bytes that are read and discarded after a refusal: a client whose connection is
# closed while it sends would see a broken connection instead of the reply.
_MAX_DISCARDED_BYTES = 256_000_000


class BodyLimit:
    """Refuses bodies that are too large (413) or sent too slowly (408)."""

    def __init__(
        self,
        app: starlette.types.ASGIApp,
        max_bytes: int,
        max_seconds: float,
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds

    async def __call__(
        self,
        scope: starlette.types.Scope,
        receive: starlette.types.Receive,
        send: starlette.types.Send,
    ) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._max_bytes:
            # A client that sent `Expect: 100-continue` has not sent its body yet.
            waits = headers.get(b"expect", b"").lower() == b"100-continue"
            await self._too_large(scope, receive, send, discard=not waits)
            return
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._max_seconds):
                async for chunk in requests.Request(scope, receive).stream():
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > self._max_bytes:
                        break
        except TimeoutError:
            text = f"The body was not complete within {self._max_seconds:g} s. Send it faster."
            refusal = rest_errors.reply(408, "body_too_slow", text, {"connection": "close"})
            await refusal(scope, receive, send)
            return
        except requests.ClientDisconnect:
            return
        if size > self._max_bytes:
            del chunks
            await self._too_large(scope, receive, send, discard=True)
            return
        pending = [{"type": "http.request", "body": b"".join(chunks)}]

        async def replay() -> starlette.types.Message:
            return pending.pop() if pending else await receive()

        await self._app(scope, replay, send)

    async def _too_large(
        self,
        scope: starlette.types.Scope,
        receive: starlette.types.Receive,
        send: starlette.types.Send,
        discard: bool,
    ) -> None:
        text = f"The body has more than {self._max_bytes} bytes. Send smaller batches."
        refusal = rest_errors.reply(413, "body_too_large", text, {"connection": "close"})
        raw = refusal.raw_headers
        await send({"type": "http.response.start", "status": 413, "headers": raw})
        await send({"type": "http.response.body", "body": refusal.body, "more_body": True})
        if discard:
            await self._discard(requests.Request(scope, receive))
        await send({"type": "http.response.body", "body": b""})

    async def _discard(self, received: requests.Request) -> None:
        size = 0
        try:
            async with asyncio.timeout(self._max_seconds):
                async for chunk in received.stream():
                    size += len(chunk)
                    if size > _MAX_DISCARDED_BYTES:
                        return
        except (TimeoutError, requests.ClientDisconnect):
            return
