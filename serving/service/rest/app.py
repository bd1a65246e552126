"""The REST service: the orchestrator behind FastAPI.

    POST /v1/recommend         a request -> an answer
    POST /v1/recommend/batch   {"requests": [...]} -> {"responses": [...]}
    GET  /v1/bundle            what is served
    GET  /healthz /readyz      liveness; whether full answers are to be expected
    GET  /metrics              for Prometheus; `service_metrics` has their names
    GET  /openapi.json         the API, with examples of the release; `openapi`
    GET  /console /docs        pages to try requests and the API; `pages` has their files

Errors are `{"error": {"code", "message"}}` with 400 (the request's content is refused, or it is
no JSON), 401 (no token), 404, 405, 408 (the body came too slowly), 413 (too large), 415 (not said
to be JSON, or compressed), 422 (a value of the request has a wrong type), 429 (too many requests
are in hand; `retry-after`) or 503. HEAD is GET without its body.

Headers: `x-deadline-ms` is the time that the caller has left, where it is less than the
request's own deadline; `x-request-id` names the request where its body does not, and comes back.
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator
from typing import Any

import fastapi
from fastapi import responses

from serving import errors, orchestrator
from serving.config import DEFAULT_MAX_BODY_BYTES
from serving.requests import Answer, Request
from serving.service import lifecycle, release_follower, release_router
from serving.service.console import pages
from serving.service.rest import (
    body_limit,
    entrance,
    request_deadline,
    rest_errors,
    schemas,
)
from serving.service.rest.openapi import RESPONSE_HEADERS, openapi_document, refusals


def create_app(
    service: orchestrator.Orchestrator | release_router.ReleaseRouter,
    *,
    follower: release_follower.ReleaseFollower | None = None,
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    max_body_seconds: float = body_limit.DEFAULT_SECONDS,
    token: str | None = None,
    life: lifecycle.Lifecycle | None = None,
) -> fastapi.FastAPI:
    """Returns the ASGI application; it closes the orchestrators when it ends.

    Args:
        service: Answers the requests: one release, or what chooses one for each request.
        follower: Changes the releases of `service` as the disk says; None = they stay.
        max_body_bytes: Larger bodies get 413.
        max_body_seconds: Bodies that take longer to come get 408.
        token: Bearer token that requests must carry, but for health, readiness and the pages;
            None = none.
        life: Tells when the service is about to end; None = never.
    """
    life = life or lifecycle.Lifecycle()

    router = (
        service
        if isinstance(service, release_router.ReleaseRouter)
        else release_router.ReleaseRouter(service)
    )
    # Releases come and go: no name but the router's may hold one.
    metrics = router.stable.metrics
    del service

    @contextlib.asynccontextmanager
    async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
        # Beside the start, so that the first request does not pay for it.
        checking = asyncio.create_task(_verify(router))
        index = router.stable.release.ad_index
        preparing = asyncio.create_task(asyncio.to_thread(index.prepare_filters))
        del index
        tasks = [checking, preparing]
        if follower is not None:
            tasks.append(asyncio.create_task(follower.run()))
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await router.close()

    app = fastapi.FastAPI(
        title="tfrec",
        summary="Ranked ads for a request",
        lifespan=lifespan,
        # `openapi` and `pages` have their own, which load nothing from elsewhere.
        openapi_url=None,
    )
    # The last is the outermost.
    app.add_middleware(body_limit.BodyLimit, max_bytes=max_body_bytes, max_seconds=max_body_seconds)
    app.add_middleware(entrance.Entrance, life=life, metrics=metrics, token=token)
    rest_errors.add_handlers(app)
    _add_recommend_routes(app, router)
    _add_state_routes(app, router, follower, life)
    _add_metrics_route(app, metrics)
    pages.add_routes(app)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> responses.Response:
        open_paths = None if token is None else entrance.OPEN_PATHS
        return responses.JSONResponse(openapi_document(app, router.stable, open_paths))

    return app


def _add_recommend_routes(app: fastapi.FastAPI, router: release_router.ReleaseRouter) -> None:
    described: dict[str, Any] = {
        "responses": refusals(400, 401, 408, 413, 415, 422, 429, 500, 503),
        "openapi_extra": RESPONSE_HEADERS,
    }

    @app.post("/v1/recommend", response_model=schemas.AnswerBody, **described)
    async def recommend(body: schemas.RequestBody, http: fastapi.Request) -> responses.Response:
        """The best ads for one request, best first."""
        (request,) = _timed([body], http, router.stable.config.default_deadline_ms)
        if request.request_id is None:
            request = dataclasses.replace(request, request_id=http.scope[entrance.REQUEST_ID])
        answer = await router.recommend(request, http.scope[entrance.STARTED])
        _note(http, [answer])
        return responses.JSONResponse(answer.to_json())

    @app.post("/v1/recommend/batch", response_model=schemas.BatchAnswerBody, **described)
    async def recommend_batch(
        body: schemas.BatchRequestBody, http: fastapi.Request
    ) -> responses.Response:
        """The answers to many requests, in their order."""
        requests = _timed(body.requests, http, router.stable.config.batch_deadline_ms)
        answers = await router.recommend_batch(requests, http.scope[entrance.STARTED])
        _note(http, answers)
        return responses.JSONResponse({"responses": [answer.to_json() for answer in answers]})


def _timed(
    bodies: list[schemas.RequestBody], http: fastapi.Request, default_ms: float
) -> list[Request]:
    """Returns the requests, each with the shorter of its deadline and the header's."""
    milliseconds = request_deadline.of(http.headers)
    return [
        request_deadline.applied(body.to_request(), milliseconds, default_ms) for body in bodies
    ]


