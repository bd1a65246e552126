"""What the parent of several processes does."""

import contextlib
import logging
import multiprocessing.connection
import os
import pathlib
import signal
import socket
import tempfile

import clocks
import pytest
import waiting
import worker_targets

from serving import errors, service
from serving.config import HttpConfig, OrchestratorConfig


@pytest.fixture
def bound():
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        yield made


def workers_of(bound, announce):
    return service.Workers(print, None, bound, count=0, end_seconds=1.0, announce=announce)


def test_the_port_is_announced_once_when_the_first_process_listens(bound):
    announced = []
    workers = workers_of(bound, lambda: announced.append("listens"))
    workers._announce_once()
    assert not announced
    bound.listen()
    workers._announce_once()
    workers._announce_once()
    assert announced == ["listens"]


@pytest.mark.parametrize(("certificate", "scheme"), [(None, "http"), ("cert.pem", "https")])
def test_the_parent_prints_the_urls(bound, capsys, certificate, scheme):
    http = HttpConfig(tls_certificate=certificate)
    settings = service.ServiceSettings(pathlib.Path(), None, "h:1", OrchestratorConfig(), http)
    port = bound.getsockname()[1]
    bound.listen()

    def announce():
        service.announce(settings, bound)
        signal.raise_signal(signal.SIGTERM)

    workers_of(bound, announce).run()
    url = f"{scheme}://127.0.0.1:{port}"
    assert capsys.readouterr().out.splitlines() == [
        f"recommendations on {url}/v1/recommend",
        f"console on {url}/console, API on {url}/docs",
    ]


class _Restarts(logging.Handler):
    """Moves a clock past the pause of each restart, and ends the parent at one of them."""

    def __init__(self, end_at=None):
        super().__init__()
        self.clock, self.pauses, self._end_at = clocks.Clock(), [], end_at

    def emit(self, record):
        _, status, pause = record.args
        assert status == 3
        self.pauses.append(pause)
        self.clock.advance(pause)
        if len(self.pauses) == self._end_at:
            signal.raise_signal(signal.SIGTERM)


@contextlib.contextmanager
def two_processes(target, argument, bound, restarts):
    """Yields workers whose restarts are logged to `restarts`."""
    logger = logging.getLogger("serving.service.workers")
    logger.addHandler(restarts)
    workers = service.Workers(
        *(target, argument, bound),
        count=2,
        end_seconds=waiting.GUARD_SECONDS,
        announce=lambda: None,
        clock=restarts.clock,
    )
    # A spawned process would import TensorFlow for seconds, which the targets do not need.
    workers._context = multiprocessing.get_context("fork")
    try:
        yield workers
    finally:
        logger.removeHandler(restarts)


@pytest.mark.process
def test_a_process_that_serves_survives_others_that_cannot_start(bound, tmp_path):
    restarts = _Restarts(end_at=5)
    target = worker_targets.serve_only_the_first
    with two_processes(target, str(tmp_path), bound, restarts) as workers:
        workers.run()
        # It was ended by the signal, not killed.
        assert [process.exitcode for process in workers._processes] == [0]
    assert restarts.pauses == [0.5, 1, 2, 4, 8]


@pytest.mark.process
def test_processes_that_never_serve_are_not_restarted_forever(bound):
    restarts = _Restarts()
    with (
        two_processes(worker_targets.fail, None, bound, restarts) as workers,
        pytest.raises(errors.ServerStartError, match=r"^5 processes .* 3, and none serves"),
    ):
        workers.run()
    assert restarts.pauses == [0.5, 1, 2, 4]


@pytest.mark.process
def test_processes_whose_parent_is_killed_end_and_remove_its_metrics(bound, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    reading, writing = os.pipe()

    def run():
        with two_processes(worker_targets.serve, writing, bound, _Restarts()) as workers:
            workers.run()

    parent = multiprocessing.get_context("fork").Process(target=run)
    parent.start()
    os.close(writing)
    with open(reading, "rb", buffering=0) as started:
        pids = [int(started.readline()) for _ in range(2)]
        parent.kill()
        parent.join()
        try:
            # The pipe ends once no process has its other end.
            assert multiprocessing.connection.wait([started], waiting.GUARD_SECONDS)
            assert started.read(1) == b""
            assert list(tmp_path.iterdir()) == []
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
