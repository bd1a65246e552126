"""Records the answers of a release, for scripts/demo.py to replay.

    python scripts/docs/record_demo.py --workdir=workdir/quickstart
    python scripts/docs/record_demo.py --bundle=bundles --version=3 --output=recording.json

Takes half a minute. Verifies the release, starts the embedded model server and requests ten ads for
a held-out request: by the default utility, by clicks alone, mostly by revenue, without the value
that most of the ads share, and while the ranker is unreachable. Times 200 consecutive requests. The
file holds the answers and the metrics of the release.
"""

import asyncio
import datetime
import json
import os
import pathlib
import platform
import time
from typing import Any

import numpy as np
from absl import flags

from serving import cli, manifest, operations, orchestrator
from serving.cli import shared_flags
from serving.requests import Answer, Request

shared_flags.define_release()
flags.DEFINE_string("output", "docs/demo_recording.json", "File for the recording.")
FLAGS = flags.FLAGS
_TIMED_REQUESTS = 200
# No server listens on port 1.
_NO_RANKER = "127.0.0.1:1"


def main() -> None:
    recording = asyncio.run(_record(shared_flags.bundle_base()))
    path = pathlib.Path(FLAGS.output)
    path.write_text(json.dumps(recording, indent=1) + "\n", encoding="utf-8")
    print(f"{len(recording['acts'])} answers of release {recording['release']['version']}: {path}")


async def _record(base: pathlib.Path) -> dict[str, Any]:
    async with operations.open_service(base, FLAGS.version, None) as service:
        await service.verify_ranker()
        release = service.release.manifest
        samples = release.probes["requests"]
        context = {name: v for name, v in samples[0].items() if v not in (None, [])}
        answer = await service.recommend(Request(context=context, k=10))
        requests = {
            f"by default: {' + '.join(release.present_heads)}": {},
            "by clicks alone": _weights(release, click=1.0),
            "mostly by revenue": _weights(release, click=0.2, revenue=3.0),
            **_without_a_group(release, answer),
        }
        acts = [
            await _act(service, title, Request(context=context, k=10, **fields))
            for title, fields in requests.items()
        ]
        latency = await _latency(service, samples)
    async with operations.open_service(base, FLAGS.version, _NO_RANKER) as service:
        request = Request(context=context, k=10)
        acts.append(await _act(service, "while the ranker is unreachable", request))
    return {
        "made_by": "scripts/docs/record_demo.py",
        "recorded": datetime.date.today().isoformat(),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "release": _release(release),
        "acts": acts,
        "latency": latency,
    }


def _weights(release: manifest.Manifest, **head_weights: float) -> dict[str, Any]:
    """Returns a request with these weights; other heads get 0 instead of their default."""
    return {"weights": {head: head_weights.get(head, 0.0) for head in release.present_heads}}


def _without_a_group(release: manifest.Manifest, answer: Answer) -> dict[str, Any]:
    """Returns a request that excludes the value that most of the ten ads share."""
    kinds = {field["name"]: field["kind"] for field in release.ad_fields}
    shared: dict[tuple[str, Any], int] = {}
    for ad in answer.ads:
        for name, value in ad.fields.items():
            if kinds.get(name) == "categorical" and value is not None:
                shared[name, value] = shared.get((name, value), 0) + 1
    several = {key: count for key, count in shared.items() if 1 < count < len(answer.ads)}
    if not several:
        return {}
    name, value = max(several, key=lambda key: several[key])
    condition = {"field": name, "none_of": [value]}
    return {f"without {name} = {value}": {"filters": {"conditions": [condition]}}}


async def _act(service: orchestrator.Orchestrator, title: str, request: Request) -> dict[str, Any]:
    await service.recommend(request)  # the first request compiles
    answer = await service.recommend(request)
    return {"title": title, "request": request.to_json(), "answer": answer.to_json()}


async def _latency(
    service: orchestrator.Orchestrator, samples: list[dict[str, Any]]
) -> dict[str, Any]:
    requests = [Request(context=fields) for fields in samples]
    totals = []
    for index in range(_TIMED_REQUESTS):
        started = time.perf_counter()
        await service.recommend(requests[index % len(requests)])
        totals.append(1e3 * (time.perf_counter() - started))
    p50, p99 = (float(np.percentile(totals, q)) for q in (50, 99))
    return {"requests": _TIMED_REQUESTS, "p50_ms": p50, "p99_ms": p99}


def _release(release: manifest.Manifest) -> dict[str, Any]:
    measured = release.metrics
    retrieval = measured["retrieval"]
    recall_of = "held-out clicks"
    recall = {
        name: report["metrics"]["corpus_recall_at_500"]
        for name, report in retrieval["recommenders"].items()
    }
    # With ground truth, the exposure by the logging policy does not count.
    if uniform := retrieval.get("uniform_exposure"):
        recall_of = "clicks under uniform exposure"
        recall = {name: metric["value"] for name, metric in uniform["corpus_recall_at_500"].items()}
    auc = measured["ranker"]["click"]["metrics"]["auc"]
    return {
        "version": release.version,
        "training_id": release.training_id,
        "log": release.schema["name"],
        "ads": release.index["num_ads"],
        "index": release.index["build"]["factory"],
        "impressions_tested": measured["impressions"],
        "click_auc": auc["value"],
        "click_auc_of_the_ground_truth": auc.get("ground_truth"),
        "recall_of": recall_of,
        "recall_at_500": recall,
        "heads": release.outputs,
    }


if __name__ == "__main__":
    cli.run(main)
