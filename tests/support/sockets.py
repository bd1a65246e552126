"""Reading of sockets."""

import socket
from collections.abc import Callable


def receive(connection: socket.socket, enough: Callable[[bytes], bool]) -> bytes:
    """Reads until what has come is enough; a connection that ends before is a failure.

    Where it ends `recv` gives nothing, again and again.
    """
    received = b""
    while not enough(received):
        chunk = connection.recv(65536)
        assert chunk, f"the connection ended after {received[-200:]!r}"
        received += chunk
    return received
