r"""Measures latency and throughput of requests over HTTP, through all stages.

    make quickstart
    python scripts/benchmarks/http_service.py
    python scripts/benchmarks/http_service.py --num_ads=10000 --rates=40,60 --duration_seconds=5
    python scripts/benchmarks/http_service.py --num_ads=200000 --index=HNSW \
        --milvus_uri=http://127.0.0.1:19530

The setup matches production on a single machine: `scripts/serve.py` with --workers processes, the
embedded model server in another process, and the load generator in a third (`poisson_load.py`).
The models are from --workdir. A catalog of --num_ads ads is generated from the values of its
ads (`wide_catalog.py`) and indexed in WORKDIR/benchmark_serving, once for the same models and
--index. This takes about ten minutes for a million ads on two cores; the measurement takes a few
minutes.

Prints a table, and JSON as the last line: `p50_ms` and `p99_ms` of consecutive requests;
`max_sustained_rps` (the highest rate with p99 below 100 ms, no failure and at most 1 % of
the requests degraded); `stages`; `overhead_ms` (the orchestrator's time without query tower, index
and ranker); `http_ms` (between client and orchestrator); `capacity_rps` (answers per second to
clients that keep the service busy); `overload` (at multiples of the capacity: `goodput_rps`, the
answers per second within --deadline_ms, and `late_share`, the share of the answers that come
later); `in_process` (both stages in one process, without HTTP or gRPC); `processor_ms_per_request`
and `peak_memory_mb` of each process (memory-mapped files count in each process that has read them).

Processor time is measured on the consecutive requests, so other load on the machine changes it
little.
"""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags
from workload import fresh_process, harness, poisson_load, running_service, wide_catalog

from serving import cli, export, index, manifest, releases
from serving.client import LocalClient
from tfrec import ranking, retrieval
from tfrecords import files, reader

WARM_UP, SINGLES = 50, 500
ADS_PER_ANSWER = 10
# Limit of the p99 at a sustained rate.
MAX_P99_MS = 100.0
# Multiples of the capacity.
LOADS = (1.0, 2.0, 3.0)
# More than a process computes at a time without sharing calls: 1 in the index, 4 in the ranker.
NUM_CLIENTS = 12
STAGES = ("query_tower", "index", "features", "ranker", "total")


def main() -> None:
    values = flags.FLAGS
    requested_rates = harness.flag_numbers("rates", "20,40", 1)
    name = f"{values.num_ads}{'-milvus' if values.milvus_uri else ''}"
    base = pathlib.Path(values.workdir) / "benchmark_serving" / name
    config = index.IndexConfig(
        kind=values.index,
        refine="SQbf16",
        backend="milvus" if values.milvus_uri else "faiss",
        milvus_uri=values.milvus_uri,
    )
    fresh_process.call(build, pathlib.Path(values.workdir), base, values.num_ads, config)
    fields = json.loads((base / "requests.json").read_text(encoding="utf-8"))
    bodies = [json.dumps({"context": context, "k": ADS_PER_ANSWER}).encode() for context in fields]
    with running_service.serve(base, f"--workers={values.workers}") as (url, process_ids):
        target = poisson_load.Target(url, bodies)
        before = {
            name: fresh_process.cpu_ms(process_id) for name, process_id in process_ids.items()
        }
        single = fresh_process.call(poisson_load.one_by_one, target, SINGLES, WARM_UP)
        processor_ms = {
            name: round((fresh_process.cpu_ms(process_ids[name]) - ms) / (SINGLES + WARM_UP), 2)
            for name, ms in before.items()
        }
        rates = list(_measure_rates(target, requested_rates))
        hurried = dataclasses.replace(
            target, headers=(("x-deadline-ms", f"{values.deadline_ms:g}"),)
        )
        overloads = measure_overload(hurried, values.duration_seconds)
        memory = {
            name: round(fresh_process.peak_rss_mb(process_id))
            for name, process_id in process_ids.items()
        }
    in_process = fresh_process.call(measure_in_process, base, fields)
    result = {
        "num_ads": values.num_ads,
        "workers": values.workers,
        **summary(single, rates),
        **overload_summary(*overloads, values.deadline_ms, values.duration_seconds),
        "in_process": in_process,
        "processor_ms_per_request": processor_ms,
        "peak_memory_mb": {**memory, "sum": sum(memory.values())},
    }
    print_table(result)
    harness.print_json(result)


