"""A process of the service: loads the release, connects to the ranker, and serves."""

import dataclasses
import functools
import gc
import logging
import pathlib
import signal
import socket
import sys
import threading
from collections.abc import Callable

from absl import logging as absl_logging

from serving import errors, manifest, orchestrator, ranker, releases, requests, users
from serving.config import (
    DEFAULT_MAX_BODY_BYTES,
    HttpConfig,
    ImpressionLogConfig,
    OrchestratorConfig,
    UserStoreConfig,
)
from serving.health import Health
from serving.impressions import FeedbackLog, ImpressionLog
from serving.service import http_server, log_format, release_follower, release_router
from serving.service.rest import app

_logger = logging.getLogger(__name__)
# With Python's default of 5 ms, the event loop and other requests wait that long for the GIL while
# a thread searches the index (docs/results.md#requests).
_SWITCH_INTERVAL_SECONDS = 0.0005


@dataclasses.dataclass(frozen=True)
class ServiceSettings:
    """Settings of a process of the service.

    Attributes:
        base: Base directory of the bundles.
        version: Release version. None: follow the stable release and the canary.
        ranker_address: host:port of the model server, or of several; see `ranker.target`.
        orchestrator: Options of the orchestrator.
        http: Options of the HTTP server.
        token: Bearer token that requests must carry. None: no token is required.
        max_body_bytes: Maximum size of a request body in bytes; larger ones get 413.
        impression_directory: Directory of the impression log. None: no log.
        impressions: Options of the impression log.
        user_store: Address of the user store, as `users.open_store` takes it. None: no store.
        users: Options of the user store.
        json_logs: Whether to write logs as JSON, including a line for each request.
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
    user_store: str | None = None
    users: UserStoreConfig = dataclasses.field(default_factory=UserStoreConfig)
    json_logs: bool = False


def serve_until_signal(
    settings: ServiceSettings, listening: socket.socket, announce: Callable[[], None]
) -> None:
    """Serves until a signal. Exits with a one-line message if the service cannot be started.

    Args:
        settings: Settings of the process.
        listening: Bound socket.
        announce: Called once the process serves.
    """
    prepare_logs(settings.json_logs)
    # uvicorn drains and then raises the signal again.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        serve_release(settings, load_stable_release(settings), listening, announce)
    except (errors.ServingError, OSError) as error:
        sys.exit(f"error: {error}")


def prepare_logs(json_logs: bool) -> None:
    """Configures the logging of this process.

    Args:
        json_logs: Whether to write logs as JSON.
    """
    # Changes of releases are logged even if other messages of this level are not.
    logging.getLogger(release_follower.__name__).setLevel(logging.INFO)
    if json_logs:
        log_format.use_json()
    else:
        root = logging.getLogger()
        if not root.handlers:  # A spawned process, whose lines would have no time.
            handler = logging.StreamHandler()
            handler.setFormatter(absl_logging.PythonFormatter())
            root.addHandler(handler)
        # Commands show errors only, but a service keeps running, so its warnings matter.
        root.setLevel(logging.WARNING)


def say(line: str, json_logs: bool) -> None:
    """Prints a line for the person who starts the service, or logs it.

    Args:
        line: The line.
        json_logs: Whether logs are JSON.
    """
    if json_logs:
        _logger.info("%s", line)
    else:
        print(line, flush=True)


def check_first_release(settings: ServiceSettings) -> None:
    """Checks that the first release fits the settings, before it is loaded.

    Args:
        settings: Settings of each process.

    Raises:
        InvalidRequestError: The rules are not valid, or name fields that the release does not have.
    """
    try:
        version = settings.version or releases.stable(settings.base)
        release = manifest.read(settings.base, version)
    except errors.BundleError:
        # Loading the release reports the error, or falls back to an earlier release.
        return
    requests.Validator(
        release,
        settings.orchestrator.default_k,
        settings.orchestrator.max_k,
        settings.orchestrator.rules,
        limits=None if settings.user_store is None else settings.users.limits,
    )


def load_stable_release(settings: ServiceSettings) -> releases.Bundle:
    """Loads and verifies the first release to serve.

    Args:
        settings: Settings of the process.

    Raises:
        BundleError: The release cannot be served.
    """
    # Imports create hundreds of thousands of objects. Without the freeze, the garbage collection
    # after each change of release would visit all of them and pause all requests.
    gc.collect()
    gc.freeze()
    if settings.version is None:
        return release_follower.load_first(settings.base)
    return releases.load(settings.base, settings.version)


def serve_release(
    settings: ServiceSettings,
    release: releases.Bundle,
    listening: socket.socket,
    announce: Callable[[], None],
) -> None:
    """Serves until a signal.

    Args:
        settings: Settings of the process.
        release: Loaded release to start with.
        listening: Bound socket.
        announce: Called once the port listens.

    Raises:
        ImpressionLogError: The directory of the impression log is not writable.
        UserStoreError: The user store cannot be opened.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    # All releases share admission control, and the metrics and the impression log, which record the
    # version.
    metrics = orchestrator.ServiceMetrics()
    health = Health(metrics.observe_problem)
    admitting = orchestrator.Admission(
        settings.orchestrator.max_in_flight,
        settings.orchestrator.max_ads_in_flight,
        metrics.in_flight,
    )
    impressions = None
    if settings.impression_directory is not None:
        impressions = ImpressionLog(
            settings.impression_directory,
            settings.impressions,
            observe=functools.partial(metrics.count, "impression_rows"),
            health=health,
        )
    user_data, feedback = None, None
    if settings.user_store is not None:
        store = users.open_store(settings.user_store, settings.users)
        user_data = orchestrator.UserData(store, settings.users, metrics, health)
        if settings.impression_directory is not None:
            feedback = FeedbackLog(settings.impression_directory, health=health)

    def connect(loaded: releases.Bundle) -> orchestrator.Orchestrator:
        return orchestrator.Orchestrator(
            loaded,
            ranker.connect(loaded, settings.ranker_address),
            settings.orchestrator,
            metrics=metrics,
            impressions=impressions,
            admitting=admitting,
            users=user_data,
            health=health,
        )

    router = release_router.ReleaseRouter(connect(release))
    del release  # Only the router may hold a reference, so that old releases are freed.
    follower = None
    if settings.version is None:
        follower = release_follower.ReleaseFollower(settings.base, router, connect)
    draining = threading.Event()
    application = app.create_app(
        router,
        follower=follower,
        max_body_bytes=settings.max_body_bytes,
        token=settings.token,
        feedback=feedback,
        draining=draining,
    )
    server = http_server.HttpServer(
        application,
        draining,
        settings.http,
        own_logs=not settings.json_logs,
        announce=announce,
    )
    try:
        http_server.raise_file_limit()
        server.run([listening])
    finally:
        # If the application was started, it has closed the log already.
        if impressions is not None:
            impressions.close()


def announce(settings: ServiceSettings, listening: socket.socket) -> None:
    """Prints or logs the URLs of the service.

    Args:
        settings: Settings of its processes.
        listening: Socket that listens.
    """
    host, port = listening.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    scheme = "http" if settings.http.tls_certificate is None else "https"
    url = f"{scheme}://{host}:{port}"
    say(f"recommendations on {url}/v1/recommend", settings.json_logs)
    say(f"console on {url}/console, API on {url}/docs", settings.json_logs)
