"""Runs a child process, and restarts it when it exits."""

import logging
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import IO

_logger = logging.getLogger(__name__)
_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.5, 30.0


def pauses() -> Iterator[float]:
    """Yields the pauses before the restarts of a process that keeps failing, in seconds."""
    pause = _FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(2 * pause, _MAX_PAUSE_SECONDS)


class SupervisedProcess:
    """A child process that reports when it is ready, and is restarted when it exits.

    The first line of its standard output says that it is ready. Its standard error, if it is a
    pipe, is logged line by line. Pauses before a restart double while the process exits before it
    is ready.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], "subprocess.Popen[str]"],
        stop_seconds: float,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        """Prepares the process; nothing is started before `start`.

        Args:
            name: Name of the process, for messages.
            start: Starts the process; its standard output is a pipe of text.
            stop_seconds: Time from SIGTERM until the process is killed.
            wait: Waits for a pause in seconds, and returns whether to stop supervising. None:
                waits for `stop`.
        """
        self._name = name
        self._start = start
        self._stop_seconds = stop_seconds
        self._stopping = threading.Event()
        self._wait = wait or self._stopping.wait
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._logging: threading.Thread | None = None
        self._thread = threading.Thread(
            target=self._supervise, name=f"supervise {name}", daemon=True
        )

    def start(self) -> str | None:
        """Starts the process, and supervises it if it becomes ready.

        Returns:
            The first line of its output; None if it exited instead.
        """
        ready = self._run()
        if ready is not None:
            self._thread.start()
        return ready

    def stop(self) -> None:
        """Stops the process, and waits until it has exited."""
        with self._lock:
            self._stopping.set()
            child = self._child
            if child is not None:
                child.terminate()
        if child is not None:
            try:
                child.wait(self._stop_seconds)
            except subprocess.TimeoutExpired:
                _logger.error("The %s did not exit in time; killing it.", self._name)
                child.kill()
                child.wait()
        if self._thread.ident is not None:
            self._thread.join()
        if child is not None:
            _close_pipes(child)
        if self._logging is not None:
            self._logging.join()

    def _supervise(self) -> None:
        waits = pauses()
        while self._child is not None:
            status = self._child.wait()
            _close_pipes(self._child)
            pause = next(waits)
            if self._stopping.is_set():
                return
            _logger.error(
                "The %s exited with status %d; starting another in %g s.", self._name, status, pause
            )
            if self._wait(pause):
                return
            try:
                ready = self._run()
            except OSError as error:
                _logger.error("The %s cannot be started: %s", self._name, error)
                continue
            if ready is not None:
                _logger.warning("The %s is back: %s", self._name, ready)
                waits = pauses()

    def _run(self) -> str | None:
        with self._lock:
            if self._stopping.is_set():
                return None
            self._child = self._start()
            if self._child.stderr is not None:
                self._logging = threading.Thread(
                    target=_log, args=(self._child.stderr, self._name), daemon=True
                )
                self._logging.start()
        assert self._child.stdout is not None
        return self._child.stdout.readline().rstrip() or None


def _log(lines: IO[str], name: str) -> None:
    logger = logging.getLogger(name)
    with lines:
        for line in lines:
            logger.info("%s", line.rstrip())


def _close_pipes(child: "subprocess.Popen[str]") -> None:
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()
