"""Milvus servers on loopback."""

import contextlib
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import children
import waiting


@contextlib.contextmanager
def lite(directory: pathlib.Path, port: int) -> Iterator[subprocess.Popen]:
    """Runs a milvus-lite server on the data of a directory."""
    command = [sys.executable, "-m", "milvus_lite", "server", f"--data-dir={directory}"]
    command += ["--host=127.0.0.1", f"--port={port}"]
    with children.started(command, stderr=subprocess.DEVNULL) as server:
        waiting.until(lambda: _answers(port))
        try:
            yield server
        finally:
            server.send_signal(signal.SIGCONT)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False
