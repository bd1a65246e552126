"""Runs several processes that accept connections from one socket, and restarts those that exit.

Processes are spawned, not forked, because TensorFlow, FAISS and gRPC have threads. They share what
they memory-map: the index, the ad features and the ad fields.
"""

import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import process
from typing import Any

import prometheus_client.multiprocess

from serving import errors, orchestrator

_logger = logging.getLogger(__name__)
# With this many exits within this time, processes are no longer restarted.
_MAX_EXITS, _EXIT_WINDOW_SECONDS = 5, 30.0
_PAUSE_SECONDS = 1.0


class Workers:
    """Runs a function in several processes until a signal.

    Args:
        target: Module-level function that each process runs with `argument` and `listening`; it
            closes the socket and returns after SIGTERM, at once after a second one.
        argument: Picklable argument of `target`.
        listening: Bound socket of all processes. It is closed at the first signal, so that the port
            is closed once the processes have closed it.
        count: Number of processes.
        end_seconds: Time from SIGTERM until a process is killed, in seconds.
        announce: Called once a process listens at the socket, and never again: only this process
            can tell which of the others is the first.
    """

    def __init__(
        self,
        target: Callable[[Any, socket.socket], None],
        argument: Any,
        listening: socket.socket,
        count: int,
        end_seconds: float,
        announce: Callable[[], None],
    ) -> None:
        self._target = target
        self._argument = argument
        self._listening = listening
        self._count = count
        self._end_seconds = end_seconds
        self._announce = announce
        self._announced = False
        self._context = multiprocessing.get_context("spawn")
        self._processes: list[process.BaseProcess] = []
        self._exits: list[float] = []
        self._ending = False

    def run(self) -> None:
        """Runs the processes; returns after a signal, once every process has exited.

        Raises:
            ServerStartError: Processes exit repeatedly.
        """
        with _shared_metrics(), self._signals():
            try:
                for _ in range(self._count):
                    self._start()
                while not self._ending:
                    self._replace_ended()
                    self._announce_once()
            finally:
                self._end_all()

    def _announce_once(self) -> None:
        listens = socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        if not self._announced and self._listening.getsockopt(*listens):
            self._announced = True
            self._announce()

    def _start(self) -> None:
        started = self._context.Process(
            target=_run, args=(self._target, self._argument, self._listening)
        )
        started.start()
        self._processes.append(started)

    def _replace_ended(self) -> None:
        multiprocessing.connection.wait([p.sentinel for p in self._processes], timeout=0.2)
        for ended in [p for p in self._processes if not p.is_alive()]:
            self._processes.remove(ended)
            prometheus_client.multiprocess.mark_process_dead(  # type: ignore[no-untyped-call]
                ended.pid, os.environ[orchestrator.METRICS_DIRECTORY_VARIABLE]
            )
            if self._ending:
                continue
            now = time.monotonic()
            recent = (exit_ for exit_ in self._exits if now - exit_ < _EXIT_WINDOW_SECONDS)
            self._exits = [*recent, now]
            if len(self._exits) >= _MAX_EXITS:
                raise errors.ServerStartError(
                    f"{len(self._exits)} processes have exited within {_EXIT_WINDOW_SECONDS:g} s, "
                    f"the last with status {ended.exitcode}. See their messages above."
                )
            _logger.error(
                "Process %s exited with status %s; starting another.", ended.pid, ended.exitcode
            )
            time.sleep(_PAUSE_SECONDS)
            self._start()

    def _end_all(self) -> None:
        end = time.monotonic() + self._end_seconds
        self._listening.close()
        for running in self._processes:
            running.terminate()
        for running in self._processes:
            running.join(max(0.0, end - time.monotonic()))
            if running.is_alive():
                _logger.error("Process %s did not exit in time; killing it.", running.pid)
                running.kill()
                running.join()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def end(*_: object) -> None:
            if self._ending:
                # A second signal skips the wait of each process, too.
                for running in self._processes:
                    running.terminate()
            self._ending = True

        before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _run(
    target: Callable[[Any, socket.socket], None], argument: Any, listening: socket.socket
) -> None:
    """Runs `target` in a spawned process."""
    # Ctrl-C is sent to every process of the terminal's group; the parent ends this one.
    os.setpgid(0, 0)
    # Used until the service installs its own handlers.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    target(argument, listening)


def _end_with(sentinel: int) -> None:
    """Ends this process when its parent has exited for any reason."""
    multiprocessing.connection.wait([sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _shared_metrics() -> Iterator[None]:
    """Aggregates the metrics of all processes that are started in the block."""
    with tempfile.TemporaryDirectory(prefix="tfrec-metrics-") as directory:
        os.environ[orchestrator.METRICS_DIRECTORY_VARIABLE] = directory
        try:
            yield
        finally:
            del os.environ[orchestrator.METRICS_DIRECTORY_VARIABLE]
