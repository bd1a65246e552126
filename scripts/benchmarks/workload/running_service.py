"""Runs scripts/serve.py for benchmarks."""

import contextlib
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import httpx

from serving.process import bound_socket

_SERVE = pathlib.Path(__file__).parents[2] / "serve.py"
_START_SECONDS = 300
_STOP_SECONDS = 60


@contextlib.contextmanager
def serve(base: pathlib.Path, *options: str) -> Iterator[tuple[str, dict[str, int]]]:
    """Runs scripts/serve.py on free ports until the block ends.

    Args:
        base: Base directory of the bundles.
        *options: Further flags of the command.

    Yields:
        URL of the service, and process ids by name: `service`, `model_server` and `worker…`.

    Raises:
        OSError: The service did not start.
    """
    with reserved_ports(3) as (port, model_port, model_rest):
        command = [
            *(sys.executable, str(_SERVE), f"--bundle={base}", f"--port={port}"),
            f"--model_server_port={model_port}",
            *(f"--model_server_rest_port={model_rest}", *options),
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        url = f"http://127.0.0.1:{port}"
        try:
            if not becomes_ready(url, _START_SECONDS, lambda: process.poll() is None):
                raise OSError("scripts/serve.py did not start; see its message above.")
            yield url, family(process.pid)
        finally:
            process.terminate()
            process.wait(_STOP_SECONDS)


def model_server_command(base: pathlib.Path, port: int) -> list[str]:
    """Returns the command that serves the ranker of a base directory over gRPC only."""
    command = [sys.executable, "-m", "serving.model_server", f"--port={port}"]
    return [*command, "--rest_api_port=0", "--model_name=ranker", f"--model_base_path={base}"]


@contextlib.contextmanager
def reserved_ports(count: int) -> Iterator[list[int]]:
    """Yields ports for servers to be started on, reserved until the block ends.

    A socket that is bound to a port and does not listen reserves it: the system gives the port to
    nobody else, and a server that names it can bind it.
    """
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(count):
            reserving = stack.enter_context(bound_socket("127.0.0.1", 0))
            ports.append(reserving.getsockname()[1])
        yield ports


def family(process_id: int) -> dict[str, int]:
    """Returns the ids of a service and all its descendants, by name.

    Raises:
        OSError: A process ended meanwhile.
    """
    names = {"service": process_id}
    waiting = [process_id]
    while waiting:
        parent = waiting.pop()
        for thread in os.listdir(f"/proc/{parent}/task"):
            path = pathlib.Path(f"/proc/{parent}/task/{thread}/children")
            for child in path.read_text().split():
                command = pathlib.Path(f"/proc/{child}/cmdline").read_bytes()
                kind = "model_server" if b"serving.model_server" in command else "worker"
                if b"resource_tracker" not in command:
                    number = sum(name.startswith(kind) for name in names)
                    names[f"{kind}_{number}" if number else kind] = int(child)
                waiting.append(int(child))
    return names


def becomes_ready(url: str, seconds: float, is_running: Callable[[], bool] = lambda: True) -> bool:
    """Waits some seconds, while `is_running`, until a service is ready; returns whether it is."""
    end = time.monotonic() + seconds
    while not _is_ready(url):
        if not is_running() or time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=10).is_success
    except httpx.HTTPError:
        return False
