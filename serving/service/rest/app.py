"""The REST service: the orchestrator behind FastAPI.

    POST /v1/recommend         `requests.Request` -> `requests.Answer`
    POST /v1/recommend/batch   {"requests": [...]} -> {"responses": [answer or error, ...]}
    POST /v1/events            with a user store, and /v1/users/{id}; `user_routes`
    GET  /v1/bundle            the served release
    GET  /healthz /readyz      liveness; whether the service expects to give full answers
    GET  /metrics              for Prometheus; `service_metrics` has the names
    GET  / /console /docs      pages to try requests and the API, /openapi.json

Errors are `{"error": {"code", "message"}}` with status 401 (no token), 404, 405, 413 (too large),
415 (the content type is not JSON), 422 (the request is not valid), 429 (it cannot be answered in
time; `retry-after`) or 503. HEAD is GET without a body.

Headers: `x-deadline-ms` is the time that the caller has left, if it is less than the request's own
deadline; `x-request-id` is the id of the request if its body has none, and is returned. That of a
batch is the id of the call.
"""

import asyncio
import contextlib
import json
import logging
import threading
from collections.abc import AsyncIterator
from typing import Annotated, Any

import fastapi
import prometheus_client
import pydantic
from fastapi import responses

from serving import errors, orchestrator
from serving.config import DEFAULT_MAX_BODY_BYTES, MAX_BATCH_SIZE
from serving.impressions import FeedbackLog
from serving.requests import Answer, ReleaseName, Request
from serving.service import release_follower, release_router
from serving.service.console import pages
from serving.service.rest import entrance, rest_errors, user_routes

_logger = logging.getLogger(__name__)

_DESCRIPTION = """\
Errors are `{"error": {"code", "message"}}`. The header `x-deadline-ms` is the time that the caller
has left, and `x-request-id` the id of a request whose body has none. Set `dry_run` in requests from
this page: they are then not logged as shown to a user."""
_Described = Annotated[ReleaseName, fastapi.Query(description="Release to describe.")]


class BatchRequest(pydantic.BaseModel):
    """Many requests."""

    model_config = pydantic.ConfigDict(extra="forbid")

    requests: list[Request] = pydantic.Field(max_length=MAX_BATCH_SIZE)


class ErrorDetail(pydantic.BaseModel):
    """Details of an error."""

    code: str
    message: str


class ErrorBody(pydantic.BaseModel):
    """Any error."""

    error: ErrorDetail


class BatchAnswer(pydantic.BaseModel):
    """The outcome of each request of a batch, in their order: an answer, or why there is none."""

    responses: list[Answer | ErrorBody]


_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request is refused."},
    "5XX": {"model": ErrorBody, "description": "The service cannot answer at the moment."},
}


