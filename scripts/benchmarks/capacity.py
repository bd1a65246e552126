"""Measures the constants of `tfrec size`: what an ad and a request cost.

    make quickstart
    python scripts/benchmarks/http_service.py
    python scripts/benchmarks/capacity.py --output=constants.json
    tfrec size --constants=constants.json --ads=10000000 --rps=1000

Takes a minute. Uses the service and the catalog of `http_service.py`, which builds them, with its
--workdir and --num_ads. Processor time is that of consecutive requests, so another load on the
machine changes little. Prints the constants as JSON and writes them to --output; by default to the
file of the package, from which `tfrec size` reads them.
"""

import asyncio
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import tempfile
import time

import httpx
from absl import flags
from workload import fresh_process, harness, poisson_load, running_service

from serving import cli, index, manifest, operations, releases, users
from serving.process import resident_bytes
from tfrecords import files

_WARM_UP = 50
_NUM_USERS = 2_000
_MAPPED_ROWS = ("ad_features.npy", "ads.arrow")


def main() -> None:
    values = flags.FLAGS
    base = pathlib.Path(values.workdir) / "benchmark_serving" / str(values.num_ads)
    if not releases.versions(base):
        raise FileNotFoundError(
            f"{base} has no release; run scripts/benchmarks/http_service.py with the same "
            "--workdir and --num_ads first."
        )
    release = manifest.read(base, max(releases.versions(base)))
    directory = base / "ad_index" / str(release.version)
    sizes = {path.name: path.stat().st_size for path in directory.iterdir()}
    private_bytes, search_ms = fresh_process.call(measure_index, directory, values.singles)
    constants = operations.MeasuredConstants(
        machine=f"{os.cpu_count()} cores, {platform.machine()}",
        date=datetime.date.today().isoformat(),
        command=f"scripts/benchmarks/capacity.py --num_ads={values.num_ads}",
        num_ads=values.num_ads,
        dimension=release.index["dimension"],
        index=release.index["build"].get("factory", release.index["kind"]),
        index_bytes_per_ad=round(sizes["index.faiss"] / values.num_ads, 1),
        row_bytes_per_ad=round(sum(sizes[name] for name in _MAPPED_ROWS) / values.num_ads, 1),
        private_bytes_per_ad=round(private_bytes / values.num_ads, 1),
        search_cpu_ms=round(search_ms, 3),
        **measure_service(base, private_bytes),
        num_columns=index.AdIndex.open(directory).num_fields,
        num_outputs=len(release.outputs),
        store_bytes_per_user={"SQLite": round(asyncio.run(measure_users()))},
    )
    harness.print_json(dataclasses.asdict(constants))
    files.write_json(pathlib.Path(values.output), dataclasses.asdict(constants))


def measure_index(directory: pathlib.Path, singles: int) -> tuple[int, float]:
    """Measures a process that serves an index; call it in a fresh process.

    Args:
        directory: `ad_index/N` of a bundle.
        singles: Number of searches.

    Returns:
        Its own memory in bytes, and the median processor time of a search in milliseconds.
    """
    before = resident_bytes()
    ads = index.AdIndex.open(directory)
    ads.prepare_filters()
    own = resident_bytes() - before
    samples = ads.sample_queries
    queries = [samples[number % len(samples)][None] for number in range(-_WARM_UP, singles)]
    milliseconds, _ = harness.time_each(
        lambda query: ads.search(query, 500), queries, time.thread_time
    )
    return own, harness.percentiles(milliseconds[_WARM_UP:])["p50_ms"]


def measure_service(base: pathlib.Path, private_bytes: int) -> dict[str, float]:
    """Measures the processes that answer a request.

    Args:
        base: Bundle base.
        private_bytes: Private memory of a process for the index, in bytes.
    """
    singles = flags.FLAGS.singles
    fields = json.loads((base / "requests.json").read_text(encoding="utf-8"))
    bodies = [json.dumps({"context": context, "k": 10}).encode() for context in fields]
    with running_service.serve(base) as (url, process_ids):
        target = poisson_load.Target(url, bodies)
        fresh_process.call(poisson_load.one_by_one, target, _WARM_UP, 0)
        before = {name: fresh_process.cpu_ms(own) for name, own in process_ids.items()}
        fresh_process.call(poisson_load.one_by_one, target, singles, 0)
        cost = {
            name: round((fresh_process.cpu_ms(process_ids[name]) - ms) / singles, 2)
            for name, ms in before.items()
        }
        memory = resident_bytes(process_ids["service"])
        answer = httpx.post(f"{url}/v1/recommend", json={"context": fields[0], "k": 10})
    return {
        "process_bytes": memory - private_bytes,
        "service_cpu_ms": cost["service"],
        "ranker_cpu_ms": cost["model_server"],
        "request_bytes": len(bodies[0]),
        "answer_bytes": len(answer.raise_for_status().content),
    }


async def measure_users() -> float:
    """Returns the bytes of a user with a profile of three fields and 50 clicks, in SQLite."""
    now = time.time()
    with tempfile.TemporaryDirectory() as directory:
        store = users.open_store(f"sqlite:{directory}/users.db")
        for user in (f"user-{number}" for number in range(_NUM_USERS)):
            clicks = [
                users.StoredEvent(f"{user}-{i}", "click", f"ad{i}", now - i) for i in range(50)
            ]
            await store.append([(user, click) for click in clicks], now)
            await store.set_profile(user, {"age": "30", "city": "Bern", "device": "phone"}, now)
        await store.close()
        return sum(path.stat().st_size for path in pathlib.Path(directory).iterdir()) / _NUM_USERS


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "workdir/quickstart", "Work directory with trained models.")
    flags.DEFINE_integer("num_ads", 1_000_000, "Number of ads of the generated catalog.", 1024)
    flags.DEFINE_integer("singles", 500, "Number of consecutive requests.", lower_bound=10)
    flags.DEFINE_string(
        "output", str(operations.MeasuredConstants.default_path()), "File for the constants."
    )
    cli.run(main)