def build(
    workdir: pathlib.Path, base: pathlib.Path, num_ads: int, config: index.IndexConfig
) -> None:
    """Exports the trained models with a generated catalog, unless an earlier run did.

    Call it in a fresh process.
    """
    trained_on = reader.DataSet(workdir / "data")
    two_tower, _ = retrieval.load_two_tower(trained_on, workdir / "retrieval")
    model, calibrators, _ = ranking.load_ranker(trained_on, workdir / "ranker")
    data_set = wide_catalog.WideDataSet(workdir / "data", num_ads)
    metrics = {"note": "generated catalog, for benchmarks only", "index": repr(config)}
    requests = base / "requests.json"
    if requests.is_file():
        earlier = manifest.read(base, max(releases.versions(base)))
        training_id = export.training_id_of(data_set, two_tower, model)
        if (earlier.training_id, earlier.metrics) == (training_id, metrics):
            return
    shutil.rmtree(base, ignore_errors=True)
    print(f"indexing {num_ads:,} generated ads in {base}", flush=True)
    export.export_release(base, data_set, two_tower, model, calibrators, config, metrics)
    files.write_json(requests, data_set.sample_requests())


def measure_in_process(base: pathlib.Path, fields: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Times both stages in this process; call it in a fresh process."""
    contexts = [fields[number % len(fields)] for number in range(-WARM_UP, SINGLES)]
    with LocalClient(base) as client:
        milliseconds, _ = harness.time_each(
            lambda context: client.recommend(context=context, k=ADS_PER_ANSWER), contexts
        )
    return {
        **harness.percentiles(milliseconds[WARM_UP:]),
        "peak_memory_mb": round(fresh_process.peak_rss_mb()),
    }


def measure_overload(
    target: poisson_load.Target, seconds: float
) -> tuple[float, list[dict[str, Any]]]:
    """Measures the capacity, and the outcome of requests at multiples of it.

    Returns:
        Answers per second at capacity, and the raw result of each load.
    """
    capacity = fresh_process.call(poisson_load.saturate, target, NUM_CLIENTS, seconds)
    return capacity, [
        fresh_process.call(poisson_load.poisson, target, load * capacity, seconds, number)
        for number, load in enumerate(LOADS)
    ]


def overload_summary(
    capacity: float, loads: Sequence[dict[str, Any]], deadline_ms: float, seconds: float
) -> dict[str, Any]:
    """Returns a summary of the raw results of loads around the capacity."""
    rows = []
    for raw in loads:
        milliseconds = np.array(raw["milliseconds"])
        in_time = int((milliseconds <= deadline_ms).sum())
        rows.append(
            {
                **{name: value for name, value in raw.items() if name != "milliseconds"},
                **harness.percentiles(raw["milliseconds"]),
                "load": round(raw["rate"] / capacity, 2),
                "goodput_rps": round(in_time / seconds, 1),
                "late_share": round(1 - in_time / max(1, len(milliseconds)), 4),
            }
        )
    return {"capacity_rps": round(capacity, 1), "deadline_ms": deadline_ms, "overload": rows}


def summary(single: dict[str, Any], rates: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns a summary of the raw times."""
    stages = {stage: [s[stage] for s in single["stage_ms"]] for stage in STAGES}
    total = np.array(stages["total"])
    overhead = total - sum(np.array(stages[name]) for name in ("query_tower", "index", "ranker"))
    http = np.array(single["milliseconds"][: len(total)]) - total
    rows = []
    for raw in rates:
        row = {name: value for name, value in raw.items() if name != "milliseconds"}
        row.update(harness.percentiles(raw["milliseconds"]))
        bad = row["failed"] + row["refused"]
        row["sustained"] = bool(
            bad == 0 and row["degraded"] <= 0.01 * row["sent"] and row["p99_ms"] < MAX_P99_MS
        )
        rows.append(row)
    sustained = [row["rate"] for row in rows if row["sustained"]]
    return {
        **harness.percentiles(single["milliseconds"]),
        "failed": single["failed"],
        "degraded": single["degraded"],
        "max_sustained_rps": max(sustained, default=None),
        "stages": {name: harness.percentiles(values) for name, values in stages.items()},
        "overhead_ms": harness.percentiles(overhead),
        "http_ms": harness.percentiles(http),
        "rates": rows,
    }


def print_table(result: dict[str, Any]) -> None:
    """Prints the result as tables."""
    print(f"\n{result['num_ads']:,} ads, {result['workers']} worker(s)")
    rows = {
        "consecutive requests, over HTTP": result,
        **{f"  {name}": values for name, values in result["stages"].items()},
        "  overhead of the orchestrator": result["overhead_ms"],
        "  HTTP": result["http_ms"],
        "in process": result["in_process"],
    }
    timed = [{"part": name, **row} for name, row in rows.items()]
    harness.print_rows(timed, {"part": "", "p50_ms": ".2f", "p99_ms": ".2f"})
    counts = dict.fromkeys(("sent", "failed", "refused", "degraded"), "")
    harness.print_rows(result["rates"], {"rate": ".0f", **counts, "p50_ms": ".1f", "p99_ms": ".1f"})
    print(
        f"capacity: {result['capacity_rps']:.0f} answers per second; deadline: "
        f"{result['deadline_ms']:g} ms"
    )
    overload = {"load": "g", **counts, "goodput_rps": ".1f", "late_share": ".1%"}
    harness.print_rows(result["overload"], {**overload, "p50_ms": ".0f", "p99_ms": ".0f"})
    times = ", ".join(f"{k} {v:.1f}" for k, v in result["processor_ms_per_request"].items())
    print(f"processor time of a request, ms: {times}")
    memory = ", ".join(f"{name} {size:,.0f}" for name, size in result["peak_memory_mb"].items())
    print(f"sustained: {result['max_sustained_rps']} a second; peak memory, MB: {memory}")


def _measure_rates(target: poisson_load.Target, rates: Sequence[float]) -> Iterator[dict[str, Any]]:
    for number, rate in enumerate(sorted(rates)):
        seconds = flags.FLAGS.duration_seconds
        found = fresh_process.call(poisson_load.poisson, target, rate, seconds, number)
        yield found
        if harness.percentiles(found["milliseconds"])["p99_ms"] > 20 * MAX_P99_MS:
            return


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "workdir/quickstart", "Work directory with trained models.")
    flags.DEFINE_integer(
        "num_ads", 1_000_000, "Number of ads of the generated catalog.", lower_bound=1024
    )
    flags.DEFINE_enum("index", "IVFPQ", ["IVFPQ", "IVF", "HNSW", "Flat"], "Kind of index.")
    flags.DEFINE_string(
        "milvus_uri", None, "Address of a Milvus server for the index; its kind is HNSW or Flat."
    )
    flags.DEFINE_list(
        "rates", ["20", "40", "60", "80", "100", "120"], "Rates to measure, in requests per second."
    )
    flags.DEFINE_float("duration_seconds", 20.0, "Duration of each rate.", lower_bound=1.0)
    flags.DEFINE_float("deadline_ms", 500.0, "Deadline under overload.", lower_bound=1.0)
    flags.DEFINE_integer("workers", 1, "Number of processes of the service.", lower_bound=1)
    cli.run(main)
