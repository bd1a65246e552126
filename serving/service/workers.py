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
from typing import Any

import prometheus_client.multiprocess

from serving import errors, orchestrator

_logger = logging.getLogger(__name__)
_RESTART_SECONDS = 1.0
_Target = Callable[[Any, socket.socket, Callable[[], None]], None]


class Workers:
    """Runs a function in several processes until a signal.

    Args:
        target: Module-level function, run in each process with `argument`, `listening` and a
            function to call once it serves. After SIGTERM it closes the socket and returns.
        argument: Picklable argument of `target`.
        listening: Bound socket of all processes.
        count: Number of processes.
        end_seconds: Time from SIGTERM until a process is killed, in seconds.
        announce: Called once, when the first process serves.
    """

    def __init__(
        self,
        target: _Target,
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
        self._context = multiprocessing.get_context("spawn")
        # Without a lock: a process could be killed while it holds it.
        self._serves = self._context.RawValue("b", 0)
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._ending = False

    def run(self) -> None:
        """Runs the processes; returns after a signal, once every process has exited.

        Raises:
            ServerStartError: A process exits before any has served.
        """
        announced = False
        with _shared_metrics(), self._signals():
            try:
                while not self._ending:
                    while len(self._processes) < self._count:
                        self._start()
                    if self._serves.value and not announced:
                        announced = True
                        self._announce()
                    sentinels = [running.sentinel for running in self._processes]
                    multiprocessing.connection.wait(sentinels, timeout=0.2)
                    self._remove_ended()
            finally:
                self._end_all()

    def _start(self) -> None:
        started = self._context.Process(
            target=_run, args=(self._target, self._argument, self._listening, self._serves)
        )
        started.start()
        self._processes.append(started)

    def _remove_ended(self) -> None:
        ended = [process for process in self._processes if not process.is_alive()]
        for process in ended:
            self._processes.remove(process)
            prometheus_client.multiprocess.mark_process_dead(  # type: ignore[no-untyped-call]
                process.pid, os.environ[orchestrator.METRICS_DIRECTORY_VARIABLE]
            )
        if not ended or self._ending:
            return
        status = ended[0].exitcode
        if not self._serves.value:
            raise errors.ServerStartError(
                f"A process exited with status {status} before it served; its message is above."
            )
        _logger.error("A process exited with status %s; starting another.", status)
        time.sleep(_RESTART_SECONDS)

    def _end_all(self) -> None:
        # The port is closed once the processes have closed their copies.
        self._listening.close()
        end = time.monotonic() + self._end_seconds
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


def _run(target: _Target, argument: Any, listening: socket.socket, serves: Any) -> None:
    """Runs `target` in a spawned process."""

    def mark_serving() -> None:
        serves.value = 1

    # Ctrl-C is sent to every process of the terminal's group; the parent ends this one.
    os.setpgid(0, 0)
    # Used until the service installs its own handlers.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    target(argument, listening, mark_serving)


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
