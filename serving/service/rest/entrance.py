"""The outermost layer of the REST service: token, admission, limits, ids, metrics, access log.

It records the time of arrival, from which deadlines count, refuses what cannot be answered before
the body is read, and closes connections while the service is draining.
"""

import hmac
import json
import logging
import threading
import time
import urllib.parse
import uuid
from collections.abc import Mapping
from typing import Any

import starlette.exceptions
import starlette.types
from fastapi import responses
from starlette import routing

from serving import errors, orchestrator, requests
from serving.service.rest import rest_errors

# Time of arrival.
STARTED = "tfrec.started"
REQUEST_ID = "tfrec.request_id"
# Handlers add entries for the access log here.
NOTES = "tfrec.notes"
# The pages contain no data; they ask the user for the token.
OPEN_PATHS = frozenset({"/", "/console", "/docs", "/openapi.json", "/healthz", "/readyz"})
_CONSOLE = "/console/"
# The time that the caller has left when it sends the request, in milliseconds.
_DEADLINE = "x-deadline-ms"

access_log = logging.getLogger("tfrec.access")


class Entrance:
    """ASGI middleware around the application."""

    def __init__(
        self,
        app: starlette.types.ASGIApp,
        draining: threading.Event,
        metrics: orchestrator.ServiceMetrics,
        admission: orchestrator.Admission,
        deadlines_ms: Mapping[str, float],
        max_body_bytes: int,
        token: str | None,
    ) -> None:
        """Wraps an application."""
        self._app = app
        self._draining = draining
        self._metrics = metrics
        self._admission = admission
        self._deadlines_ms = deadlines_ms
        self._max_body_bytes = max_body_bytes
        self._token = token.encode() if token else None

    async def __call__(
        self,
        scope: starlette.types.Scope,
        receive: starlette.types.Receive,
        send: starlette.types.Send,
    ) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = scope[STARTED] = time.perf_counter()
        headers = dict(scope["headers"])
        scope[REQUEST_ID] = _request_id(headers.get(b"x-request-id"))
        notes: dict[str, Any] = {}
        scope[NOTES] = notes
        # The status if nothing is sent because the client disconnected.
        status = 499

        async def sending(message: starlette.types.Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added_headers = [(b"x-request-id", _as_header(scope[REQUEST_ID]))]
                if self._draining.is_set():
                    added_headers.append((b"connection", b"close"))
                message["headers"] = [*message.get("headers", ()), *added_headers]
            await send(message)

        try:
            refusal = self._refusal(scope, headers)
            if refusal is not None:
                await refusal(scope, receive, sending)
            else:
                # The server omits the body.
                inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
                await self._app(inner, self._limited(receive), sending)
        except Exception:
            status = 500
            raise
        finally:
            seconds = time.perf_counter() - started
            self._metrics.observe_request(_label(scope), status, seconds)
            if access_log.isEnabledFor(logging.INFO):
                _log(scope, status, seconds * 1000, notes)

    def _refusal(
        self, scope: starlette.types.Scope, headers: Mapping[bytes, bytes]
    ) -> responses.Response | None:
        """Returns why a request is refused before its body is read, or None."""
        is_open = scope["path"] in OPEN_PATHS or scope["path"].startswith(_CONSOLE)
        if not (self._token is None or is_open or _has_token(headers, self._token)):
            text = "Expected the header 'authorization: Bearer TOKEN' with this service's token."
            challenge = {"www-authenticate": "Bearer", "connection": "close"}
            return rest_errors.reply(401, "unauthorized", text, challenge)
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._max_body_bytes:
            return rest_errors.reply(413, "body_too_large", self._too_large)
        default_ms = self._deadlines_ms.get(scope["path"])
        if default_ms is not None and scope["method"] == "POST":
            named_ms = _parsed_deadline(headers.get(_DEADLINE.encode()))
            milliseconds = named_ms or default_ms
            overload = self._admission.refusal(requests.Deadline(milliseconds, scope[STARTED]))
            if overload is not None:
                return rest_errors.reply_to(overload)
        return None

    @property
    def _too_large(self) -> str:
        return f"The body has more than {self._max_body_bytes} bytes. Send smaller batches."

    def _limited(self, receive: starlette.types.Receive) -> starlette.types.Receive:
        """Returns `receive` with a limit for bodies without a content-length."""
        size = 0

        async def limited() -> starlette.types.Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._max_body_bytes:
                raise starlette.exceptions.HTTPException(413, self._too_large)
            return message

        return limited


def _has_token(headers: Mapping[bytes, bytes], token: bytes) -> bool:
    scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token)


def _label(scope: starlette.types.Scope) -> str:
    """Returns the path of a route without parameters, for the metrics, or "other"."""
    path = scope["path"]
    for route in scope["app"].routes:
        start, _, parameters = route.path.partition("/{")
        has_more = parameters or isinstance(route, routing.Mount)
        if path == start or (has_more and path.startswith(f"{start}/")):
            return start
    return "other"


def _request_id(header: bytes | None) -> str:
    text = (header or b"").decode("latin-1")
    if (
        text
        and len(text) <= requests.MAX_REQUEST_ID_LENGTH
        and text.isascii()
        and text.isprintable()
    ):
        return text
    return uuid.uuid4().hex


def _as_header(request_id: str) -> bytes:
    """Returns an id as the value of a header, percent-encoded if it is not a valid header value."""
    if request_id.isascii() and request_id.strip() == request_id:
        return request_id.encode()
    return urllib.parse.quote(request_id, safe="").encode()


def _log(
    scope: starlette.types.Scope, status: int, milliseconds: float, notes: dict[str, Any]
) -> None:
    line = {
        "request_id": scope[REQUEST_ID],
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "milliseconds": round(milliseconds, 3),
        **notes,
    }
    access_log.info("%s", json.dumps(line), extra={"fields": line})


def _parsed_deadline(text: str | bytes | None) -> float | None:
    """Returns the milliseconds of a header's value, or None if it is not valid or absent."""
    try:
        number = float(text or 0)
    except ValueError:
        return None
    # The comparison is false for NaN.
    return number if 0 < number <= requests.MAX_DEADLINE_MS else None


def with_deadline(
    request: requests.Request, headers: Mapping[str, str], default_ms: float
) -> requests.Request:
    """Returns a request with the shortest of its own deadline, the header's and the default."""
    text = headers.get(_DEADLINE)
    header_ms = _parsed_deadline(text)
    if header_ms is None and text is not None:
        raise errors.InvalidRequestError(
            f"header {_DEADLINE}: expected a number in (0, {requests.MAX_DEADLINE_MS:g}], got "
            f"{text[:60]!r}."
        )
    deadline_ms = request.deadline_ms or default_ms
    if header_ms is not None:
        deadline_ms = min(deadline_ms, header_ms)
    return request.model_copy(update={"deadline_ms": deadline_ms})
