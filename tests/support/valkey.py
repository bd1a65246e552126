"""A real Valkey or Redis server on a free loopback port.

Mark such tests with `engines` and `requirements.NEEDS_VALKEY`.
"""

import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import requirements
import serving_fixtures
import waiting


class Valkey:
    """A server whose writes are on disk when they are acknowledged.

    Args:
        directory: Directory of its files, which remain after `kill`.

    Attributes:
        url: URL of its first database.
    """

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self._port = serving_fixtures.free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def client(self) -> Any:
        """Returns a client of redis-py."""
        import redis

        return redis.Redis.from_url(self.url, socket_timeout=waiting.GUARD_SECONDS)

    def start(self) -> None:
        """Starts the server on the same port and with the same files as before."""
        assert requirements.VALKEY is not None
        command = [requirements.VALKEY, "--port", str(self._port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self._directory), "--save", "", "--appendonly", "yes"]
        command += ["--appendfsync", "always"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        waiting.until(self._answers)

    def kill(self) -> None:
        """Kills the server."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: int) -> None:
        """Sends a signal to the server, such as SIGSTOP and SIGCONT."""
        assert self._process is not None
        self._process.send_signal(number)

    def _answers(self) -> bool:
        import redis

        assert self._process is not None
        assert self._process.poll() is None, "valkey-server has ended"
        try:
            return bool(self.client().ping())
        except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
            return False


@pytest.fixture
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A running server without data."""
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    yield server
    server.kill()
