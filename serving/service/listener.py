"""Accepts connections on a bound socket, up to a limit, and closes the port without a reset.

Processes share one listening socket (ADR 27), so that a connection in its queue is accepted by any
of them. A queued connection is lost only if the last process closes the socket, which resets it.
`Listener.close` therefore first refuses new connections in the kernel, for all processes at once,
and then accepts the connections in the queue.

asyncio's own server has no limit, and without free file descriptors it logs each failed attempt
thousands of times a second.
"""

import asyncio
import ctypes
import logging
import select
import socket
import ssl
import struct
from asyncio import trsock
from collections.abc import Callable

_logger = logging.getLogger(__name__)
# Backlog: connections that wait to be accepted. The kernel may allow fewer (net.core.somaxconn).
_QUEUED = 2048
# Connections that are accepted before requests are handled and other processes can accept.
_ACCEPTED_AT_ONCE = 8
# Time until the next attempt if there is no room for a connection.
_PAUSE_SECONDS = 0.1
# Time in which handshakes that have begun are completed after new ones are refused.
_HANDSHAKE_SECONDS = 0.1
# Maximum time to accept the queued connections of a port that is being closed.
_CLOSE_SECONDS = 5.0
# In <asm-generic/socket.h>; Python has no name for it.
_SO_ATTACH_FILTER = 26
# A classic BPF program (struct sock_filter: code, jt, jf, k) on a TCP segment: load the byte with
# the flags, drop the segment if SYN is set, and keep it otherwise.
_DROP_SYN = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),
        (0x45, 0, 1, 0x02),
        (0x06, 0, 0, 0),
        (0x06, 0, 0, 0xFFFFFFFF),
    )
)


class Listener:
    """Accepts the connections of a socket. Use it from one event loop."""

    def __init__(
        self,
        listening: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        has_room: Callable[[int], bool],
        make_room: Callable[[], None],
        tls: ssl.SSLContext | None,
        handshake_seconds: float,
    ) -> None:
        """Creates a listener; `start` begins to accept.

        Args:
            listening: Bound socket.
            protocol: Returns the protocol of a new connection.
            has_room: Returns whether there is room for another connection, given the number of
                connections whose handshake is in progress.
            make_room: Closes a connection that can be closed, if there is one.
            tls: Context for HTTPS. None: HTTP.
            handshake_seconds: Maximum duration of a TLS handshake, in seconds.
        """
        self._socket = listening
        self._protocol = protocol
        self._has_room = has_room
        self._make_room = make_room
        self._tls = tls
        self._handshake_seconds = handshake_seconds if tls else None
        self._connecting: set[asyncio.Task[None]] = set()
        self._is_closing = False
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Begins to listen and to accept connections."""
        self._socket.setblocking(False)
        self._socket.listen(_QUEUED)
        self._resume()

    async def close(self) -> None:
        """Refuses new connections, accepts those in the queue, and closes the socket."""
        self._is_closing = True
        refuse_connections(self._socket)
        self._loop.remove_reader(self._socket)
        await asyncio.sleep(_HANDSHAKE_SECONDS)
        end = self._loop.time() + _CLOSE_SECONDS
        while self._accept() and self._loop.time() < end:
            await asyncio.sleep(0)
        self._socket.close()
        if self._connecting:
            await asyncio.wait(self._connecting)

    def _resume(self) -> None:
        if not self._is_closing:
            self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> bool:
        """Accepts some connections; returns whether more may be in the queue."""
        for _ in range(_ACCEPTED_AT_ONCE):
            if not self._has_room(len(self._connecting)):
                if not is_readable(self._socket):
                    return False
                self._make_room()
                self._pause("The maximum number of connections is reached.")
                return True
            try:
                accepted, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return False
            except OSError as error:
                self._make_room()
                self._pause(f"No connection can be accepted ({error}).")
                return True
            accepted.setblocking(False)
            task = self._loop.create_task(self._connect(accepted))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)
        return True

    def _pause(self, reason: str) -> None:
        _logger.warning("%s Others wait in the queue of the port.", reason)
        if self._loop.remove_reader(self._socket):
            self._loop.call_later(_PAUSE_SECONDS, self._resume)

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._protocol,
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=self._handshake_seconds,
            )
        except OSError:
            # The client has disconnected or does not speak TLS; both are common on an open port.
            accepted.close()


def is_readable(waiting: socket.socket | trsock.TransportSocket) -> bool:
    """Returns whether a socket has unread data, or a listening socket a connection to accept."""
    poll = select.poll()
    poll.register(waiting.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def refuse_connections(listening: socket.socket) -> None:
    """Drops new connections to a listening socket in the kernel, in all processes that share it.

    Clients repeat a dropped connection attempt after a second and find the port closed.
    """
    program = ctypes.create_string_buffer(_DROP_SYN)
    # struct sock_fprog
    described = struct.pack("HP", len(_DROP_SYN) // 8, ctypes.addressof(program))
    try:
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)
    except OSError as error:
        # gVisor has no socket filters, and newer kernels want CAP_NET_ADMIN for those of TCP.
        # Connections that arrive between the last accept and the close, microseconds apart, are
        # then reset.
        _logger.info("The port is closed without a socket filter: %s", error)
