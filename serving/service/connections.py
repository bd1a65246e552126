"""uvicorn's HTTP connections, with an end for clients that stall.

uvicorn itself waits for ever for the rest of a request's head, and for a client that does not
read its answer; each such client would hold a connection, and the end of the service with it.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http import h11_impl

# A head of a few hundred bytes comes in one piece.
HEAD_SECONDS = 10.0
# Without a byte that the client has taken.
WRITE_SECONDS = 10.0


class Connection(h11_impl.H11Protocol):
    """One client."""

    head_seconds = HEAD_SECONDS
    write_seconds = WRITE_SECONDS
    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _unread_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """A client has connected: now its first request must come."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(self.head_seconds, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Bytes have come; where they do not complete a head, the rest must follow."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._cancel("_head_timer")
        elif self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.head_seconds, self.transport.abort)

    def pause_writing(self) -> None:
        """The client reads more slowly than it is written to."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        self._cancel("_write_timer")

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._cancel("_head_timer")
        self._cancel("_write_timer")
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The service ends: an answer under way is finished, and nothing else is waited for."""
        super().shutdown()
        if self.transport.is_closing():
            # An answer may be in the buffer still; who does not read it is not waited for.
            self._watch_writing()

    def _buffered_bytes(self) -> int:
        try:
            return self.transport.get_write_buffer_size()
        except AttributeError:
            # asyncio's TLS transport (Python 3.11), once closed, has no buffer to ask.
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
