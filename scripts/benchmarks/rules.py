"""Measures the time to compose an answer from scored candidates, with and without business rules.

    python scripts/benchmarks/rules.py
    python scripts/benchmarks/rules.py --repetitions=50

Takes half a minute and needs no bundle. A request has 500 candidates out of 20,000 generated ads,
with 2,000 advertisers (the most frequent one has a twelfth of the ads), 40 categories and three of
300 tags each; utilities are uniform, and an answer has ten ads. The time covers everything between
the ranker's scores and the answer: order, rules, display fields, explanations, and queueing for the
impression log, whose thread runs concurrently. Each round runs all cases. Prints a table, and JSON
as the last line; --json=FILE also writes it to a file.
"""

import tempfile
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from absl import flags
from workload import harness

from serving import cli, impressions, index, manifest, orchestrator, requests
from tfrec.heads import HEADS

flags.DEFINE_integer("repetitions", 1000, "Number of answers per case.", lower_bound=10)
flags.DEFINE_integer("num_candidates", 500, "Number of candidates per request.", lower_bound=20)
flags.DEFINE_integer("k", 10, "Number of ads per answer.", lower_bound=1)
flags.DEFINE_string("json", None, "File for the result as JSON.")
FLAGS = flags.FLAGS

_NUM_ADS = 20_000
_KINDS = {
    "advertiser": "categorical",
    "category": "categorical",
    "tags": "categorical_list",
    "price": "numeric",
}
_CAP = {"caps": [{"field": "advertiser", "max": 2}]}
_TWO_CAPS = {"caps": [{"field": "advertiser", "max": 2}, {"field": "category", "max": 3}]}
_DIVERSITY = {"diversity": [{"field": "category", "penalty": 0.3}]}
_EXPLORATION = {"exploration": {"share": 0.1}}
_ALL = {
    **_TWO_CAPS,
    "diversity": [*_DIVERSITY["diversity"], {"field": "tags", "penalty": 0.2}],
    **_EXPLORATION,
}
_CASES: dict[str, dict[str, Any]] = {
    "no rules": {},
    "one cap": _CAP,
    "two caps": _TWO_CAPS,
    "diversity": _DIVERSITY,
    "exploration": _EXPLORATION,
    "all": _ALL,
    "all, explained": _ALL,
    "all, explained, logged": _ALL,
}


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        log = impressions.ImpressionLog(directory)
        cases = _cases(log)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
        for _ in range(FLAGS.repetitions):
            for name, answer in cases.items():
                started, worked = time.perf_counter(), time.thread_time()
                answer()
                took = time.perf_counter() - started, time.thread_time() - worked
                times[name].append(took)
        log.close()
        status = log.status()
    rows = []
    for name, own in times.items():
        wall, processor = np.array(own).T * 1000
        median = float(np.median(processor))
        rows.append({"case": name, **harness.percentiles(wall), "p50_processor_ms": median})
    columns = dict.fromkeys(("p50_ms", "p99_ms", "p50_processor_ms"), ".3f")
    harness.print_rows(rows, {"case": "", **columns})
    result = {
        "num_candidates": FLAGS.num_candidates,
        "k": FLAGS.k,
        "repetitions": FLAGS.repetitions,
        "cases": rows,
        "logged_rows": status["written_rows"],
        "dropped_answers": status["dropped_answers"],
    }
    harness.print_json(result, FLAGS.json)


def _cases(log: impressions.ImpressionLog) -> dict[str, Callable[[], requests.Answer]]:
    """Returns the functions to time."""
    rng = np.random.default_rng(0)
    ads = _index(rng)
    count = FLAGS.num_candidates
    found = orchestrator.RequestCandidates(
        ads,
        np.sort(rng.choice(_NUM_ADS, count, replace=False)),
        np.sort(rng.random(count).astype(np.float32))[::-1],
    )
    scores = {head: rng.random(count).astype(np.float32) for head in HEADS}
    release: Any = SimpleNamespace(version=1, manifest=_manifest())

    def case(name: str, rules: dict[str, Any]) -> Callable[[], requests.Answer]:
        valid = requests.ValidRequest(
            values={"country": b"CH"},
            k=FLAGS.k,
            weights=dict.fromkeys(HEADS, 1.0),
            deadline_ms=None,
            request_id="r",
            filters=None,
            rules=requests.RuleFields(_KINDS).check(requests.Rules(**rules)),
            at_cap={},
            explain="explained" in name,
            candidates=False,
            dry_run=False,
        )

        def answer() -> requests.Answer:
            composed = orchestrator.ranked_answer(release, valid, found, scores, {})
            if "logged" in name:
                log.record(release.manifest, valid, composed)
            return composed

        return answer

    return {name: case(name, rules) for name, rules in _CASES.items()}


def _index(rng: np.random.Generator) -> index.AdIndex:
    """Returns an index for looking up fields; it is not searched."""
    table = pa.table(
        {
            index.AD_ID: [f"ad-{row}" for row in range(_NUM_ADS)],
            # The exponent makes the first values frequent: a0 has 0.0005^(1/3.5) of the ads.
            "advertiser": [f"a{int(2000 * x**3.5)}" for x in rng.random(_NUM_ADS)],
            "category": [f"c{x}" for x in rng.integers(0, 40, _NUM_ADS)],
            "tags": [[f"t{x}" for x in row] for row in rng.integers(0, 300, (_NUM_ADS, 3))],
            "price": rng.random(_NUM_ADS),
        }
    )
    embeddings = rng.normal(size=(_NUM_ADS, 4)).astype(np.float32)
    built = index.build_index(embeddings, index.IndexConfig(kind="Flat"))
    with tempfile.TemporaryDirectory() as directory:
        built.save(directory, np.zeros((_NUM_ADS, 1), np.int32), table)
        return index.AdIndex.open(directory)


def _manifest() -> Any:
    """Returns the part of a manifest that answers and the log read."""
    return SimpleNamespace(
        version=1,
        heads=[manifest.ReleaseHead(own.label, own.output, own.kind) for own in HEADS.values()],
        outputs={own.label: own.output for own in HEADS.values()},
        absent_heads=[],
        weak_heads={},
        schema={"name": "generated"},
        query_fields=[{"name": "country", "kind": "categorical"}],
        ad_fields=[{"name": name, "kind": kind} for name, kind in _KINDS.items()],
    )


if __name__ == "__main__":
    cli.run(main)
