"""Turns every error of the REST service into `{"error": {"code", "message"}}`."""

from collections.abc import Mapping

import fastapi
import starlette.exceptions
from fastapi import exceptions, responses

from serving import errors, orchestrator, requests

_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


def body(code: str, message: str) -> dict[str, dict[str, str]]:
    """Returns the JSON object of an error."""
    # A message may quote half a surrogate pair from the request; UTF-8 cannot encode it.
    readable = message.encode("utf-8", "backslashreplace").decode()
    return {"error": {"code": code, "message": readable}}


def reply(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> responses.Response:
    """Returns an error as a response."""
    return responses.JSONResponse(body(code, message), status, dict(headers or {}))


def reply_to(error: errors.ServingError) -> responses.Response:
    """Returns the response to a request that is refused or cannot be answered."""
    if isinstance(error, errors.OverloadedError):
        wait = {"retry-after": str(orchestrator.RETRY_AFTER_SECONDS)}
        return reply(429, error.code, str(error), wait)
    status = 422 if isinstance(error, errors.InvalidRequestError) else 503
    return reply(status, error.code, str(error))


def add_handlers(app: fastapi.FastAPI) -> None:
    """Registers the handlers that turn errors of the application into replies."""

    @app.exception_handler(errors.ServingError)
    async def refused(_: fastapi.Request, error: errors.ServingError) -> responses.Response:
        return reply_to(error)

    @app.exception_handler(exceptions.RequestValidationError)
    async def invalid(
        request: fastapi.Request, error: exceptions.RequestValidationError
    ) -> responses.Response:
        details = error.errors()
        if isinstance(details[0].get("input"), bytes):
            # FastAPI parses only bodies declared as JSON.
            got = request.headers.get("content-type", "none")
            text = f"Expected the header 'content-type: application/json', got {got!r}."
            return reply(415, "unsupported_media_type", text)
        # The first part of a location is "body".
        return reply_to(requests.refusal([{**one, "loc": one["loc"][1:]} for one in details]))

    @app.exception_handler(starlette.exceptions.HTTPException)
    async def http_error(
        request: fastapi.Request, error: starlette.exceptions.HTTPException
    ) -> responses.Response:
        code = _CODES.get(error.status_code, "http_error")
        # A URL would lose a line break.
        message = f"{request.method} {request.scope['path']}: {error.detail}"
        return reply(error.status_code, code, message, error.headers)

    @app.exception_handler(Exception)
    async def failed(_: fastapi.Request, error: Exception) -> responses.Response:
        # The server logs the stack trace; the caller does not see it.
        return reply(500, "internal", "The service failed; its log has the reason.")
