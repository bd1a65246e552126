"""Several processes that take connections from one socket: starts them, restarts them, ends them.

A process is started anew, not forked: TensorFlow, FAISS and gRPC have threads. What the
processes share is what they map: the index, the ads' features and fields, read once from disk.
"""

import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import process
from typing import Any

import prometheus_client.multiprocess

from serving import errors, orchestrator

_logger = logging.getLogger(__name__)
# So many ends of processes in so many seconds are no accident.
_MOST_ENDS, _ENDS_SECONDS = 5, 30.0
_PAUSE_SECONDS = 1.0


class Workers:
    """Runs a function in several processes until a signal.

    Args:
        target: Of a module, so that a fresh process finds it; it returns after SIGTERM.
        arguments: Of it; picklable, sockets included.
        count: Processes.
        end_seconds: After SIGTERM, before a process is killed.
    """

    def __init__(
        self,
        target: Callable[..., None],
        arguments: tuple[Any, ...],
        count: int,
        end_seconds: float,
    ) -> None:
        self._target = target
        self._arguments = arguments
        self._count = count
        self._end_seconds = end_seconds
        self._context = multiprocessing.get_context("spawn")
        self._processes: list[process.BaseProcess] = []
        self._ends: list[float] = []
        self._ending = False

    def run(self) -> None:
        """Returns when a signal has come and every process has ended.

        Raises:
            WorkersError: Processes end as often as they are started.
        """
        with _shared_metrics(), self._signals():
            try:
                for _ in range(self._count):
                    self._start()
                while not self._ending:
                    self._replace_ended()
            finally:
                self._end_all()

    def _start(self) -> None:
        started = self._context.Process(target=_run, args=(self._target, self._arguments))
        started.start()
        self._processes.append(started)

    def _replace_ended(self) -> None:
        multiprocessing.connection.wait([p.sentinel for p in self._processes], timeout=0.2)
        for ended in [p for p in self._processes if not p.is_alive()]:
            self._processes.remove(ended)
            _forget_metrics(ended.pid)
            if self._ending:
                continue
            now = time.monotonic()
            self._ends = [*(end for end in self._ends if now - end < _ENDS_SECONDS), now]
            if len(self._ends) >= _MOST_ENDS:
                raise errors.WorkersError(
                    f"{len(self._ends)} processes have ended within {_ENDS_SECONDS:g} s, the last "
                    f"with status {ended.exitcode}; what they said is above."
                )
            _logger.error(
                "Process %s ended with status %s; another is started.", ended.pid, ended.exitcode
            )
            time.sleep(_PAUSE_SECONDS)
            self._start()

    def _end_all(self) -> None:
        end = time.monotonic() + self._end_seconds
        for running in self._processes:
            running.terminate()
        for running in self._processes:
            running.join(max(0.0, end - time.monotonic()))
            if running.is_alive():
                _logger.error("Process %s has not ended in time and is killed.", running.pid)
                running.kill()
                running.join()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def end(*_: object) -> None:
            self._ending = True

        before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _run(target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """What a fresh process does."""
    # Ctrl-C goes to every process of the terminal's group; this one is ended by its parent.
    os.setpgid(0, 0)
    # Until the service has its own handlers.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    target(*arguments)


def _end_with(sentinel: int) -> None:
    """Ends this process when its parent is gone, however that came."""
    multiprocessing.connection.wait([sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _shared_metrics() -> Iterator[None]:
    """Lets processes that are started within count together."""
    with tempfile.TemporaryDirectory(prefix="tfrec-metrics-") as directory:
        os.environ[orchestrator.METRICS_DIRECTORY_VARIABLE] = directory
        try:
            yield
        finally:
            del os.environ[orchestrator.METRICS_DIRECTORY_VARIABLE]


def _forget_metrics(process_id: int | None) -> None:
    directory = os.environ[orchestrator.METRICS_DIRECTORY_VARIABLE]
    prometheus_client.multiprocess.mark_process_dead(process_id, directory)  # type: ignore[no-untyped-call]
