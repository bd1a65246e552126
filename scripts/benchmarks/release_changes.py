"""Measures failures, latency and memory of a service that changes releases under load.

    make quickstart
    python scripts/benchmarks/release_changes.py
    python scripts/benchmarks/release_changes.py --changes=3 --rate=5

Takes two minutes. Copies the stable release of --bundle twice to a temporary directory, serves it
with scripts/serve.py, and sends requests at a steady rate while the two copies are promoted in
turn. Prints, for each change, the memory of the service and of its model server (without mapped
files) and the latency of the requests during the change; then the latency of the other requests,
and how many failed or were degraded. The last line is JSON.
"""

import dataclasses
import pathlib
import tempfile
import threading
import time
from concurrent import futures
from typing import Any

import httpx
from absl import flags
from workload import harness, running_service

from serving import cli, model_config, releases
from serving.cli.flags import bundle_flags
from serving.process import resident_bytes

flags.adopt_module_key_flags(bundle_flags)
flags.DEFINE_integer("changes", 12, "Number of promotions.", lower_bound=1)
flags.DEFINE_float("rate", 20.0, "Requests per second.", lower_bound=0.1)
flags.DEFINE_float("seconds_between", 2.0, "Time between changes, in seconds.", lower_bound=0.0)
FLAGS = flags.FLAGS


_CHANGE_SECONDS = 120
_THREADS = 8


class Load:
    """Sends requests at a steady rate from several threads, independent of response times.

    Args:
        url: URL of the service.
        bodies: JSON objects of the requests, sent in turn.
        rate: Requests per second.
    """

    def __init__(self, url: str, bodies: list[dict[str, Any]], rate: float) -> None:
        self._client = httpx.Client(base_url=url, timeout=60)
        self._bodies = bodies
        self._rate = rate
        self._stop = threading.Event()
        # (due time, milliseconds, version or None, reason of a degraded answer or a failure)
        self.answers: list[tuple[float, float, int | None, str | None]] = []
        self._pace = threading.Thread(target=self._keep_pace)

    def __enter__(self) -> "Load":
        self._pace.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pace.join()
        self._client.close()

    def _keep_pace(self) -> None:
        due = time.perf_counter()
        with futures.ThreadPoolExecutor(_THREADS) as pool:
            while not self._stop.is_set():
                due += 1 / self._rate
                time.sleep(max(0.0, due - time.perf_counter()))
                pool.submit(self._ask, due)

    def _ask(self, due: float) -> None:
        body = self._bodies[len(self.answers) % len(self._bodies)]
        version, problem = None, None
        try:
            reply = self._client.post("/v1/recommend", json=body)
            answer = reply.json()
            if reply.is_success:
                version, problem = answer["bundle_version"], answer["degraded"]
            else:
                problem = answer["error"]["message"]
        except (httpx.HTTPError, ValueError, KeyError) as error:
            problem = repr(error)
        self.answers.append((due, (time.perf_counter() - due) * 1000, version, problem))


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        base = pathlib.Path(directory) / "bundles"
        for _ in range(2):
            manifest = releases.copy_release(bundle_flags.bundle_base(), FLAGS.version, base)
        releases.promote(base, 1)
        bodies = [{"context": fields, "k": 10} for fields in manifest.probes["requests"]]
        with running_service.serve(base, "--deadline_ms=20000") as running:
            servers = Servers(*running)
            with Load(servers.url, bodies, FLAGS.rate) as load:
                time.sleep(FLAGS.seconds_between)
                before = servers.memory_mb()
                changes = [change(base, servers, load, number) for number in range(FLAGS.changes)]
        result = {
            "num_ads": manifest.index["num_ads"],
            "rate": FLAGS.rate,
            "before_mb": before,
            "changes": changes,
            **summary(load, changes),
        }
    print_table(result)
    harness.print_json(result)


@dataclasses.dataclass(frozen=True)
class Servers:
    """The servers that scripts/serve.py runs.

    Attributes:
        url: URL of the service.
        models_url: URL of the model server's REST API.
        process_ids: Process ids of both, by name.
    """

    url: str
    models_url: str
    process_ids: dict[str, int]

    def serve_only(self, version: int) -> bool:
        """Returns whether both servers have loaded this release only."""
        rows = httpx.get(f"{self.url}/v1/bundle", timeout=60).json()["releases"]
        if [row["version"] for row in rows] != [version]:
            return False
        for model in model_config.SERVED_MODELS:
            status = httpx.get(f"{self.models_url}/v1/models/{model}", timeout=60).json()
            states = {row["version"]: row["state"] for row in status["model_version_status"]}
            if {number for number, state in states.items() if state != "END"} != {str(version)}:
                return False
        return True

    def memory_mb(self) -> dict[str, float]:
        """Returns the memory of each process, without mapped files."""
        return {
            name: resident_bytes(process_id) / 1e6 for name, process_id in self.process_ids.items()
        }


def change(base: pathlib.Path, servers: Servers, load: Load, number: int) -> dict[str, Any]:
    """Promotes the other release and waits until the old one is unloaded."""
    version = 2 - number % 2
    started = time.perf_counter()
    releases.promote(base, version)
    while not servers.serve_only(version):
        if time.perf_counter() - started > _CHANGE_SECONDS:
            raise TimeoutError(f"The old release was still loaded after {_CHANGE_SECONDS} s.")
        time.sleep(0.2)
    ended = time.perf_counter()
    time.sleep(FLAGS.seconds_between)
    return {
        "version": version,
        "started": started,
        "ended": ended,
        "seconds": ended - started,
        "memory_mb": servers.memory_mb(),
        **harness.percentiles([a[1] for a in load.answers if started <= a[0] <= ended]),
    }


def summary(load: Load, changes: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns counts and latency of all requests."""
    spans = [(one["started"], one["ended"]) for one in changes]
    quiet = [a[1] for a in load.answers if not any(start <= a[0] <= end for start, end in spans)]
    return {
        "requests": len(load.answers),
        "failed": sum(version is None for _, _, version, _ in load.answers),
        "degraded": sum(
            version is not None and problem is not None for _, _, version, problem in load.answers
        ),
        "problems": sorted({problem for *_, problem in load.answers if problem})[:3],
        "in_between": harness.percentiles(quiet),
    }


def print_table(result: dict[str, Any]) -> None:
    """Prints the result as a table."""
    print(f"{result['num_ads']:,} ads, {result['rate']:g} requests per second")
    before = {"memory_mb": result["before_mb"], **result["in_between"]}
    rows = [
        {
            "change": number,
            **row,
            **{f"{name}_mb": memory for name, memory in row["memory_mb"].items()},
        }
        for number, row in enumerate([before, *result["changes"]])
    ]
    columns = ("seconds", "service_mb", "model_server_mb", "p50_ms", "p99_ms")
    harness.print_rows(rows, {"change": "", **dict.fromkeys(columns, ".1f")})
    print(
        f"{result['requests']:,} requests: {result['failed']} failed, {result['degraded']} degraded"
        "; row 0 has the latency between changes"
    )
    for problem in result["problems"]:
        print(f"  {problem}")


if __name__ == "__main__":
    cli.run(main)
