"""uvicorn's HTTP connections with timeouts for stalled clients.

uvicorn waits indefinitely for the rest of a request's head, and for a client to read its response.
Each such client would hold a connection and delay the shutdown of the service.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http import h11_impl

# Maximum time to receive a request's head, which is a few hundred bytes.
HEAD_SECONDS = 10.0
# Maximum time in which a client reads no byte of its response.
WRITE_SECONDS = 10.0


class TimedConnection(h11_impl.H11Protocol):
    """A connection to a client, aborted if the client stalls."""

    head_seconds = HEAD_SECONDS
    write_seconds = WRITE_SECONDS
    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _unread_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """Starts the timeout for the head of the first request."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(self.head_seconds, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Handles received bytes; starts the head timeout if they do not complete a head."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._cancel("_head_timer")
        elif self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.head_seconds, self.transport.abort)

    def pause_writing(self) -> None:
        """Starts the write timeout: the client reads more slowly than the service writes."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """Cancels the write timeout: the client has caught up."""
        super().resume_writing()
        self._cancel("_write_timer")

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancels the timeouts: the connection has ended."""
        self._cancel("_head_timer")
        self._cancel("_write_timer")
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Finishes the current response and closes the connection."""
        super().shutdown()
        if self.transport.is_closing():
            # A response may still be in the buffer; the client must read it in time.
            self._watch_writing()

    def _buffered_bytes(self) -> int:
        try:
            return self.transport.get_write_buffer_size()
        except AttributeError:
            # A closed TLS transport of asyncio (Python 3.11) has no buffer.
            return 0

    def _watch_writing(self) -> None:
        self._cancel("_write_timer")
        self._unread_bytes = self._buffered_bytes()
        self._write_timer = self.loop.call_later(self.write_seconds, self._check_writing)

    def _check_writing(self) -> None:
        if self._buffered_bytes() < self._unread_bytes:
            self._watch_writing()
        else:
            self.transport.abort()

    def _cancel(self, name: str) -> None:
        timer = getattr(self, name)
        if timer is not None:
            timer.cancel()
            setattr(self, name, None)
