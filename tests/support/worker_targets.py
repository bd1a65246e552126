"""Functions for the processes of `service.Workers`; a spawned process imports them by name."""

import os
import pathlib
import signal
import sys
import threading

import waiting

from serving import orchestrator


def serve_only_the_first(directory, listening, announce):
    """Serves in the first process until SIGTERM; the others exit with status 3 once it does."""
    announced = pathlib.Path(directory, "announced")
    try:
        pathlib.Path(directory, "served").touch(exist_ok=False)
    except FileExistsError:
        waiting.until(announced.exists)
        sys.exit(3)
    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    listening.listen()
    announce()
    announced.touch()
    ending.wait()


def serve(written, listening, announce):
    """Writes its process id to a file descriptor, and a file of metrics; serves until SIGTERM."""
    # As the service does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # As prometheus_client names its files.
    metrics = os.environ[orchestrator.METRICS_DIRECTORY_VARIABLE]
    pathlib.Path(metrics, f"counter_{os.getpid()}.db").touch()
    announce()
    os.write(written, f"{os.getpid()}\n".encode())
    threading.Event().wait()


def fail(directory, listening, announce):
    """Exits with status 3."""
    sys.exit(3)
