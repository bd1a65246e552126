"""Injects faults into a running service, and checks every answer and every acknowledged write.

    make quickstart
    python scripts/benchmarks/chaos.py
    python scripts/benchmarks/chaos.py --seed=7 --minutes=10
    python scripts/benchmarks/chaos.py --faults=kill_worker,promote --minutes=1

Copies the stable release of --bundle twice to a temporary directory and serves it with
scripts/serve.py and two workers. Requests arrive at a steady rate, and live updates are written,
while one fault after another is injected, each --fault at least once and then in random order until
--minutes have passed. After each fault the service must become ready, and every acknowledged update
must be readable. The two copies have the same models, so a mixed answer is recognized by the ads of
live updates, which differ between releases.

Prints each fault with its effect, then the counts, and as last line JSON: `requests`, `failed`,
`late`, `mixed`, `acknowledged` (live updates), `lost` (ads), `faults`. A request is late if its
answer misses its deadline, or its client gives up then; while a process is stopped, some are.
The exit status is 1 if a request failed, an answer was mixed, an acknowledged ad was lost, or the
system accepted something that it must refuse.
"""

import itertools
import pathlib
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from absl import flags
from workload import checked_load, faults, harness, live_writer, running_service

from serving import cli, releases
from serving.cli import shared_flags

shared_flags.define_release()
flags.DEFINE_integer("seed", 1, "Random seed of the order and the details of the faults.")
flags.DEFINE_float("minutes", 4.0, "Minimum duration, in minutes.", lower_bound=0.0)
flags.DEFINE_float("rate", 10.0, "Requests per second.", lower_bound=0.1)
flags.DEFINE_float("deadline_seconds", 2.0, "Deadline of a request.", lower_bound=0.01)
flags.DEFINE_float("pause_seconds", 2.0, "Duration of a fault.", lower_bound=0.0)
flags.DEFINE_list("faults", [], "Faults to inject. Empty: all.")
FLAGS = flags.FLAGS

_READY_SECONDS = 120.0
_WORKERS = 2


def main() -> None:
    names = harness.flag_names("faults", faults.FAULTS) or list(faults.FAULTS)
    with tempfile.TemporaryDirectory() as directory:
        base = pathlib.Path(directory) / "bundles"
        for _ in range(2):
            manifest = releases.copy_release(shared_flags.bundle_base(), FLAGS.version, base)
        releases.promote(base, 1)
        writers = {version: live_writer.LiveWriter(base, version) for version in (1, 2)}
        log = pathlib.Path(directory) / "impressions"
        try:
            with running_service.serve(
                base, f"--workers={_WORKERS}", f"--impression_log={log}"
            ) as (url, process_ids):
                system = faults.System(
                    url=url,
                    process_id=process_ids["service"],
                    base=base,
                    writers=writers,
                    random=random.Random(FLAGS.seed),
                    pause_seconds=FLAGS.pause_seconds,
                    deadline_seconds=FLAGS.deadline_seconds,
                )
                counts, injected, violations = run(system, manifest.probes["requests"], names)
        finally:
            for writer in writers.values():
                writer.kill()
    result = {
        "requests": counts.requests,
        "failed": counts.failed,
        "late": counts.late,
        "refused": counts.refused,
        "degraded": counts.degraded,
        "mixed": counts.mixed,
        "acknowledged": sum(writer.num_acknowledged for writer in writers.values()),
        "lost": len(counts.lost),
        "violations": len(violations),
        "faults": injected,
    }
    for problem in (*violations, *counts.problems):
        print(f"  {problem}")
    harness.print_rows([result], {name: ",d" for name in result if name != "faults"})
    harness.print_json(result)
    if counts.failed or counts.mixed or counts.lost or violations:
        sys.exit(1)


def run(
    system: faults.System, contexts: list[dict[str, Any]], names: list[str]
) -> tuple[checked_load.Counts, dict[str, int], list[str]]:
    """Injects the faults of these names under a load of requests for contexts.

    Returns:
        Counts of the load, number of faults by name, and violations of guarantees.
    """
    injected = dict.fromkeys(names, 0)
    violations = []
    acknowledged = {
        version: (lambda writer=writer: writer.acknowledged)
        for version, writer in system.writers.items()
    }
    end = time.monotonic() + FLAGS.minutes * 60
    with checked_load.CheckedLoad(
        system.url, contexts, acknowledged, FLAGS.rate, FLAGS.deadline_seconds
    ) as load:
        for name in _order(names, system.random):
            if min(injected.values()) > 0 and time.monotonic() > end:
                break
            for writer in system.writers.values():
                if error := writer.write():
                    violations.append(f"before {name}: an update was refused: {error}")
            started = time.monotonic()
            injected[name] += 1
            try:
                done = faults.FAULTS[name](system)
                if not running_service.becomes_ready(system.url, _READY_SECONDS):
                    raise faults.Violation(f"The service was not ready in {_READY_SECONDS:g} s.")
                load.read_back()
            except faults.Violation as violation:
                violations.append(f"{name}: {violation}")
                done = "violation"
            print(f"{time.monotonic() - started:6.1f} s  {name:20} {done}", flush=True)
    return load.counts, injected, violations


def _order(names: list[str], chance: random.Random) -> Iterator[str]:
    """Yields all faults, then faults at random."""
    yield from chance.sample(names, len(names))
    yield from (chance.choice(names) for _ in itertools.count())


if __name__ == "__main__":
    cli.run(main)
