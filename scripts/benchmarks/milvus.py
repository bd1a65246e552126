r"""Measures a release whose index is in Milvus: recall, latency, filters, and a restart under load.

    python scripts/benchmarks/http_service.py --num_ads=200000 --index=HNSW \
        --milvus_uri=http://127.0.0.1:19530
    python scripts/benchmarks/milvus.py \
        --bundle=workdir/quickstart/benchmark_serving/200000-milvus
    python scripts/benchmarks/milvus.py --bundle=... --restart_command="docker restart milvus"

The first command exports the release. Takes a minute, and as long as Milvus takes to restart.

Prints JSON: `recall` at 500 against exact search over the vectors that Milvus returns; `search_ms`
of single queries; `request_ms` of whole requests with the ranker in this process; `filters`, for
values of fields that few and many ads have: the eligible ads, and the number of queries whose list
is complete and correct; `restart`: the outcomes of requests with a deadline while Milvus
restarts, and the seconds in which requests failed.
"""

import collections
import pathlib
import subprocess
import threading
import time
from typing import Any

import numpy as np
import pyarrow.compute as pc
from absl import flags
from workload import harness

from serving import cli, errors, index, releases, requests
from serving.client import LocalClient

_WARM_UP, _REQUESTS, _THREADS = 20, 200, 4
# The restart is over after this long without a failure.
_QUIET_SECONDS = 10.0


def main() -> None:
    values = flags.FLAGS
    base = pathlib.Path(values.bundle)
    release = releases.load(base)
    ads = release.ad_index
    assert ads.sample_queries is not None
    queries = np.array(ads.sample_queries[: values.num_queries])
    everything = index.RowSet.full(ads.num_ads)
    exact_rows = ads.searcher.search_exactly(queries, values.k, everything)[1]
    search_ms, found = harness.time_each(
        lambda query: ads.search(query, values.k)[1][0], queries[:, None]
    )
    result: dict[str, Any] = {
        "num_ads": ads.num_ads,
        "index": release.manifest.index,
        "recall": float(index.recall_of_rows(np.stack(found), exact_rows).mean()),
        "search_ms": harness.percentiles(search_ms),
        "filters": _filters(release, queries, values.k),
    }
    sample = [
        requests.parse(requests.Request, {"context": context, "k": 10})
        for context in release.manifest.probes["requests"]
    ]
    with LocalClient(base) as client:
        for request in sample * (_WARM_UP // len(sample) + 1):
            client.recommend(request)
        request_ms, _ = harness.time_each(client.recommend, sample * (_REQUESTS // len(sample)))
        result["request_ms"] = harness.percentiles(request_ms)
        if values.restart_command:
            result["restart"] = _restart(client, sample, values.restart_command, values.deadline_ms)
    harness.print_json(result)


def _filters(release: releases.Bundle, queries: np.ndarray, k: int) -> list[dict[str, Any]]:
    ads, kinds = release.ad_index, release.manifest.ad_kinds
    table = ads.ads(np.arange(ads.num_ads))
    checker = requests.FilterFields(kinds)
    catalog = index.Eligibility(table, index.AD_ID)
    rows = []
    for field in [name for name, kind in kinds.items() if kind == "categorical"]:
        counted = table[field].combine_chunks().drop_null().value_counts()
        by_count = counted.take(pc.sort_indices(counted.field("counts")))
        for value in {by_count[0]["values"].as_py(), by_count[-1]["values"].as_py()}:
            filters = checker.check(
                requests.parse(
                    requests.Filters, {"conditions": [{"field": field, "any_of": [value]}]}
                )
            )
            assert filters is not None
            eligible = catalog.eligible(filters)
            milliseconds, found = harness.time_each(
                lambda query, filters=filters: ads.search(query, k, ads.eligible(filters))[1][0],
                queries[:, None],
            )
            exact = ads.searcher.search_exactly(queries, k, ads.eligible(filters))[1]
            complete = [
                len(ad_rows) == min(k, eligible.count) and bool(eligible.contains(ad_rows).all())
                for ad_rows in found
            ]
            rows.append(
                {
                    "field": field,
                    "ads": eligible.count,
                    "complete": f"{sum(complete)} of {len(complete)}",
                    "recall": float(index.recall_of_rows(np.stack(found), exact).mean()),
                    **harness.percentiles(milliseconds[1:]),
                }
            )
    return rows


def _restart(
    client: LocalClient, sample: list[requests.Request], command: str, deadline_ms: float
) -> dict[str, Any]:
    """Sends requests from several threads while a command restarts Milvus.

    Returns:
        `outcomes`, and `failed_seconds` from the first to the last failed request.
    """
    outcomes: collections.Counter[str] = collections.Counter()
    failures: list[float] = []
    lock, done = threading.Lock(), threading.Event()

    def send() -> None:
        for number in range(10**9):
            if done.is_set():
                return
            request = sample[number % len(sample)].model_copy(update={"deadline_ms": deadline_ms})
            try:
                answer = client.recommend(request)
                outcome = "degraded" if answer.degraded else "answered"
            except errors.ServingError as error:
                outcome = getattr(error, "code", type(error).__name__)
            with lock:
                outcomes[outcome] += 1
                if outcome not in ("answered", "degraded"):
                    failures.append(time.perf_counter())
            done.wait(0.05)

    threads = [threading.Thread(target=send) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    time.sleep(2.0)
    subprocess.run(command, shell=True, check=True)
    restarted = time.perf_counter()
    while time.perf_counter() - max([restarted, *failures[-1:]]) < _QUIET_SECONDS:
        time.sleep(0.2)
    done.set()
    for thread in threads:
        thread.join()
    seconds = failures[-1] - failures[0] if failures else 0.0
    return {"outcomes": dict(outcomes), "failed_seconds": seconds}


if __name__ == "__main__":
    flags.DEFINE_string("bundle", None, "Base directory of the release.", required=True)
    flags.DEFINE_integer("k", 500, "Number of ads per search.", lower_bound=1)
    flags.DEFINE_integer("num_queries", 100, "Number of queries.", lower_bound=2)
    flags.DEFINE_string("restart_command", None, "Shell command that restarts Milvus.")
    flags.DEFINE_float("deadline_ms", 500.0, "Deadline while it restarts.", lower_bound=1.0)
    cli.run(main)
