"""Runs a child process, and restarts it when it exits."""

import logging
import subprocess
import threading
from collections.abc import Callable
from typing import IO

_logger = logging.getLogger(__name__)
_RESTART_SECONDS = 1.0


class SupervisedProcess:
    """A child process that is restarted when it exits.

    The first line of its standard output says that it is ready. Its standard error, if it is a
    pipe, is logged line by line.

    Args:
        name: Name of the process, for messages.
        start: Starts the process; its standard output is a pipe of text.
        stop_seconds: Time from SIGTERM until the process is killed.
    """

    def __init__(
        self, name: str, start: Callable[[], "subprocess.Popen[str]"], stop_seconds: float
    ) -> None:
        self._name = name
        self._start = start
        self._stop_seconds = stop_seconds
        self._stopping = threading.Event()
        # Held while a child is started, so that `stop` stops the last one.
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._supervise, daemon=True)

    def start(self) -> str | None:
        """Starts the process; returns the first line of its output, or None if it exited."""
        self._child = self._start()
        ready = self._ready()
        if ready is not None:
            self._thread.start()
        return ready

    def stop(self) -> None:
        """Stops the process, and waits until it has exited."""
        self._stopping.set()
        with self._lock:
            self._child.terminate()
        try:
            self._child.wait(self._stop_seconds)
        except subprocess.TimeoutExpired:
            _logger.error("The %s did not exit in time; killing it.", self._name)
            self._child.kill()
            self._child.wait()
        if self._thread.ident is not None:
            self._thread.join()
        _close(self._child)

    def _supervise(self) -> None:
        while True:
            status = self._child.wait()
            _close(self._child)
            if not self._stopping.is_set():
                _logger.error("The %s exited with status %d; restarting it.", self._name, status)
            if self._stopping.wait(_RESTART_SECONDS):
                return
            with self._lock:
                if not self._stopping.is_set():
                    self._child = self._start()
            if ready := self._ready():
                _logger.warning("The %s is back: %s", self._name, ready)

    def _ready(self) -> str | None:
        if self._child.stderr is not None:
            threading.Thread(target=self._log, args=(self._child.stderr,), daemon=True).start()
        assert self._child.stdout is not None
        return self._child.stdout.readline().rstrip() or None

    def _log(self, lines: IO[str]) -> None:
        for line in lines:
            logging.getLogger(self._name).info("%s", line.rstrip())


def _close(child: "subprocess.Popen[str]") -> None:
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()
