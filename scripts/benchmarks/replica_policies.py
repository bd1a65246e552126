"""Compares ways to choose a replica of the ranker, in simulated time.

    make quickstart
    python scripts/benchmarks/replica_policies.py
    python scripts/benchmarks/replica_policies.py --rate=250

Three simulated servers, each with two cores, take a log-normal time for a call (median 7 ms, 99th
percentile 18 ms). Calls arrive as a Poisson process, and `serving.ranker.Replicas` distributes
them: as it does; by the calls in flight alone; in turn, as gRPC's `round_robin`; and without second
calls. No time passes but what is simulated, so the results depend on --seed only. Takes a minute.

Prints for each policy and disturbance of the first server (none; killed; hangs; ten times slower;
both for the middle of the --calls) the latencies in milliseconds, the calls that were without
scores at the deadline of --deadline_ms, and the second calls; as last line JSON.
"""

import asyncio
import heapq
import selectors
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags
from workload import harness

from serving import cli, errors, ranker, releases, requests
from serving.cli.flags import bundle_flags
from serving.ranker import replicas

flags.adopt_module_key_flags(bundle_flags)
flags.DEFINE_float("rate", 60.0, "Calls per second.", lower_bound=0.1)
flags.DEFINE_integer("calls", 6000, "Number of calls.", lower_bound=100)
flags.DEFINE_float("deadline_ms", 500.0, "Deadline of a call.", lower_bound=1.0)
flags.DEFINE_integer("seed", 1, "Random seed of the times.")
FLAGS = flags.FLAGS

_NUM_SERVERS, _NUM_CORES, _NUM_CANDIDATES = 3, 2, 500
_MEDIAN_SECONDS, _SIGMA = 0.007, 0.4
_SLOWER = 10.0
_POLICIES = ("as it is", "in flight", "in turn", "no second calls")
_DISTURBANCES = ("none", "killed", "hangs", "slow")


class _VirtualTime(selectors.SelectSelector):
    """Waits by moving the clock."""

    now = 1_000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        self.now += timeout or 0.0
        return super().select(0)


class _SimulatedServer:
    """A simulated server, with the interface of `RankerClient`."""

    def __init__(self, number: int, release: releases.Bundle) -> None:
        self.address, self.version = f"server-{number}", release.version
        self.disturbance = "none"
        self._random = np.random.default_rng([FLAGS.seed, number])
        self._cores = [0.0] * _NUM_CORES
        self._probed = release.manifest.probes["scores"]
        self._answers = asyncio.Event()
        self._answers.set()

    def disturb(self, disturbance: str) -> None:
        self.disturbance = disturbance
        (self._answers.clear if disturbance == "hangs" else self._answers.set)()

    def connection(self) -> int:
        return 1

    async def predict(
        self,
        columns: requests.Columns,
        ad_features: np.ndarray,
        timeout_seconds: float,
        wait_if_busy: bool = True,
    ) -> dict[str, np.ndarray]:
        if self.disturbance == "killed":
            raise errors.RankerUnavailableError(f"{self.address} is not available.")
        loop = asyncio.get_running_loop()
        seconds = _MEDIAN_SECONDS * self._random.lognormal(0.0, _SIGMA)
        seconds *= _SLOWER if self.disturbance == "slow" else 1.0
        done = max(heapq.heappop(self._cores), loop.time()) + seconds
        heapq.heappush(self._cores, done)
        try:
            async with asyncio.timeout(timeout_seconds):
                await asyncio.sleep(done - loop.time())
                await self._answers.wait()
        except TimeoutError as error:
            raise errors.RankerDeadlineError(f"{self.address} is late.") from error
        if ad_features.shape[1] == _NUM_CANDIDATES:
            return {}
        return {name: np.array(scores, np.float32) for name, scores in self._probed.items()}

    async def connected(self, timeout_seconds: float) -> None: ...

    async def close(self, grace_seconds: float | None = None) -> None: ...


class _SimulatedPolicy(replicas.Replicas):
    """The replicas with a policy of the benchmark."""

    policy = _POLICIES[0]

    def _next(self, tried: Any, only_healthy: bool) -> Any:
        if only_healthy and self.policy == "no second calls":
            return None
        return super()._next(tried, only_healthy)


def main() -> None:
    release = releases.load(bundle_flags.bundle_base(), FLAGS.version)
    rows = [
        simulate(release, policy, disturbance)
        for disturbance in _DISTURBANCES
        for policy in _POLICIES
    ]
    formats = {"p50_ms": ".1f", "p99_ms": ".1f", "max_ms": ".0f", "unranked": "", "second": ""}
    harness.print_rows(rows, {"disturbance": "", "policy": "", **formats})
    harness.print_json({"rate": FLAGS.rate, "calls": FLAGS.calls, "rows": rows})


def simulate(release: releases.Bundle, policy: str, disturbance: str) -> dict[str, Any]:
    """Returns the latencies of a policy while the first server is disturbed."""
    selector = _VirtualTime()
    loop = asyncio.SelectorEventLoop(selector)
    real = time.monotonic
    time.monotonic = loop.time = lambda: selector.now  # type: ignore[method-assign]
    try:
        return loop.run_until_complete(_simulate(release, policy, disturbance))
    finally:
        time.monotonic = real
        loop.close()


async def _simulate(release: releases.Bundle, policy: str, disturbance: str) -> dict[str, Any]:
    clock: Callable[[], float] = asyncio.get_running_loop().time
    servers = [_SimulatedServer(number, release) for number in range(_NUM_SERVERS)]
    endpoints = ranker.Endpoints(
        ",".join(f"{server.address}:1" for server in servers), version=release.version, outputs=()
    )
    endpoints.clients = {server.address: server for server in servers}  # type: ignore[misc]
    balanced = _SimulatedPolicy(release, endpoints, None, clock)
    balanced.policy = policy
    loads = {
        "in flight": lambda replica, now: replica.in_flight,
        "in turn": lambda replica, now: 0,
    }
    for replica in balanced._replicas.values() if policy in loads else ():
        replica.load = lambda now, own=replica: loads[policy](own, now)  # type: ignore[method-assign]
    features = np.empty((1, _NUM_CANDIDATES, 1), np.int32)
    milliseconds, late = [], []

    async def call() -> None:
        started = clock()
        try:
            await balanced.predict({}, features, FLAGS.deadline_ms / 1000)
        except errors.RankerError as error:
            late.append(error)
        milliseconds.append((clock() - started) * 1000)

    await balanced.verify(5.0)
    gaps = np.random.default_rng(FLAGS.seed).exponential(1 / FLAGS.rate, FLAGS.calls)
    running = []
    for number, gap in enumerate(gaps):
        if number == FLAGS.calls // 4:
            servers[0].disturb(disturbance)
        if number == 3 * FLAGS.calls // 4:
            servers[0].disturb("none")
        await asyncio.sleep(gap)
        running.append(asyncio.create_task(call()))
    await asyncio.gather(*running)
    await balanced.close()
    return {
        "disturbance": disturbance,
        "policy": policy,
        **harness.percentiles(milliseconds),
        "max_ms": round(max(milliseconds)),
        "unranked": len(late),
        "second": balanced.num_second_calls,
    }


if __name__ == "__main__":
    cli.run(main)