def _note(http: fastapi.Request, answers: list[Answer]) -> None:
    """Gives the access log what is worth knowing of the answers."""
    notes = http.scope[entrance.NOTES]
    notes["answers"] = len(answers)
    if answers:
        # That of the request's body, where it has one.
        http.scope[entrance.REQUEST_ID] = answers[0].request_id
        notes["bundle_version"] = answers[0].bundle_version
        notes["degraded"] = next((answer.degraded for answer in answers if answer.degraded), None)
        notes["stage_ms"] = {stage: round(value, 3) for stage, value in answers[0].stage_ms.items()}


def _add_state_routes(
    app: fastapi.FastAPI,
    router: release_router.ReleaseRouter,
    follower: release_follower.ReleaseFollower | None,
    life: lifecycle.Lifecycle,
) -> None:
    def refused() -> str | None:
        return None if follower is None else follower.problem

    @app.get("/v1/bundle", responses=refusals(401, 500))
    async def bundle() -> dict[str, Any]:
        """The stable release: fields, heads, index, metrics, updates; and every loaded one."""
        stable = orchestrator.describe_release(router.stable)
        return {**stable, "releases": router.status(), "refused": refused()}

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/readyz", response_model=schemas.ReadyBody, responses=refusals(503))
    async def readyz() -> responses.Response:
        """Whether the ranker behind has proven to serve this release.

        It stays ready when a verified ranker goes away: answers in retrieval order are better
        than none. `degraded` says so.
        """
        if life.draining:
            return rest_errors.reply(503, "draining", "The service is about to end.")
        await _verify(router, timeout_seconds=1.0)
        service = router.stable
        if service.not_ready:
            return rest_errors.reply(503, "not_ready", service.not_ready)
        status = {"status": "ready", "degraded": service.problem}
        if refused() is not None:
            status["refused"] = refused()
        return responses.JSONResponse(status)


def _add_metrics_route(app: fastapi.FastAPI, metrics: orchestrator.ServiceMetrics) -> None:
    @app.get(
        "/metrics",
        response_class=responses.PlainTextResponse,
        responses=refusals(401, 500),
    )
    async def page() -> responses.Response:
        """Counters and histograms in Prometheus' text format."""
        text = await asyncio.to_thread(metrics.render)
        return responses.Response(text, media_type=orchestrator.METRICS_CONTENT_TYPE)


async def _verify(router: release_router.ReleaseRouter, timeout_seconds: float = 5.0) -> None:
    try:
        await router.stable.verify_ranker(timeout_seconds)
    except errors.RankerError as error:
        logging.info("The ranker is not verified: %s", error)
