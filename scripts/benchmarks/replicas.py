"""Measures how the loss of a ranker affects requests if others serve the same release.

    make quickstart
    python scripts/benchmarks/replicas.py
    python scripts/benchmarks/replicas.py --rate=30 --duration_seconds=10 --replicas=2

Serves the stable release of --bundle with scripts/serve.py and --replicas embedded model servers,
each a process. Requests arrive as a Poisson process over HTTP, in phases of --duration_seconds:

    undisturbed   all replicas
    killed        one is killed with SIGKILL after a quarter of the phase
    restarted     it is restarted; on few cores, this takes CPU time from the requests
    stopped       another one is stopped with SIGSTOP after a quarter, and resumes at three quarters
    slowed        another one is stopped for 45 of every 50 ms
    after         all replicas

Prints for each phase the requests that were sent, failed, refused or degraded (late or unranked),
latencies, and the p99 as a multiple of the undisturbed one; as last line JSON. Takes three
minutes. The exit status is 1 if a request failed or was degraded.
"""

import contextlib
import json
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from absl import flags
from workload import fresh_process, harness, poisson_load, running_service

from serving import cli, releases
from serving.cli.flags import bundle_flags

flags.adopt_module_key_flags(bundle_flags)
flags.DEFINE_integer("replicas", 3, "Number of model servers.", lower_bound=2)
flags.DEFINE_float("rate", 60.0, "Requests per second.", lower_bound=0.1)
flags.DEFINE_float("duration_seconds", 20.0, "Duration of each phase.", lower_bound=1.0)
flags.DEFINE_float("warm_up_seconds", 20.0, "Duration of the requests before.", lower_bound=0.0)
flags.DEFINE_float("deadline_ms", 2000.0, "Deadline of a request.", lower_bound=1.0)
flags.DEFINE_list("phases", [], "Phases to measure after the first one. Empty: all.")
FLAGS = flags.FLAGS

_STOPPED_SECONDS, _RUNNING_SECONDS = 0.045, 0.005


class ModelServers:
    """Embedded model servers of a base directory, each a process on its own port."""

    def __init__(self, base: pathlib.Path, ports: list[int]) -> None:
        self._base = base
        self._ports = ports
        self.processes = [self._start(port) for port in ports]

    @property
    def addresses(self) -> str:
        """Addresses for --ranker_address."""
        return ",".join(f"127.0.0.1:{port}" for port in self._ports)

    def _start(self, port: int) -> subprocess.Popen[bytes]:
        command = running_service.model_server_command(self._base, port)
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        """Kills the first server after a quarter of the phase."""
        time.sleep(FLAGS.duration_seconds / 4)
        self.processes[0].kill()
        self.processes[0].wait()

    def restart(self) -> None:
        """Starts the first server again."""
        if self.processes[0].poll() is not None:
            self.processes[0] = self._start(self._ports[0])

    def stop(self) -> None:
        """Stops the second server for the middle of the phase."""
        time.sleep(FLAGS.duration_seconds / 4)
        self.processes[1].send_signal(signal.SIGSTOP)
        time.sleep(FLAGS.duration_seconds / 2)
        self.processes[1].send_signal(signal.SIGCONT)

    def slow(self) -> None:
        """Stops the last server for most of the time."""
        end = time.monotonic() + FLAGS.duration_seconds
        while time.monotonic() < end:
            self.processes[-1].send_signal(signal.SIGSTOP)
            time.sleep(_STOPPED_SECONDS)
            self.processes[-1].send_signal(signal.SIGCONT)
            time.sleep(_RUNNING_SECONDS)

    def close(self) -> None:
        """Ends all servers."""
        for process in self.processes:
            process.kill()
            process.wait()


PHASES: dict[str, Callable[[ModelServers], None]] = {
    "undisturbed": lambda _: None,
    "killed": ModelServers.kill,
    "restarted": ModelServers.restart,
    "stopped": ModelServers.stop,
    "slowed": ModelServers.slow,
    "after": lambda _: None,
}


def main() -> None:
    harness.flag_names("phases", PHASES)
    base = bundle_flags.bundle_base().resolve()
    with (
        running_service.reserved_ports(FLAGS.replicas) as ports,
        contextlib.closing(ModelServers(base / "ranker", ports)) as servers,
    ):
        release = releases.load(base, FLAGS.version)
        contexts = release.manifest.probes["requests"]
        release.close()
        options = (f"--ranker_address={servers.addresses}", f"--deadline_ms={FLAGS.deadline_ms:g}")
        with running_service.serve(base, *options) as (url, _):
            bodies = [json.dumps({"context": context, "k": 10}).encode() for context in contexts]
            rows = list(measure(poisson_load.Target(url, bodies), servers))
    for row in rows:
        row["p99_ratio"] = round(row["p99_ms"] / rows[0]["p99_ms"], 2)
    counts = dict.fromkeys(("phase", "sent", "failed", "refused", "degraded"), "")
    times = {"p50_ms": ".1f", "p99_ms": ".1f", "p99_ratio": ".2f"}
    harness.print_rows(rows, {**counts, **times})
    harness.print_json({"replicas": FLAGS.replicas, "rate": FLAGS.rate, "phases": rows})
    if any(row["failed"] or row["degraded"] for row in rows):
        sys.exit(1)


def measure(target: poisson_load.Target, servers: ModelServers) -> Iterator[dict[str, Any]]:
    """Yields the measurements of each phase; the first is undisturbed."""
    fresh_process.call(poisson_load.poisson, target, FLAGS.rate, FLAGS.warm_up_seconds, 0)
    for number, (name, disturb) in enumerate(PHASES.items()):
        if number and FLAGS.phases and name not in FLAGS.phases:
            continue
        disturbing = threading.Thread(target=disturb, args=[servers])
        disturbing.start()
        seconds = FLAGS.duration_seconds
        found = fresh_process.call(poisson_load.poisson, target, FLAGS.rate, seconds, number)
        disturbing.join()
        latencies = harness.percentiles(found.pop("milliseconds"))
        yield {"phase": name, **found, **latencies}


if __name__ == "__main__":
    cli.run(main)
