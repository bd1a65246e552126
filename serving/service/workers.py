"""Runs several processes that accept connections from one socket, and restarts those that exit.

Processes are spawned, not forked, because TensorFlow, FAISS and gRPC have threads. They share what
they memory-map: the index, the ad features and the ad fields.
"""

import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import prometheus_client.multiprocess

from serving import errors, orchestrator, process

_logger = logging.getLogger(__name__)
# After this many exits within this time, processes are no longer restarted if none serves.
_MAX_EXITS, _EXIT_WINDOW_SECONDS = 5, 30.0
_Target = Callable[[Any, socket.socket, Callable[[], None]], None]


class Workers:
    """Runs a function in several processes until a signal.

    Args:
        target: Module-level function, run in each process with `argument`, `listening` and a
            function to call once it serves. After SIGTERM it closes the socket and returns; after a
            second one, immediately.
        argument: Picklable argument of `target`.
        listening: Bound socket of all processes. It is closed at the first signal, so that the port
            is closed once the processes have closed it.
        count: Number of processes.
        end_seconds: Time from SIGTERM until a process is killed, in seconds.
        announce: Called once, when the first process listens at the socket.
        clock: Returns seconds, for the pauses before restarts.
    """

    def __init__(
        self,
        target: _Target,
        argument: Any,
        listening: socket.socket,
        count: int,
        end_seconds: float,
        announce: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target
        self._argument = argument
        self._listening = listening
        self._count = count
        self._end_seconds = end_seconds
        self._announce = announce
        self._announced = False
        self._context = multiprocessing.get_context("spawn")
        # Process -> shared memory, which is 1 once the process serves.
        self._processes: dict[multiprocessing.process.BaseProcess, Any] = {}
        self._clock = clock
        self._exits: list[float] = []
        self._pauses = process.pauses()
        # Times of the restarts that are due.
        self._restarts: list[float] = []
        self._ending = False

    def run(self) -> None:
        """Runs the processes; returns after a signal, once every process has exited.

        Raises:
            ServerStartError: Processes exit repeatedly, and none serves.
        """
        with _shared_metrics(), self._signals():
            try:
                for _ in range(self._count):
                    self._start()
                while not self._ending:
                    self._remove_ended()
                    self._restart()
                    self._announce_once()
            finally:
                self._end_all()

    def _announce_once(self) -> None:
        listens = socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        if not self._announced and self._listening.getsockopt(*listens):
            self._announced = True
            self._announce()

    def _start(self) -> None:
        # Without a lock: a process could be killed while it holds it.
        serves = self._context.RawValue("b", 0)
        started = self._context.Process(
            target=_run, args=(self._target, self._argument, self._listening, serves)
        )
        started.start()
        self._processes[started] = serves

    def _remove_ended(self) -> None:
        multiprocessing.connection.wait([p.sentinel for p in self._processes], timeout=0.2)
        for ended in [p for p in self._processes if not p.is_alive()]:
            has_served = self._processes.pop(ended).value
            prometheus_client.multiprocess.mark_process_dead(  # type: ignore[no-untyped-call]
                ended.pid, os.environ[orchestrator.METRICS_DIRECTORY_VARIABLE]
            )
            if not self._ending:
                self._plan_restart(ended, has_served)

    def _plan_restart(self, ended: multiprocessing.process.BaseProcess, has_served: bool) -> None:
        now = self._clock()
        recent = (exit_ for exit_ in self._exits if now - exit_ < _EXIT_WINDOW_SECONDS)
        self._exits = [*recent, now]
        # A fault that keeps new processes from starting, such as a full disk, may spare others.
        is_served = any(p.is_alive() and serves.value for p, serves in self._processes.items())
        if len(self._exits) >= _MAX_EXITS and not is_served:
            raise errors.ServerStartError(
                f"{len(self._exits)} processes have exited within {_EXIT_WINDOW_SECONDS:g} s, "
                f"the last with status {ended.exitcode}, and none serves. See their messages above."
            )
        if has_served:
            self._pauses = process.pauses()
        pause = next(self._pauses)
        self._restarts.append(now + pause)
        _logger.error(
            "Process %s exited with status %s; starting another in %g s.",
            *(ended.pid, ended.exitcode, pause),
        )

    def _restart(self) -> None:
        now = self._clock()
        due = [at for at in self._restarts if at <= now and not self._ending]
        for at in due:
            self._restarts.remove(at)
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


def _run(target: _Target, argument: Any, listening: socket.socket, serves: Any) -> None:
    """Runs `target` in a spawned process."""

    def mark_serving() -> None:
        serves.value = 1

    # Ctrl-C is sent to every process of the terminal's group; the parent ends this one.
    os.setpgid(0, 0)
    # Used until the service installs its own handlers.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    try:
        target(argument, listening, mark_serving)
    finally:
        if parent is not None and not parent.is_alive():
            _remove_metrics()


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


def _remove_metrics() -> None:
    """Removes what a killed parent leaves: the last process to end removes the directory."""
    directory = pathlib.Path(os.environ[orchestrator.METRICS_DIRECTORY_VARIABLE])
    for path in directory.glob(f"*_{os.getpid()}.db"):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        directory.rmdir()
