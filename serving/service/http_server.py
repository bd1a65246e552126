"""Runs the REST service until a signal and shuts it down without losing a request.

first signal         /readyz returns `draining`; requests are still answered, but each response
                     closes its connection, so that load balancers and clients go elsewhere
after drain_seconds  the port is closed, and connections that wait in its queue are accepted; the
                     process exits once requests in flight are answered
second signal        skips the wait
"""

import asyncio
import errno
import functools
import logging
import resource
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
import uvicorn.config
from starlette import types

from serving import errors
from serving.config import HttpConfig
from serving.service import connections, listener, log_format

# Open files of a process other than connections: libraries, the index, the ranker, logs.
_OTHER_FILES = 200
# Clients can cause any number of records of these loggers, such as one per request whose ranker
# call is late, so they are rate-limited.
_LOUD_LOGGERS = (
    "uvicorn.error",
    "asyncio",
    listener.__name__,
    "serving.ranker.verified_ranker",
)
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
        announce: Callable[[], None] | None = None,
    ) -> None:
        """Creates a server.

        Args:
            app: ASGI application.
            draining: Event shared with the application; set on shutdown.
            config: Options. None: the defaults.
            own_logs: Whether uvicorn configures its own logging. False: it logs to the root logger.
            announce: Called once the port listens. None: not called.
        """
        self._http = config or HttpConfig()
        self._draining = draining
        self._announce = announce or (lambda: None)
        self._close_at: float | None = None
        self._listeners: list[listener.Listener] = []
        self._idle: dict[connections.TimedConnection, None] = {}
        for name in _LOUD_LOGGERS:
            logging.getLogger(name).addFilter(_limited)
        options = {} if own_logs else {"log_config": None}
        super().__init__(
            uvicorn.Config(
                app,
                http=connections.TimedConnection,
                h11_max_incomplete_event_size=connections.MAX_HEAD_BYTES,
                ws="none",
                proxy_headers=False,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_keep_alive=connections.IDLE_SECONDS,
                timeout_graceful_shutdown=self._http.end_seconds,
                ssl_certfile=self._http.tls_certificate,
                ssl_keyfile=self._http.tls_key,
                **options,  # type: ignore[arg-type]
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts the application, and then accepts connections.

        Raises:
            ServerStartError: Another process listens at the address of a socket.
        """
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(uvicorn.config.STARTUP_FAILURE)
        # uvicorn closes its own servers; the listeners replace them.
        self.servers = []
        try:
            for bound in sockets or []:
                self._listen(bound)
        except BaseException:
            # Otherwise uvicorn logs a traceback of the application that is canceled.
            await self.lifespan.shutdown()
            raise
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Closes the port, answers the accepted requests, and stops the application."""
        self._draining.set()
        await asyncio.gather(*(port_listener.close() for port_listener in self._listeners))
        await super().shutdown(sockets)

    def begin_to_end(self) -> None:
        """Starts to drain. A second call closes the port immediately."""
        if self._close_at is not None:
            self._close_at = 0.0
            return
        self._draining.set()
        self._close_at = time.monotonic() + self._http.drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handles a signal: the first starts to drain, the second skips the wait."""
        if self._draining.is_set() and self.should_exit:
            super().handle_exit(sig, frame)
            return
        self._captured_signals.append(sig)
        self.begin_to_end()

    async def on_tick(self, counter: int) -> bool:
        """Returns whether to close the port; called ten times a second."""
        if self._close_at is not None and time.monotonic() >= self._close_at:
            self.should_exit = True
        return await super().on_tick(counter)

    def _listen(self, bound: socket.socket) -> None:
        host, port = bound.getsockname()[:2]
        listening = listener.Listener(
            bound,
            functools.partial(
                connections.TimedConnection,
                self.config,
                self.server_state,
                self.lifespan.state,
                self._idle,
            ),
            self._has_room,
            functools.partial(connections.close_oldest, self._idle),
            self.config.ssl,
            connections.HEAD_SECONDS,
        )
        try:
            listening.start()
        except OSError as error:
            raise cannot_serve(host, port, error) from error
        self._listeners.append(listening)
        self._announce()

    def _has_room(self, num_connecting: int) -> bool:
        """Returns whether another connection may be opened."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = min(self._http.max_connections, max(1, files - _OTHER_FILES))
        return len(self.server_state.connections) + num_connecting < limit


def cannot_serve(host: str, port: int, error: OSError) -> errors.ServerStartError:
    """Returns the error of a service that cannot use its port.

    Args:
        host: Host name or IP address.
        port: Port.
        error: Why it cannot be used.
    """
    # A host may be given with brackets, as in a URL, which is an unknown name.
    place = f"[{host.strip('[]')}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(error, PermissionError):
        remedy = "choose a --port above 1023, or give the account CAP_NET_BIND_SERVICE"
    elif error.errno == errno.EADDRINUSE:
        remedy = "stop the server that uses it, or choose another --port or --host"
    else:
        remedy = (
            "expected an address of this machine as --host, such as 127.0.0.1 or ::1, or 0.0.0.0 "
            "for all of its addresses"
        )
    return errors.ServerStartError(f"Cannot serve on {place} ({error}); {remedy}.")


def check_tls(config: HttpConfig) -> None:
    """Checks certificate and key, so that the service fails before it starts anything.

    Args:
        config: Options with the files.

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
