"""One process of the service: loads the release, joins it with the ranker, and serves."""

import dataclasses
import gc
import logging
import pathlib
import signal
import socket
import sys

from serving import (
    app,
    body_limit,
    bundle,
    errors,
    http_server,
    impression_log,
    lifecycle,
    log_format,
    orchestrator,
    ranker_client,
    release_follower,
    release_router,
    service_metrics,
)


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
    orchestrator: orchestrator.OrchestratorConfig
    http: http_server.HttpConfig
    token: str | None = None
    max_body_bytes: int = body_limit.DEFAULT_MAX_BYTES
    impression_directory: str | None = None
    impressions: impression_log.ImpressionLogConfig = dataclasses.field(
        default_factory=impression_log.ImpressionLogConfig
    )
    json_logs: bool = False


def serve(settings: ServiceSettings, listening: socket.socket) -> None:
    """Serves until a signal; whatever goes wrong before is one line.

    Args:
        settings: What is served, and how.
        listening: Bound.
    """
    prepare_logs(settings.json_logs)
    # uvicorn drains and then raises the signal again.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        serve_release(settings, load(settings), listening)
    except (errors.ServingError, OSError) as error:
        sys.exit(f"error: {error}")


def prepare_logs(json_logs: bool) -> None:
    """Sets what is logged, and how."""
    # Changes of release are worth a line, whatever else is quiet.
    logging.getLogger(release_follower.__name__).setLevel(logging.INFO)
    if json_logs:
        log_format.use_json()


def load(settings: ServiceSettings) -> bundle.Bundle:
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
    return bundle.load(settings.base, settings.version)


def serve_release(
    settings: ServiceSettings, release: bundle.Bundle, listening: socket.socket
) -> None:
    """Serves until a signal, beginning with a loaded release.

    Raises:
        ImpressionLogError: The log's directory cannot be written.
    """
    # One page and one log for all releases, each under its version.
    metrics = service_metrics.ServiceMetrics()
    impressions = None
    if settings.impression_directory is not None:
        impressions = impression_log.ImpressionLog(
            settings.impression_directory, settings.impressions
        )

    def connect(joined: bundle.Bundle) -> orchestrator.Orchestrator:
        client = ranker_client.RankerClient(
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
