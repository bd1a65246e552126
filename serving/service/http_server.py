"""Runs the REST service until a signal, and ends it without losing a request.

first signal      /readyz says `draining`; requests are still taken and answered, each answer
                  ends its connection, so that balancers and clients go elsewhere
drain_seconds on  the port is closed, requests in hand are answered, then the process ends
second signal     the wait is skipped
"""

import os
import resource
import socket
import ssl
import time
from collections.abc import Sequence
from types import FrameType

import uvicorn
from starlette import types

from serving.config import HttpConfig
from serving.service import connections, lifecycle

Listening = socket.socket


class HttpServer(uvicorn.Server):
    """Serves an application on sockets that are already bound."""

    def __init__(
        self,
        app: types.ASGIApp,
        life: lifecycle.Lifecycle,
        config: HttpConfig | None = None,
        *,
        own_logs: bool = True,
    ) -> None:
        """Prepares a server.

        Args:
            app: Answers.
            life: Told when the end begins.
            config: None = the defaults.
            own_logs: Whether uvicorn writes its warnings itself; False: the root logger does.
        """
        self._http = config or HttpConfig()
        self._life = life
        self._close_at: float | None = None
        options = {} if own_logs else {"log_config": None}
        super().__init__(
            uvicorn.Config(
                app,
                http=connections.Connection,
                ws="none",
                proxy_headers=False,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=self._http.end_seconds,
                ssl_certfile=self._http.tls_certificate,
                ssl_keyfile=self._http.tls_key,
                **options,  # type: ignore[arg-type]
            )
        )

    def begin_to_end(self) -> None:
        """Lets the end begin; called a second time, it comes at once."""
        if self._close_at is not None:
            self._close_at = 0.0
            return
        self._life.draining = True
        self._close_at = time.monotonic() + self._http.drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come."""
        if self._life.draining and self.should_exit:
            super().handle_exit(sig, frame)
            return
        self._captured_signals.append(sig)
        self.begin_to_end()

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; returns whether the port is to be closed."""
        if self._close_at is not None and time.monotonic() >= self._close_at:
            self.should_exit = True
        return await super().on_tick(counter)


def check_tls(config: HttpConfig) -> None:
    """Fails before anything is started, not after.

    Raises:
        ValueError: The files are no certificate and key that belong together.
    """
    if config.tls_certificate is None:
        if config.tls_key is not None:
            raise ValueError("A TLS key was given and no certificate; give both.")
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            config.tls_certificate, config.tls_key
        )
    except (OSError, ssl.SSLError) as error:
        raise ValueError(
            f"Expected a PEM certificate in {config.tls_certificate} and its key in "
            f"{config.tls_key or 'the same file'}: {error}."
        ) from error


def bound_socket(host: str, port: int) -> socket.socket:
    """Returns a socket that is bound; it listens once a server runs, so that nobody waits before.

    Raises:
        OSError: The address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio sets TCP_NODELAY only then: 40 ms for each answer.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError:
        listening.close()
        raise
    listening.set_inheritable(True)
    return listening


def raise_file_limit() -> None:
    """Lets this process hold as many connections as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def read_token(path: str | None, variable: str = "TFREC_TOKEN") -> str | None:
    """Returns the bearer token of a file, or else of the environment, or None.

    Raises:
        ValueError: It is empty, or cannot go into a header.
        OSError: The file cannot be read.
    """
    if path is not None:
        with open(path, encoding="utf-8", errors="replace") as file:
            token, place = file.read().strip(), path
    elif variable in os.environ:
        token, place = os.environ[variable].strip(), f"the environment variable {variable}"
    else:
        return None
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"Expected a token of printable ASCII characters without spaces in {place}, got "
            f"{len(token)} characters. `openssl rand -hex 32` makes one."
        )
    return token


def run(server: HttpServer, sockets: Sequence[socket.socket]) -> None:
    """Serves until a signal has come and the last request is answered."""
    raise_file_limit()
    server.run(list(sockets))
