"""uvicorn's HTTP connections with limits of time and size.

uvicorn waits indefinitely for the rest of a request's head, and for a client to read its response.
Each such client would hold a connection and delay the shutdown of the service.
"""

import asyncio
import socket
import struct
import sys
import time
from asyncio import trsock
from typing import Any

import h11
import uvicorn
import uvicorn.server
from uvicorn.protocols.http import h11_impl

from serving.service import listener
from serving.service.rest import entrance, rest_errors

# Maximum time to receive a request's head, which usually has a few hundred bytes.
HEAD_SECONDS = 10.0
# Maximum size of a request's head; larger ones get 431.
MAX_HEAD_BYTES = 16_384
# A client must read this many bytes of its response, or all of it, in this time.
WRITE_SECONDS = 10.0
WRITE_BYTES = 1_000_000
# Keep-alive time of an idle connection. It exceeds that of the large clouds' load balancers (up to
# 600 s), because a request that a balancer sends while the service closes the connection is lost.
IDLE_SECONDS = 620
# Time in which a new connection may still send its request when the service ends.
LAST_HEAD_SECONDS = 1.0
# Offset of `tcpi_last_data_recv`, in milliseconds, in `struct tcp_info` of <linux/tcp.h>.
_LAST_RECEIVED = struct.Struct("52xI")
# The kernel counts in ticks of up to 10 ms, so its value may be too large by one.
_TICK_MS = 10


def close_oldest(idle: "dict[TimedConnection, None]") -> None:
    """Closes the connection that has been idle longest, if there is one.

    One with unread bytes is not idle: its request is about to be handled.
    """
    for connection in idle:
        if not listener.is_readable(connection.transport.get_extra_info("socket")):
            del idle[connection]
            connection.transport.abort()
            return


class TimedConnection(h11_impl.H11Protocol):
    """A connection to a client, aborted if the client stalls."""

    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _end_timer: asyncio.TimerHandle | None = None
    _unread_bytes = 0

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: uvicorn.server.ServerState,
        app_state: dict[str, Any],
        idle: "dict[TimedConnection, None]",
    ) -> None:
        """Creates a connection; `idle` holds those that wait for their clients, oldest first.

        The other arguments come from uvicorn.
        """
        super().__init__(config, server_state, app_state)
        self._idle = idle

    def connection_made(self, transport: Any) -> None:
        """Starts the timeout for the head of the first request."""
        super().connection_made(transport)
        self._idle.setdefault(self)
        self._head_timer = self.loop.call_later(HEAD_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Handles received bytes; starts the head timeout if they do not complete a head."""
        before = self.cycle
        if self.conn.their_state is h11.IDLE:
            # h11 limits the size of incomplete heads only.
            super().data_received(data[: MAX_HEAD_BYTES + 1])
            data = data[MAX_HEAD_BYTES + 1 :]
        if data and not self.transport.is_closing():
            super().data_received(data)
        if self.cycle is not before and self.scope is not None:
            self.scope[entrance.STARTED] = self._arrival()  # type: ignore[literal-required]
        if self.cycle is not None and not self.cycle.response_complete:
            self._cancel("_head_timer")
            if not self.cycle.more_body:
                self._idle.pop(self, None)
        elif self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def on_response_complete(self) -> None:
        """Waits for the client: to read the response, and to send the next request."""
        self._idle.setdefault(self)
        super().on_response_complete()
        self._watch_writing()

    def pause_writing(self) -> None:
        """Starts the write timeout: the client reads more slowly than the service writes."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """Restarts the write timeout for the few bytes that are left."""
        super().resume_writing()
        self._watch_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancels the timeouts: the connection has ended."""
        self._idle.pop(self, None)
        super().connection_lost(exc)
        for name in ("_head_timer", "_write_timer", "_end_timer"):
            self._cancel(name)

    def shutdown(self) -> None:
        """Answers a request in progress or about to be read, and closes the connection."""
        is_sending = not self.transport.is_closing() and (
            self.cycle is None
            or self.conn.trailing_data[0]
            or listener.is_readable(self.transport.get_extra_info("socket"))
        )
        if is_sending:
            self._end_timer = self.loop.call_later(LAST_HEAD_SECONDS, super().shutdown)
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Refuses invalid HTTP and closes the connection.

        Args:
            msg: Message of uvicorn, which is handling an exception of h11.
        """
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            # The response to the request has begun.
            self.transport.abort()
            return
        error = sys.exc_info()[1]
        status = getattr(error, "error_status_hint", 400)
        code, message = "malformed_http", f"The request is not valid HTTP: {error or msg}."
        if status == 431:
            code = "head_too_large"
            message = f"The head has more than {MAX_HEAD_BYTES} bytes. Send fewer headers."
        reply = rest_errors.reply(status, code, message, {"connection": "close"})
        for event in (
            h11.Response(status_code=status, headers=reply.raw_headers),
            h11.Data(data=bytes(reply.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event))
        self.transport.close()

    def _should_upgrade(self) -> bool:
        """Returns whether to change to another protocol: never, which HTTP allows.

        Java's client asks for HTTP/2 in each of its requests, and uvicorn would warn each time that
        a library for WebSockets is missing.
        """
        return False

    def _arrival(self) -> float:
        """Returns the time at which the last received bytes arrived, as `time.perf_counter`.

        The bytes may have waited in the kernel: for the process, or for its event loop.
        """
        now = time.perf_counter()
        connection: trsock.TransportSocket = self.transport.get_extra_info("socket")
        try:
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_RECEIVED.size)
            (waited_ms,) = _LAST_RECEIVED.unpack(info)
            return now - max(0, waited_ms - _TICK_MS) / 1000
        except (OSError, struct.error):
            # The connection has ended, or is not a TCP connection.
            return now

    def _buffered_bytes(self) -> int:
        try:
            return self.transport.get_write_buffer_size()
        except AttributeError:
            # A closed TLS transport of asyncio (Python 3.11) has no buffer.
            return 0

    def _watch_writing(self) -> None:
        self._cancel("_write_timer")
        self._unread_bytes = self._buffered_bytes()
        if self._unread_bytes:
            self._write_timer = self.loop.call_later(WRITE_SECONDS, self._check_writing)

    def _check_writing(self) -> None:
        unread = self._buffered_bytes()
        if not unread or unread <= self._unread_bytes - WRITE_BYTES:
            self._watch_writing()
        else:
            self.transport.abort()

    def _cancel(self, name: str) -> None:
        timer = getattr(self, name)
        if timer is not None:
            timer.cancel()
            setattr(self, name, None)
