"""What the processes of `service.Workers` run in tests; a spawned process imports it by name."""

import pathlib
import signal
import sys
import threading


def serve_only_the_first(directory, listening, announce):
    """Serves in the first process until SIGTERM; all others exit with status 3."""
    try:
        pathlib.Path(directory, "served").touch(exist_ok=False)
    except FileExistsError:
        sys.exit(3)
    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    listening.listen()
    announce()
    ending.wait()


def fail(directory, listening, announce):
    """Exits with status 3."""
    sys.exit(3)
