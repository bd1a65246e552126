"""One process of the service: loads the release, joins it with the ranker, and serves."""

import dataclasses
import gc
import logging
import pathlib
import signal
import socket
import sys

from serving import errors, orchestrator, ranker, releases
from serving.config import (
    DEFAULT_MAX_BODY_BYTES,
    HttpConfig,
    ImpressionLogConfig,
    OrchestratorConfig,
)
from serving.impressions import ImpressionLog
from serving.service import (
    http_server,
    lifecycle,
    log_format,
    release_follower,
    release_router,
)
from serving.service.rest import app


@dataclasses.dataclass(frozen=True)
class ServiceSettings:
    """What a process needs to know.

    Attributes:
        base: Base directory of the bundles.
        version: The release, or None: what the base directory names, followed.
        ranker_address: host:port of the model server.
        orchestrator: How requests are answered.
        http: How connections are taken.
        token: Bearer token that requests must carry, or None.
        max_body_bytes: Larger bodies get 413.
        impression_directory: Where what was shown is logged, or None.
        impressions: How it is logged.
        json_logs: Whether logs, with a line for each request, are written as JSON.
    """

    base: pathlib.Path
    version: int | None
    ranker_address: str
    orchestrator: OrchestratorConfig
    http: HttpConfig
    token: str | None = None
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES
    impression_directory: str | None = None
    impressions: ImpressionLogConfig = dataclasses.field(default_factory=ImpressionLogConfig)
    json_logs: bool = False


def serve_until_signal(settings: ServiceSettings, listening: socket.socket) -> None:
    """Serves until a signal; whatever goes wrong before is one line.

    Args:
        settings: What is served, and how.
        listening: Bound.
    """
    prepare_logs(settings.json_logs)
    # uvicorn drains and then raises the signal again.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        serve_release(settings, load_stable_release(settings), listening)
    except (errors.ServingError, OSError) as error:
        sys.exit(f"error: {error}")


def prepare_logs(json_logs: bool) -> None:
    """Sets what is logged, and how."""
    # Changes of release are worth a line, whatever else is quiet.
    logging.getLogger(release_follower.__name__).setLevel(logging.INFO)
    if json_logs:
        log_format.use_json()


def load_stable_release(settings: ServiceSettings) -> releases.Bundle:
    """Loads and verifies the release to begin with.

    Raises:
        BundleError: It cannot be served.
    """
    # Imports are hundreds of thousands of objects; the collection after each change of release
    # would look at all of them, and stop all requests for as long.
    gc.collect()
    gc.freeze()
    if settings.version is None:
        return release_follower.load_first(settings.base)
    return releases.load(settings.base, settings.version)


def serve_release(
    settings: ServiceSettings, release: releases.Bundle, listening: socket.socket
) -> None:
    """Serves until a signal, beginning with a loaded release.

    Raises:
        ImpressionLogError: The log's directory cannot be written.
    """
    # One page and one log for all releases, each under its version.
    metrics = orchestrator.ServiceMetrics()
    impressions = None
    if settings.impression_directory is not None:
        impressions = ImpressionLog(settings.impression_directory, settings.impressions)

    def connect(joined: releases.Bundle) -> orchestrator.Orchestrator:
        client = ranker.RankerClient(
            settings.ranker_address,
            version=joined.version,
            outputs=joined.manifest.outputs.values(),
        )
        return orchestrator.Orchestrator(
            joined, client, settings.orchestrator, metrics=metrics, impressions=impressions
        )

    router = release_router.ReleaseRouter(connect(release))
    del release  # Releases come and go: no name but the router's may hold one.
    follower = None
    if settings.version is None:
        follower = release_follower.ReleaseFollower(settings.base, router, connect)
    life = lifecycle.Lifecycle()
    application = app.create_app(
        router,
        follower=follower,
        max_body_bytes=settings.max_body_bytes,
        token=settings.token,
        life=life,
    )
    server = http_server.HttpServer(
        application, life, settings.http, own_logs=not settings.json_logs
    )
    try:
        http_server.run(server, [listening])
    finally:
        if impressions is not None:
            impressions.close()
