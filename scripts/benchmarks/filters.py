"""Measures speed and recall of filtered searches of the ad index, next to unfiltered ones.

    python scripts/benchmarks/filters.py
    python scripts/benchmarks/filters.py --num_ads=20000 --num_queries=50

Takes five minutes for 1,000,000 ads of 256 dimensions, mostly to build and tune the index, and 3 GB
of memory. Embeddings come from `tower_embeddings`. Filters keep 50 % to 0.01 % of the ads, drawn at
random or (`areas`) as whole neighborhoods, which are mostly far from the query; other filters keep
nearly all. Each query is searched alone, with k = 500 and one thread; the time includes evaluating
the filter.

`first_ms` is the time of the first query with a filter, which evaluates it and may collect the
eligible ads; p50 and p99 are computed from the queries after it. Recall is relative to exact search
among the eligible ads. `left_of_unfiltered` is the number of eligible ads in an unfiltered top 500.
Prints a table, and JSON as the last line.
"""

import time
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
from absl import flags
from workload import harness, tower_embeddings

from serving import cli, index, requests

flags.DEFINE_integer("num_ads", 1_000_000, "Number of ads of the release.", lower_bound=1024)
flags.DEFINE_integer("dimension", 256, "Embedding size.", lower_bound=2)
flags.DEFINE_integer("num_queries", 300, "Number of queries per row.", lower_bound=10)
flags.DEFINE_integer("k", 500, "Number of ads per query.", lower_bound=1)
flags.DEFINE_enum("kind", "IVFPQ", ("Flat", "IVF", "IVFPQ", "HNSW"), "Kind of index.")
FLAGS = flags.FLAGS
SHARES = (0.5, 0.2, 0.05, 0.01, 0.0001)
_COLUMNS = {
    "filter": "", "eligible": ",", "first_ms": ".2f", "p50_ms": ".2f", "p99_ms": ".2f",
    "recall": ".4f", "results": ",", "left_of_unfiltered": ".1f",
}  # fmt: skip
_AREAS = 1000
_LEFT_QUERIES = 50
_TUNING_QUERIES = 100
Measured = dict[str, Any]


def main() -> None:
    space = tower_embeddings.Space.drawn(FLAGS.dimension)
    embeddings = np.concatenate(list(space.chunks(FLAGS.num_ads)))
    drawn = space.queries(FLAGS.num_queries + _TUNING_QUERIES)
    tuning_queries, queries = np.split(drawn, [_TUNING_QUERIES])
    started = time.perf_counter()
    config = index.IndexConfig(kind=FLAGS.kind, num_candidates=FLAGS.k)
    searcher = index.build_index(embeddings, config, tuning_queries=tuning_queries).searcher
    state = {
        "num_ads": FLAGS.num_ads,
        "dimension": FLAGS.dimension,
        "k": FLAGS.k,
        "kind": searcher.kind,
        "search": searcher.search_parameters(),
        "index_seconds": time.perf_counter() - started,
    }
    ads, filters = catalog(embeddings)
    fields = index.Eligibility(ads, index.AD_ID)
    started = time.perf_counter()
    fields.prepare()
    state["prepare_seconds"] = time.perf_counter() - started
    checker = requests.FilterFields(fields.kinds)
    rows = []
    for name, arguments in {"none": None, **filters}.items():
        checked = checker.check(None if arguments is None else requests.Filters(**arguments))
        rows.append({"filter": name, **measure(searcher, embeddings, queries, fields, checked)})
    harness.print_rows(rows, _COLUMNS)
    harness.print_json({**state, "filters": rows})


def catalog(embeddings: np.ndarray) -> tuple[pa.Table, dict[str, Any]]:
    """Returns ids and fields of the ads, and named filters on them."""
    num_ads = len(embeddings)
    rng = np.random.default_rng(3)
    pivots = embeddings[np.sort(rng.choice(num_ads, min(_AREAS, num_ads), replace=False))]
    _, nearest = faiss.knn(embeddings, pivots, 1, metric=faiss.METRIC_INNER_PRODUCT)
    areas = nearest[:, 0]
    columns: dict[str, Any] = {index.AD_ID: [f"ad-{row}" for row in range(num_ads)]}
    columns["area"] = areas.astype(str)
    counts = np.bincount(areas, minlength=len(pivots))
    filters: dict[str, Any] = {}
    for share in SHARES:
        # Value "0" of the field has this share of the ads.
        name = f"group_{round(1 / share)}"
        columns[name] = rng.integers(0, round(1 / share), num_ads).astype(str)
        filters[f"random {share:.2%}"] = {"conditions": [{"field": name, "any_of": ["0"]}]}
        # Areas in random order; for a small share, the smallest ones.
        order = rng.permutation(len(pivots)) if share > 0.001 else np.argsort(counts)
        enough = int(np.searchsorted(np.cumsum(counts[order]), share * num_ads)) + 1
        chosen = [str(area) for area in order[:enough]]
        filters[f"areas {share:.2%}"] = {"conditions": [{"field": "area", "any_of": chosen}]}
    filters["without 2 areas"] = {"conditions": [{"field": "area", "none_of": ["3", "70"]}]}
    filters["without 100 ads"] = {"excluded_ads": [f"ad-{row}" for row in range(100)]}
    return pa.table(columns), filters


def measure(
    searcher: index.Searcher,
    embeddings: np.ndarray,
    queries: np.ndarray,
    fields: index.Eligibility,
    filters: requests.Filters | None,
) -> Measured:
    """Searches with each query alone, evaluating the filters, and returns a row of the table."""

    def search(query: np.ndarray) -> np.ndarray:
        eligible = None if filters is None else fields.eligible(filters)
        return searcher.search(query, FLAGS.k, eligible)[1][0]

    milliseconds, found = harness.time_each(search, queries[:, None])
    measured: Measured = {
        "eligible": len(embeddings),
        "first_ms": milliseconds[0],
        **harness.percentiles(milliseconds[1:]),
        "results": len(found[0]),
        "left_of_unfiltered": float(len(found[0])),
    }
    if filters is None:
        return {**measured, "recall": exact_recall(embeddings, queries, found)}
    eligible = fields.eligible(filters)
    eligible_rows = eligible.rows
    positions = [np.searchsorted(eligible_rows, rows) for rows in found]
    _, unfiltered = searcher.search(queries[:_LEFT_QUERIES], FLAGS.k)
    return {
        **measured,
        "eligible": eligible.count,
        "left_of_unfiltered": float(eligible.contains(unfiltered).sum(axis=1).mean()),
        "recall": exact_recall(embeddings[eligible_rows], queries, positions),
    }


def exact_recall(embeddings: np.ndarray, queries: np.ndarray, found: list[np.ndarray]) -> float:
    """Returns the recall of found positions against exact search; 1 if there are no embeddings."""
    if not len(embeddings):
        return 1.0
    exact = index.exact_rows([embeddings], queries, FLAGS.k)
    return float(index.recall_of_rows(np.stack(found), exact).mean())


if __name__ == "__main__":
    cli.run(main)
