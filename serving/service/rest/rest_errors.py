"""Turns every error of the REST service into `{"error": {"code", "message"}}`."""

from collections.abc import Callable, Mapping, Set
from typing import Any

import fastapi
import pydantic
import starlette.exceptions
from fastapi import exceptions, responses
from starlette import routing

from serving import errors, orchestrator, requests


def reply(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> responses.Response:
    """Returns an error as a response."""
    # A message may quote half a surrogate pair from the request; UTF-8 cannot encode it.
    readable = message.encode("utf-8", "backslashreplace").decode()
    body = {"error": {"code": code, "message": readable}}
    return responses.JSONResponse(body, status, dict(headers or {}))


def reply_to(error: errors.ServingError) -> responses.Response:
    """Returns the response to a request that is refused or cannot be answered."""
    if isinstance(error, errors.OverloadedError):
        wait = {"retry-after": str(orchestrator.RETRY_AFTER_SECONDS)}
        return reply(429, error.code, str(error), wait)
    status = error.status if isinstance(error, errors.InvalidRequestError) else 503
    return reply(status, error.code, str(error))


def add_handlers(app: fastapi.FastAPI, check: Callable[[requests.Request], object]) -> None:
    """Registers the handlers that turn errors of the application into replies.

    Args:
        app: Application.
        check: Checks a request against the release, for errors other than wrong types.
    """

    @app.exception_handler(errors.ServingError)
    async def refused(_: fastapi.Request, error: errors.ServingError) -> responses.Response:
        return reply_to(error)

    @app.exception_handler(exceptions.RequestValidationError)
    async def malformed(
        request: fastapi.Request, error: exceptions.RequestValidationError
    ) -> responses.Response:
        details = error.errors()
        first = details[0]
        if isinstance(first.get("input"), bytes):
            # FastAPI parses only bodies declared as JSON.
            got = repr(request.headers.get("content-type", "none"))
            return _other_type(f"the header 'content-type: application/json', got {got}")
        if first["type"] == "json_invalid":
            reason = first.get("ctx", {}).get("error", "cannot be parsed")
            where = f"{reason} at character {first['loc'][-1]}"
            return reply(400, "malformed_json", f"The body is not valid JSON: {where}.")
        body = request.scope["route"].body_field
        model = pydantic.BaseModel if body is None else body.field_info.annotation
        # The first part of a location is "body".
        faults = [{**detail, "loc": detail["loc"][1:]} for detail in details]
        refusal = requests.refusal(model, faults)
        # A key that is not valid text is an error of the whole body.
        if (
            model is requests.Request
            and isinstance(error.body, dict)
            and all(d["loc"] for d in faults)
        ):
            refusal = _with_other_faults(refusal, error.body, {d["loc"][0] for d in faults}, check)
        return reply_to(refusal)

    @app.exception_handler(starlette.exceptions.HTTPException)
    async def http_error(
        request: fastapi.Request, error: starlette.exceptions.HTTPException
    ) -> responses.Response:
        if error.status_code == 400 and error.__cause__ is not None:
            return _unparsed(request, error.__cause__)
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        # A URL would lose a line break.
        message = f"{request.method} {request.scope['path']}: {error.detail}"
        headers = error.headers if error.status_code != 405 else {"allow": _methods(request)}
        return reply(error.status_code, code, message, headers)

    @app.exception_handler(Exception)
    async def failed(_: fastapi.Request, error: Exception) -> responses.Response:
        # The server logs the stack trace; the caller does not see it.
        return reply(500, "internal", "The service failed; its log has the reason.")


def _methods(request: fastapi.Request) -> str:
    """Returns the methods of a path, for the header `allow`; Starlette names those of one route."""
    matching = [
        route
        for route in request.app.routes
        if route.matches(request.scope)[0] is not routing.Match.NONE
    ]
    return ", ".join(
        sorted({method for route in matching for method in getattr(route, "methods", ())})
    )


def _with_other_faults(
    error: errors.InvalidRequestError,
    body: Mapping[str, Any],
    faulty: Set[str],
    check: Callable[[requests.Request], object],
) -> errors.InvalidRequestError:
    """Returns an error that also covers the keys of a body whose types are right."""
    try:
        check(requests.Request(**{key: body[key] for key in body.keys() - faulty}))
    except errors.InvalidRequestError as more:
        return requests.joined([error, more])
    return error


def _unparsed(request: fastapi.Request, cause: BaseException) -> responses.Response:
    """Returns why FastAPI could not parse a body."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        return _other_type(f"a body that is not compressed, got 'content-encoding: {encoding}'")
    if isinstance(cause, RecursionError):
        reason = "it is nested too deeply"
    elif isinstance(cause, UnicodeDecodeError):
        reason = f"it is not UTF-8 text from byte {cause.start} on"
    else:
        # Python refuses to read long integers; there is no other cause.
        reason = "a number has too many digits"
    return reply(400, "malformed_json", f"The body is not valid JSON: {reason}.")


def _other_type(expected: str) -> responses.Response:
    return reply(415, "unsupported_media_type", f"Expected {expected}.")
