"""Functions for the processes of `service.Workers`; a spawned process imports them by name."""

import os
import pathlib
import signal
import sys
import threading


def serve_until_the_fourth(directory, listening, announce):
    """Serves until SIGTERM; the first and the second exit, and the fourth ends the parent."""
    announce()
    while True:
        number = len(list(pathlib.Path(directory).iterdir()))
        try:
            pathlib.Path(directory, str(number)).touch(exist_ok=False)
            break
        except FileExistsError:
            continue
    if number < 2:
        sys.exit(3)
    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    if number == 3:
        os.kill(os.getppid(), signal.SIGTERM)
    ending.wait()


def serve(written, listening, announce):
    """Writes its process id to a file descriptor; serves until SIGTERM."""
    # As the service does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    announce()
    os.write(written, f"{os.getpid()}\n".encode())
    threading.Event().wait()


def fail(directory, listening, announce):
    """Exits with status 3."""
    sys.exit(3)
