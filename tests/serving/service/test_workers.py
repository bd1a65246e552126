"""What the parent of several processes does, without its processes."""

import pathlib
import signal
import socket

import pytest

from serving import service
from serving.config import HttpConfig, OrchestratorConfig


@pytest.fixture
def bound():
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        yield made


def workers_of(bound, announce):
    return service.Workers(print, None, bound, count=0, end_seconds=1.0, announce=announce)


def test_the_port_of_several_processes_is_announced_once_when_the_first_listens(bound):
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
