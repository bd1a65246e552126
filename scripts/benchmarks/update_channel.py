"""Measures when a live update of one host is seen on another, through Redis or Valkey.

    make quickstart
    valkey-server --port 6379 --appendonly yes
    python scripts/benchmarks/update_channel.py --update_channel=redis://127.0.0.1:6379/0

Copies the stable release of --bundle to two temporary directories, one for each host, and applies
--updates updates of one ad to the first. Takes a few seconds.

Prints the medians and 99th percentiles in milliseconds, as last line JSON: `update` (until the
update is acknowledged, in the journal of the first host and in the channel), `seen` (from its
start until the second host, which looks every millisecond, would return the ad), and `alone` (an
update without a channel).
"""

import contextlib
import dataclasses
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator

from absl import flags
from workload import harness

from serving import cli, live, releases
from serving.cli.flags import bundle_flags, update_flags

flags.adopt_module_key_flags(bundle_flags)
flags.adopt_module_key_flags(update_flags)
flags.DEFINE_integer("updates", 200, "Number of updates.", lower_bound=1)
FLAGS = flags.FLAGS

_POLL_SECONDS = 0.001


def main() -> None:
    address = update_flags.update_channel()
    if address is None:
        raise ValueError("--update_channel is missing; expected redis://HOST:PORT/DATABASE.")
    release = releases.load(bundle_flags.bundle_base(), FLAGS.version)
    # A separate stream for each run.
    training = f"{release.manifest.training_id}-{time.time_ns()}"
    manifest = dataclasses.replace(release.manifest, training_id=training)
    release = dataclasses.replace(release, manifest=manifest)
    with (
        tempfile.TemporaryDirectory() as directory,
        _host(release, f"{directory}/1", address) as first,
        _host(release, f"{directory}/2", address) as second,
        _host(release, f"{directory}/3", None) as alone,
    ):
        times: dict[str, list[float]] = {"update": [], "seen": [], "alone": []}
        for number in range(FLAGS.updates):
            ad = {"ad_id": f"new-{number}", "fields": {}}
            started = time.perf_counter()
            first.update([ad])
            times["update"].append((time.perf_counter() - started) * 1000)
            while second.view().num_added <= number:
                time.sleep(_POLL_SECONDS)
                second.refresh()
            times["seen"].append((time.perf_counter() - started) * 1000)
            started = time.perf_counter()
            alone.update([ad])
            times["alone"].append((time.perf_counter() - started) * 1000)
    rows = {name: harness.percentiles(values) for name, values in times.items()}
    harness.print_rows(
        [{"part": name, **row} for name, row in rows.items()],
        {"part": "", "p50_ms": ".1f", "p99_ms": ".1f"},
    )
    harness.print_json({"updates": FLAGS.updates, **rows})


@contextlib.contextmanager
def _host(
    release: releases.Bundle, directory: str, address: str | None
) -> Iterator[live.LiveIndex]:
    """Yields the live index of a host with its own copy of the ad tower and its own journal."""
    tower = f"ad_tower/{release.version}"
    shutil.copytree(release.base / tower, f"{directory}/{tower}")
    host_release = dataclasses.replace(release, base=pathlib.Path(directory))
    index = live.LiveIndex(host_release, channel=live.open_channel(address, release))
    index.follow()
    try:
        yield index
    finally:
        index.close()


if __name__ == "__main__":
    cli.run(main)