def create_app(
    router: release_router.ReleaseRouter,
    *,
    follower: release_follower.ReleaseFollower | None = None,
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    token: str | None = None,
    feedback: FeedbackLog | None = None,
    draining: threading.Event | None = None,
) -> fastapi.FastAPI:
    """Returns the ASGI application, which closes its dependencies at shutdown.

    These are the orchestrators, their impression log and their user store.
    """
    draining = draining or threading.Event()
    # Otherwise each counter and histogram has a gauge of its time of creation, but only in a
    # service of one process.
    prometheus_client.disable_created_metrics()
    # Releases come and go: only the router may hold a reference to one.
    users, impressions = router.stable.users, router.stable.impressions

    @contextlib.asynccontextmanager
    async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
        # In the background, so that no request waits for it.
        tasks = [asyncio.create_task(_verify(router))]
        # Before the first request, which it would slow down.
        await asyncio.to_thread(router.stable.release.ad_index.prepare_filters)
        if follower is not None:
            tasks.append(asyncio.create_task(follower.run()))
        if users is not None:
            users.start_upkeep()
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if impressions is not None:
            # First, so that nothing slow to close can cost its unwritten rows.
            await asyncio.to_thread(impressions.close)
        await router.close()
        if users is not None:
            await users.close()

    app = fastapi.FastAPI(
        title="tfrec",
        summary="Ranked ads for a request",
        lifespan=lifespan,
        # A redirect would go to the host in the client's header.
        redirect_slashes=False,
        # Generated clients name their methods by it.
        generate_unique_id_function=lambda route: route.name,
        description=_DESCRIPTION,
        version="1",
        responses=_ERRORS,
        # `pages` has its own, which loads nothing from other hosts.
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(
        entrance.Entrance,
        draining=draining,
        metrics=router.stable.metrics,
        admission=router.stable.admission,
        deadlines_ms={
            "/v1/recommend": router.stable.config.default_deadline_ms,
            "/v1/recommend/batch": router.stable.config.batch_deadline_ms,
        },
        max_body_bytes=max_body_bytes,
        token=token,
    )
    rest_errors.add_handlers(app)
    _add_recommend_routes(app, router)
    _add_state_routes(app, router, draining)
    if users is not None:
        user_routes.add_routes(app, router, feedback)
    else:
        user_routes.add_refusals(app)
    pages.add_routes(app)
    if token is not None:
        # Swagger UI then asks for it.
        document = app.openapi()
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return app


def _add_recommend_routes(app: fastapi.FastAPI, router: release_router.ReleaseRouter) -> None:
    config = router.stable.config

    @app.post("/v1/recommend", response_model=Answer)
    async def recommend(body: Request, http: fastapi.Request) -> responses.Response:
        """Returns the best ads for one request, best first."""
        request = entrance.with_deadline(body, http.headers, config.default_deadline_ms)
        if request.request_id is None:
            request = request.model_copy(update={"request_id": http.scope[entrance.REQUEST_ID]})
        answer = await router.recommend(request, http.scope[entrance.STARTED])
        # The id in the body of the request, if it has one.
        http.scope[entrance.REQUEST_ID] = answer.request_id
        notes = http.scope[entrance.NOTES]
        notes["bundle_version"] = answer.bundle_version
        notes["degraded"] = answer.degraded
        notes["stage_ms"] = {stage: round(value, 3) for stage, value in answer.stage_ms.items()}
        return _json_text(answer.model_dump_json())

    @app.post("/v1/recommend/batch", response_model=BatchAnswer)
    async def recommend_batch(body: BatchRequest, http: fastapi.Request) -> responses.Response:
        """Returns the outcome of each request: its answer, or the error of this request."""
        num_ads = sum(router.stable.num_ads(request) for request in body.requests)
        if num_ads > config.max_ads_per_call:
            raise fastapi.HTTPException(
                413,
                f"expected at most {config.max_ads_per_call} ads in a call, the sum of k and of "
                f"requested candidates, got {num_ads}; send several batches, or a smaller k",
            )
        http.scope[entrance.NOTES]["requests"] = len(body.requests)

        async def answer(request: Request) -> str:
            timed = entrance.with_deadline(request, http.headers, config.batch_deadline_ms)
            answered = await router.recommend(timed, http.scope[entrance.STARTED])
            return answered.model_dump_json()

        outcomes = await orchestrator.answer_each(answer, body.requests, config.requests_per_call)
        parts = [
            one if isinstance(one, str) else json.dumps(rest_errors.body(one.code, str(one)))
            for one in outcomes
        ]
        return _json_text(f'{{"responses":[{",".join(parts)}]}}')


def _json_text(text: str) -> responses.Response:
    return responses.Response(text, media_type="application/json")


def _add_state_routes(
    app: fastapi.FastAPI, router: release_router.ReleaseRouter, draining: threading.Event
) -> None:
    health = router.stable.health

    @app.get("/v1/bundle")
    async def bundle(release: _Described = "stable") -> dict[str, Any]:
        """Describes a release (fields, heads, index, metrics, updates) and all loaded releases.

        Without a canary, `canary` means the stable release, as for requests.
        """
        await router.observe()
        described = orchestrator.describe_release(router.serving(release))
        return {**described, "releases": router.status(), "problems": health.problems}

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Returns 200 if the process is alive."""
        return {"status": "ok"}

    @app.get("/readyz", response_model=dict[str, Any])
    async def readyz() -> responses.Response:
        """Returns 200 if the ranker has been verified for this release.

        The service stays ready when a verified ranker becomes unavailable: answers in retrieval
        order are better than none. `problems` says why, for each part that has one.
        """
        if draining.is_set():
            return rest_errors.reply(503, "draining", "The service is shutting down.")
        service = router.stable
        if service.not_ready:
            await _verify(router, timeout_seconds=1.0)
        if service.not_ready:
            return rest_errors.reply(503, "not_ready", service.not_ready)
        return responses.JSONResponse({"status": "ready", "problems": health.problems})

    @app.get("/metrics", response_class=responses.PlainTextResponse)
    async def metrics() -> responses.Response:
        """Returns counters and histograms in the Prometheus text format."""
        await router.observe()
        text = await asyncio.to_thread(router.stable.metrics.render)
        return responses.Response(text, media_type=orchestrator.METRICS_CONTENT_TYPE)


async def _verify(router: release_router.ReleaseRouter, timeout_seconds: float = 5.0) -> None:
    try:
        await router.verify_ranker(timeout_seconds)
    except errors.RankerError as error:
        _logger.info("The ranker is not verified: %s", error)
