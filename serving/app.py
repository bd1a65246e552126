"""The REST service: the orchestrator behind FastAPI.

    POST /v1/recommend         a request -> an answer
    POST /v1/recommend/batch   {"requests": [...]} -> {"responses": [...]}
    GET  /v1/bundle            what is served
    GET  /healthz /readyz      liveness; whether full answers are to be expected

Errors are `{"error": {"code", "message"}}` with 400 (the request's content is refused, or it is
no JSON), 404, 405, 413 (too large), 422 (a value of the request has a wrong type) or 503.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import fastapi
import starlette.exceptions
import starlette.types
from fastapi import exceptions, responses

from serving import app_models, errors, orchestrator, query_fields

_DEFAULT_MAX_BODY_BYTES = 1_000_000


def create_app(
    service: orchestrator.Orchestrator, *, max_body_bytes: int = _DEFAULT_MAX_BODY_BYTES
) -> fastapi.FastAPI:
    """Returns the ASGI application; it closes the orchestrator when it ends.

    Args:
        service: Answers the requests.
        max_body_bytes: Larger bodies get 413.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
        # Beside the start, so that the first request does not pay for it.
        checking = asyncio.create_task(_verify(service))
        preparing = asyncio.create_task(asyncio.to_thread(service.release.ad_index.prepare_filters))
        yield
        checking.cancel()
        preparing.cancel()
        await service.close()

    app = fastapi.FastAPI(
        title="tfrec",
        summary="Ranked ads for a request",
        version=str(service.release.version),
        lifespan=lifespan,
        responses={status: {"model": app_models.ErrorBody} for status in (400, 413, 422, 500, 503)},
    )
    app.add_middleware(_BodyLimit, max_body_bytes=max_body_bytes)
    _add_error_handlers(app)
    _add_recommend_routes(app, service)
    _add_state_routes(app, service)
    return app


def _add_recommend_routes(app: fastapi.FastAPI, service: orchestrator.Orchestrator) -> None:
    @app.post("/v1/recommend", response_model=app_models.AnswerBody)
    async def recommend(body: app_models.RequestBody) -> responses.Response:
        """The best ads for one request, best first."""
        answer = await service.recommend(body.to_request())
        return responses.JSONResponse(answer.to_json())

    @app.post("/v1/recommend/batch", response_model=app_models.BatchAnswerBody)
    async def recommend_batch(body: app_models.BatchRequestBody) -> responses.Response:
        """The answers to many requests, in their order."""
        answers = await service.recommend_batch([item.to_request() for item in body.requests])
        return responses.JSONResponse({"responses": [answer.to_json() for answer in answers]})


def _add_state_routes(app: fastapi.FastAPI, service: orchestrator.Orchestrator) -> None:
    release = service.release.manifest

    @app.get("/v1/bundle")
    async def bundle() -> dict[str, Any]:
        """The release that is served: its fields, heads, index and metrics, and its updates."""
        return {
            "version": release.version,
            "created": release.created,
            "training_id": release.training_id,
            "dataset_fingerprint": release.dataset_fingerprint,
            "query_fields": release.query_fields,
            "ad_fields": release.ad_fields,
            "heads": release.heads,
            "index": release.index,
            "metrics": release.metrics,
            "live": service.live.status(),
        }

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> responses.Response:
        """Whether the ranker behind has proven to serve this release.

        It stays ready when a verified ranker goes away: answers in retrieval order are better
        than none. `degraded` says so.
        """
        await _verify(service, timeout_seconds=1.0)
        if service.not_ready:
            return _error(503, "not_ready", service.not_ready)
        return responses.JSONResponse({"status": "ready", "degraded": service.problem})


async def _verify(service: orchestrator.Orchestrator, timeout_seconds: float = 5.0) -> None:
    try:
        await service.verify_ranker(timeout_seconds)
    except errors.RankerError as error:
        logging.info("The ranker is not verified: %s", error)


def _add_error_handlers(app: fastapi.FastAPI) -> None:
    @app.exception_handler(errors.InvalidRequestError)
    async def refused(_: fastapi.Request, error: errors.InvalidRequestError) -> responses.Response:
        return _error(400, error.code, str(error))

    @app.exception_handler(errors.ServingError)
    async def unable(_: fastapi.Request, error: errors.ServingError) -> responses.Response:
        return _error(503, error.code, str(error))

    @app.exception_handler(exceptions.RequestValidationError)
    async def malformed(
        _: fastapi.Request, error: exceptions.RequestValidationError
    ) -> responses.Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            reason = first.get("ctx", {}).get("error", "cannot be parsed")
            return _error(400, "malformed_json", f"The body is no JSON: {reason}.")
        place = ".".join(str(part) for part in first["loc"])
        got = query_fields.short(first.get("input"))
        return _error(422, "invalid_body", f"{place}: {first['msg']}, got {got}.")

    @app.exception_handler(starlette.exceptions.HTTPException)
    async def http_error(
        request: fastapi.Request, error: starlette.exceptions.HTTPException
    ) -> responses.Response:
        codes = {404: "not_found", 405: "method_not_allowed"}
        message = f"{request.method} {request.url.path}: {error.detail}"
        return _error(error.status_code, codes.get(error.status_code, "http_error"), message)

    @app.exception_handler(Exception)
    async def failed(_: fastapi.Request, error: Exception) -> responses.Response:
        # The server logs the trace; the caller gets none.
        return _error(500, "internal", "The service failed; its log says why.")


def _error(status: int, code: str, message: str) -> responses.Response:
    # A message may quote half a surrogate pair from the request; UTF-8 cannot hold it.
    readable = message.encode("utf-8", "backslashreplace").decode()
    return responses.JSONResponse({"error": {"code": code, "message": readable}}, status)


class _BodyLimit:
    """Refuses large bodies before anything parses them."""

    def __init__(self, app: starlette.types.ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max = max_body_bytes

    async def __call__(
        self,
        scope: starlette.types.Scope,
        receive: starlette.types.Receive,
        send: starlette.types.Send,
    ) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        chunks: list[bytes] = []
        size = int(declared) if declared.isdigit() else 0
        more = size <= self._max
        size = size if not more else 0
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            more = message.get("more_body", False) and size <= self._max
        if size > self._max:
            text = f"The body has more than {self._max} bytes. Send smaller batches."
            await _error(413, "body_too_large", text)(scope, receive, send)
            return
        body: starlette.types.Message = {"type": "http.request", "body": b"".join(chunks)}
        pending = [body]

        async def replay() -> starlette.types.Message:
            return pending.pop() if pending else await receive()

        await self._app(scope, replay, send)
