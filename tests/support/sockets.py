"""Reads from sockets."""

import socket
from collections.abc import Callable


def receive(connection: socket.socket, enough: Callable[[bytes], bool]) -> bytes:
    """Reads until the received bytes are enough; fails if the connection ends before."""
    received = b""
    while not enough(received):
        chunk = connection.recv(65536)
        assert chunk, f"the connection ended after {received[-200:]!r}"
        received += chunk
    return received
