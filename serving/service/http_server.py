"""Runs the REST service until a signal, and stops it without losing a request.

first signal         /readyz returns `draining`; requests are still answered, but each response
                     closes its connection, so that load balancers and clients go elsewhere
after drain_seconds  the port is closed, and the process exits once requests in flight are answered
second signal        skips the wait
"""

import logging
import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette import types

from serving.config import HttpConfig
from serving.service import log_format

# Keep-alive time of an idle connection. It exceeds that of the large clouds' load balancers (up to
# 600 s), because a request that a balancer sends while the service closes the connection is lost.
_IDLE_SECONDS = 620
# Clients can cause any number of records of these loggers, such as one per request whose ranker
# call times out, so they are rate-limited.
_LOUD_LOGGERS = ("uvicorn.error", "asyncio", "serving.ranker.verified_ranker")
_limited = log_format.OncePerSecond()


class HttpServer(uvicorn.Server):
    """Serves an application on bound sockets."""

    def __init__(
        self,
        app: types.ASGIApp,
        draining: threading.Event,
        config: HttpConfig | None = None,
        *,
        own_logs: bool = True,
        announce: Callable[[], None] = lambda: None,
    ) -> None:
        """Creates a server."""
        http = config or HttpConfig()
        self._drain_seconds = http.drain_seconds
        self._draining = draining
        self._announce = announce
        self._close_at: float | None = None
        for name in _LOUD_LOGGERS:
            logging.getLogger(name).addFilter(_limited)
        options = {} if own_logs else {"log_config": None}
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
                loop="uvloop",
                ws="none",
                proxy_headers=False,
                log_level="warning",
                access_log=False,
                server_header=False,
                limit_concurrency=http.max_connections,
                timeout_keep_alive=_IDLE_SECONDS,
                timeout_graceful_shutdown=http.end_seconds,
                ssl_certfile=http.tls_certificate,
                ssl_keyfile=http.tls_key,
                **options,  # type: ignore[arg-type]
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts the application, and then accepts connections."""
        await super().startup(sockets)
        self._announce()

    def begin_to_end(self) -> None:
        """Starts to drain. A second call closes the port immediately."""
        if self._close_at is not None:
            self._close_at = 0.0
            return
        self._draining.set()
        self._close_at = time.monotonic() + self._drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handles a signal: the first starts to drain, the second skips the wait."""
        if self.should_exit:
            super().handle_exit(sig, frame)
            return
        self._captured_signals.append(sig)
        self.begin_to_end()

    async def on_tick(self, counter: int) -> bool:
        """Returns whether to close the port; called ten times a second."""
        if self._close_at is not None and time.monotonic() >= self._close_at:
            self.should_exit = True
        return await super().on_tick(counter)


def check_tls(config: HttpConfig) -> None:
    """Checks certificate and key, so that the service fails before it starts anything.

    Raises:
        ValueError: The files are not a matching pair of certificate and key.
    """
    if config.tls_certificate is None:
        if config.tls_key is not None:
            raise ValueError("A TLS key was given without a certificate; set both.")
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            config.tls_certificate, config.tls_key
        )
    except (OSError, ssl.SSLError) as error:
        raise ValueError(
            f"TLS cannot be enabled ({error}); expected a PEM certificate in "
            f"{config.tls_certificate} and its key in {config.tls_key or 'the same file'}."
        ) from error


def raise_file_limit() -> None:
    """Raises this process's limit of open files, which limits the connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
