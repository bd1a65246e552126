"""Speed and recall of filtered searches of the ad index, beside unfiltered ones.

    python scripts/benchmark_filters.py
    python scripts/benchmark_filters.py --num_ads=20000 --num_queries=50

Four minutes at 1,000,000 ads of 256 dimensions, most of them for building and tuning the index;
3 GB of memory. The ads are clustered unit vectors: a sub-topic out of 2,000 of unequal size and
an own part, in directions of falling weight, as trained embeddings lie. Filters leave 50 %, 1 %
and 0.01 % of the ads, drawn at random or (`topics`) whole sub-topics, which mostly lie far from
the query. Single queries, k = 500, one thread: the filter is resolved, the index searched.

`first` is the first query with a filter, which resolves it and may gather the eligible ads; p50
and p99 are of the following ones. Recall is against exact search among the eligible ads. `left`
is what dropping ineligible ads from an unfiltered top 500 would leave of it. Prints a table, and
as the last line JSON; --json=FILE writes it too.
"""

import json
import pathlib
import time
from typing import Any

import command_line
import faiss
import numpy as np
import pyarrow as pa
from absl import flags

from serving import ad_index, eligibility, filter_fields, index_build

flags.DEFINE_integer("num_ads", 1_000_000, "Ads.", lower_bound=1)
flags.DEFINE_integer("dimension", 256, "Size of an embedding.", lower_bound=2)
flags.DEFINE_integer("num_queries", 200, "Queries measured for each filter.", lower_bound=10)
flags.DEFINE_integer("k", 500, "Ads for each query.", lower_bound=1)
flags.DEFINE_enum("kind", "IVFPQ", index_build.KINDS, "Kind of the index.")
flags.DEFINE_string("json", None, "File for the JSON.")
FLAGS = flags.FLAGS

_TOPICS = 2000
SHARES = (0.5, 0.01, 0.0001)
Measured = dict[str, Any]


def main() -> None:
    embeddings, topics = draw(FLAGS.num_ads, seed=1)
    queries, _ = draw(FLAGS.num_queries + 100, seed=2)
    started = time.perf_counter()
    built = ad_index.build(
        embeddings,
        ad_index.IndexConfig(kind=FLAGS.kind, num_candidates=FLAGS.k),
        tuning_queries=queries[:100],
    )
    build_seconds = time.perf_counter() - started
    queries = queries[100:]
    ads, filters = catalogue(topics)
    index = eligibility.Eligibility(ads, ad_index.AD_ID)
    checker = filter_fields.FilterFields(index.kinds)
    # What is built when a field is named for the first time is not part of a filter's cost.
    for name in index.kinds:
        index.eligible(checker.check({"conditions": [{"field": name, "any_of": ["none"]}]}))
    rows = [measure(built.searcher, embeddings, queries, index, None, "none")]
    for name, wanted in filters.items():
        rows.append(
            measure(built.searcher, embeddings, queries, index, checker.check(wanted), name)
        )
    result = {
        "num_ads": FLAGS.num_ads,
        "dimension": FLAGS.dimension,
        "k": FLAGS.k,
        "index": built.manifest_index(rows[0]["recall"]),
        "build_seconds": build_seconds,
        "filters": rows,
    }
    print_table(rows)
    if FLAGS.json:
        pathlib.Path(FLAGS.json).write_text(json.dumps(result) + "\n")
    print(json.dumps(result))


def draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns clustered unit vectors [count, D] float32, and their sub-topics [count]."""
    world = np.random.default_rng(0)
    scale = (1 / (1 + np.arange(FLAGS.dimension) / 8)).astype(np.float32)
    centres = world.standard_normal((_TOPICS, FLAGS.dimension), dtype=np.float32) * scale
    weights = 1 / (10 + np.arange(_TOPICS)) ** 0.7
    rng = np.random.default_rng(seed)
    topics = rng.choice(_TOPICS, count, p=weights / weights.sum())
    points = rng.standard_normal((count, FLAGS.dimension), dtype=np.float32)
    points *= 0.6 * scale
    points += centres[topics]
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points, topics


def catalogue(topics: np.ndarray) -> tuple[pa.Table, dict[str, Any]]:
    """Returns the ads' fields, and filters over them by name."""
    rng = np.random.default_rng(3)
    # Random groups: value "0" of a field holds the wanted share.
    columns: dict[str, Any] = {ad_index.AD_ID: [f"ad-{row}" for row in range(len(topics))]}
    columns["topic"] = topics.astype(str)
    filters = {}
    for share in SHARES:
        name = f"group_{share:g}".replace(".", "_")
        columns[name] = rng.integers(0, round(1 / share), len(topics)).astype(str)
        filters[f"random {share:.2%}"] = {"conditions": [{"field": name, "any_of": ["0"]}]}
        wanted = _topics_of(topics, share, rng)
        filters[f"topics {share:.2%}"] = {
            "conditions": [{"field": "topic", "any_of": list(wanted[:1000])}]
        }
    filters["without 2 topics"] = {"conditions": [{"field": "topic", "none_of": ["3", "70"]}]}
    filters["without 100 ads"] = {"excluded_ads": [f"ad-{row}" for row in range(100)]}
    return pa.table(columns), filters


def _topics_of(topics: np.ndarray, share: float, rng: np.random.Generator) -> list[str]:
    """Returns sub-topics in a random order until they hold a share of the ads."""
    counts = np.bincount(topics, minlength=_TOPICS)
    # One small sub-topic where the share is smaller than most.
    order = rng.permutation(_TOPICS) if share > 0.001 else np.argsort(counts)
    enough = int(np.searchsorted(np.cumsum(counts[order]), share * len(topics))) + 1
    return [str(topic) for topic in order[:enough]]


def measure(
    searcher: Any,
    embeddings: np.ndarray,
    queries: np.ndarray,
    index: eligibility.Eligibility,
    filters: Any,
    name: str,
) -> Measured:
    """Searches with every query alone; returns a row of the table."""
    seconds, found, left = [], [], []
    for query in queries[:, None]:
        started = time.perf_counter()
        eligible = None if filters is None else index.eligible(filters)
        _, rows = searcher.search(query, FLAGS.k, eligible)
        seconds.append(time.perf_counter() - started)
        found.append(rows[0])
        if eligible is not None and len(left) < 20:
            _, unfiltered = searcher.search(query, FLAGS.k)
            left.append(eligible.contains(unfiltered[0]).sum())
    count = len(embeddings) if filters is None else index.eligible(filters).count
    own = np.arange(len(embeddings)) if filters is None else index.eligible(filters).rows
    milliseconds = 1000 * np.array(seconds)
    return {
        "filter": name,
        "eligible": count,
        "first_ms": float(milliseconds[0]),
        "p50_ms": float(np.percentile(milliseconds[1:], 50)),
        "p99_ms": float(np.percentile(milliseconds[1:], 99)),
        "recall": _recall(embeddings, own, queries, found),
        "results": len(found[0]),
        "left_of_unfiltered": float(np.mean(left)) if left else float(len(found[0])),
    }


def _recall(
    embeddings: np.ndarray, own: np.ndarray, queries: np.ndarray, found: list[np.ndarray]
) -> float:
    """Returns the share of the exact best of the rows `own` that was found."""
    k = min(FLAGS.k, len(own))
    part = embeddings if len(own) == len(embeddings) else embeddings[own]
    _, places = faiss.knn(queries, part, k, metric=faiss.METRIC_INNER_PRODUCT)
    return float(
        np.mean([np.isin(own[best], rows).mean() for best, rows in zip(places, found, strict=True)])
    )


def print_table(rows: list[Measured]) -> None:
    """Prints the measurements."""
    print(
        f"{'filter':18} {'eligible':>9} {'first ms':>9} {'p50 ms':>7} {'p99 ms':>7} "
        f"{'recall':>7} {'results':>8} {'left':>6}"
    )
    for row in rows:
        print(
            f"{row['filter']:18} {row['eligible']:9,} {row['first_ms']:9.2f} {row['p50_ms']:7.2f} "
            f"{row['p99_ms']:7.2f} {row['recall']:7.4f} {row['results']:8,} "
            f"{row['left_of_unfiltered']:6.1f}"
        )


if __name__ == "__main__":
    command_line.run(main)
