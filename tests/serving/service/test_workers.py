"""What the parent of several processes does."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import socket

import pytest
import waiting
import worker_targets

from serving import errors, service
from serving.config import HttpConfig, OrchestratorConfig

pytestmark = pytest.mark.process


@pytest.fixture
def bound():
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        yield made


def two_processes(target, argument, bound, announce=lambda: None):
    workers = service.Workers(
        *(target, argument, bound), count=2, end_seconds=waiting.GUARD_SECONDS, announce=announce
    )
    # A spawned process would import TensorFlow for seconds, which the targets do not need.
    workers._context = multiprocessing.get_context("fork")
    return workers


@pytest.mark.parametrize(("certificate", "scheme"), [(None, "http"), ("cert.pem", "https")])
def test_the_urls_are_printed_once_a_process_serves(bound, capfd, tmp_path, certificate, scheme):
    http = HttpConfig(tls_certificate=certificate)
    settings = service.ServiceSettings(pathlib.Path(), None, "h:1", OrchestratorConfig(), http)

    def announce():
        service.announce(settings, bound)
        signal.raise_signal(signal.SIGTERM)

    reading, writing = os.pipe()
    two_processes(worker_targets.serve, writing, bound, announce).run()
    os.close(reading)
    os.close(writing)
    url = f"{scheme}://127.0.0.1:"
    assert [line.split(url)[0] for line in capfd.readouterr().out.splitlines()] == [
        "recommendations on ",
        "console on ",
    ]


def test_a_process_that_exits_is_replaced(bound, tmp_path, monkeypatch):
    monkeypatch.setattr("serving.service.workers._RESTART_SECONDS", 0.01)
    workers = two_processes(worker_targets.serve_until_the_fourth, str(tmp_path), bound)
    workers.run()
    # Two exited with status 3; the others were ended by the signal, not killed.
    assert len(list(tmp_path.iterdir())) == 4
    assert {process.exitcode for process in workers._processes} <= {0}


def test_a_service_whose_processes_cannot_start_ends(bound):
    workers = two_processes(worker_targets.fail, None, bound)
    with pytest.raises(errors.ServerStartError, match=r"exited with status 3 before it served"):
        workers.run()


def test_processes_whose_parent_is_killed_end(bound):
    reading, writing = os.pipe()
    parent = multiprocessing.get_context("fork").Process(
        target=lambda: two_processes(worker_targets.serve, writing, bound).run()
    )
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
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
