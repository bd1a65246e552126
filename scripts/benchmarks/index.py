"""Measures the ad index: recall, latency, throughput, memory, building and loading.

    python scripts/benchmarks/index.py
    python scripts/benchmarks/index.py --scann_python=workdir/scann-venv/bin/python
    python scripts/benchmarks/index.py --embeddings=ads.npy --queries=queries.npy
    python scripts/benchmarks/index.py --num_ads=10000000 --kind=IVFPQ --num_queries=200
    python scripts/benchmarks/index.py --kind=IVFPQ --kind=IVF4096,SQ8
    python scripts/benchmarks/index.py --sweep=10000,100000,1000000 --plot=growth.png

Takes ten minutes for a million ads on two cores, and twenty for ten million, which are never in
memory at once: they are generated, added and searched exactly in chunks. Embeddings come from
`tower_embeddings`, or from files. Each row is an index with one
setting of its search parameters, at k = 500: single queries on one thread (p50, p99, recall), and
one batch on all cores. TFRS `BruteForce` is measured too, and ScaNN if --scann_python is the
interpreter of a separate environment, because it cannot be loaded with TensorFlow 2.21
(python3 -m venv workdir/scann-venv; workdir/scann-venv/bin/pip install scann).

The last line is JSON: `rows`, and `best`, the row with the lowest p99 that reaches --target_recall,
for each number of ads and library.
"""

import os
import pathlib
from typing import Any

import tfrec  # noqa: F401  (first: it selects Keras 2 and lets TensorFlow start quietly)

# isort: split
import matplotlib.figure
import numpy as np
from absl import flags
from peers import index_peers
from workload import fresh_process, harness, index_rows, tower_embeddings

from serving import cli, index

FLAGS = flags.FLAGS
Row = dict[str, Any]
# With more ads, exact search and the peers, which keep floats, are skipped.
_MAX_ADS_IN_MEMORY = 2_000_000
_MAX_EXACT_QUERIES = 100
# Queries for training an index of generated ads; an export has about as many.
_TRAINING_QUERIES = 500


def main() -> None:
    if FLAGS.scann_python:
        index_peers.check_scann(FLAGS.scann_python)
    workdir = pathlib.Path(FLAGS.output_dir)
    workdir.mkdir(parents=True, exist_ok=True)
    configs = [
        index.IndexConfig(
            kind=kind, num_lists=FLAGS.num_lists, refine=FLAGS.refine, num_candidates=FLAGS.k
        )
        for kind in FLAGS.kind
    ]
    sizes = harness.flag_numbers("sweep", "10000,100000") if FLAGS.sweep else [FLAGS.num_ads]
    given = _given()
    rows: list[Row] = []
    for size in sizes:
        catalog, queries = _generated(size) if given is None else given
        rows += measure(catalog, queries, configs, workdir)
    result = {
        "k": FLAGS.k,
        "target_recall": FLAGS.target_recall,
        "cores": os.cpu_count(),
        "source": FLAGS.embeddings or "generated",
        "rows": rows,
        "best": best(rows, FLAGS.target_recall),
        "scann": "measured" if FLAGS.scann_python else "not measured, for lack of --scann_python",
        "peak_rss_mb": fresh_process.peak_rss_mb(),
    }
    print_table(result)
    if FLAGS.plot:
        pathlib.Path(FLAGS.plot).parent.mkdir(parents=True, exist_ok=True)
        plot(result, FLAGS.plot)
    harness.print_json(result)


def measure(
    catalog: index_rows.EmbeddedAds,
    queries: np.ndarray,
    configs: list[index.IndexConfig],
    workdir: pathlib.Path,
) -> list[Row]:
    """Measures all kinds of index and the peers on one catalog."""
    num_ads = catalog.num_ads
    print(f"{num_ads:,} ads: exact search of {len(queries)} queries", flush=True)
    k = min(FLAGS.k, num_ads)
    exact_rows = index.exact_rows(catalog.chunks(), queries, k)
    rows = []
    for config in configs:
        if config.kind == "Flat" and num_ads > _MAX_ADS_IN_MEMORY:
            continue
        print(f"{num_ads:,} ads: {config.kind}", flush=True)
        query_slice = slice(None, _MAX_EXACT_QUERIES if config.kind == "Flat" else None)
        saved = workdir / f"{num_ads}-{config.kind}.faiss"
        built = index_rows.build(catalog, config, queries.shape[1], saved)
        rows += index_rows.measure(
            built, config, queries[query_slice], exact_rows[query_slice], saved
        )
    if num_ads <= _MAX_ADS_IN_MEMORY and FLAGS.peers:
        ads = np.concatenate(list(catalog.chunks()))
        print(f"{num_ads:,} ads: peers", flush=True)
        rows.append(index_peers.brute_force(ads, queries, exact_rows))
        if FLAGS.scann_python:
            rows += index_peers.scann(FLAGS.scann_python, ads, queries, exact_rows)
    return [{"num_ads": num_ads, **row} for row in rows]


def best(rows: list[Row], target_recall: float) -> list[Row]:
    """Returns the row with the lowest p99 that reaches the recall, for each N and library."""
    chosen: dict[tuple[int, str], Row] = {}
    for row in rows:
        key = row["num_ads"], row["library"]
        reaches = row["recall"] >= target_recall
        if reaches and (key not in chosen or row["p99_ms"] < chosen[key]["p99_ms"]):
            chosen[key] = row
    return list(chosen.values())


def print_table(result: Row) -> None:
    """Prints the rows; the best of each library is marked."""
    columns = {
        "best": "", "num_ads": ",", "name": "", "recall": ".4f", "p50_ms": ".2f", "p99_ms": ".2f",
        "batch_queries_per_second": ",.0f", "build_seconds": ".1f", "megabytes": ".1f",
        "load_seconds": ".2f",
    }  # fmt: skip
    rows = [{"best": "*" if row in result["best"] else "", **row} for row in result["rows"]]
    harness.print_rows(rows, columns)
    print(f"* lowest p99 with recall at {result['k']} of at least {result['target_recall']:g}")
    print(f"ScaNN: {result['scann']}. Peak memory: {result['peak_rss_mb']:,.0f} MB.")


def plot(result: Row, path: str) -> None:
    """Plots latency, memory and build time of the best rows over N."""
    figure = matplotlib.figure.Figure(figsize=(12, 4), layout="constrained")
    shown = {"p99_ms": "p99 ms", "megabytes": "index, MB", "build_seconds": "build, s"}
    for axes, (key, label) in zip(figure.subplots(1, 3), shown.items(), strict=True):
        for library in dict.fromkeys(row["library"] for row in result["best"]):
            rows = [r for r in result["best"] if r["library"] == library and key in r]
            axes.plot([r["num_ads"] for r in rows], [r[key] for r in rows], "o-", label=library)
        axes.set(xscale="log", yscale="log", xlabel="ads", ylabel=label)
        axes.grid(alpha=0.3)
    axes.legend()
    figure.suptitle(f"Lowest p99 at recall@{result['k']} ≥ {result['target_recall']:g}")
    figure.savefig(path)


def _given() -> tuple[index_rows.EmbeddedAds, np.ndarray] | None:
    if bool(FLAGS.embeddings) != bool(FLAGS.queries):
        raise ValueError("--embeddings and --queries: expected both or neither.")
    if not FLAGS.embeddings:
        return None
    if FLAGS.sweep:
        raise ValueError("--sweep: expected generated embeddings, not --embeddings.")
    ads, queries = np.load(FLAGS.embeddings, mmap_mode="r"), np.load(FLAGS.queries)
    training_queries, queries = queries[1::2], queries[::2]
    rows = tower_embeddings.CHUNK
    catalog = index_rows.EmbeddedAds(
        len(ads),
        lambda: (
            ads[first : first + rows].astype(np.float32) for first in range(0, len(ads), rows)
        ),
        lambda size: index.sample_vectors(ads, size, seed=0).astype(np.float32),
        training_queries.astype(np.float32),
    )
    return catalog, queries[: FLAGS.num_queries].astype(np.float32)


def _generated(num_ads: int) -> tuple[index_rows.EmbeddedAds, np.ndarray]:
    space = tower_embeddings.Space.drawn(FLAGS.dimension)

    # Ads are drawn independently of each other, so the first ones are a sample.
    def sample(size: int) -> np.ndarray:
        return np.concatenate(list(space.chunks(size)))

    queries = space.queries(FLAGS.num_queries + _TRAINING_QUERIES)
    measured, training_queries = np.split(queries, [FLAGS.num_queries])
    catalog = index_rows.EmbeddedAds(
        num_ads, lambda: space.chunks(num_ads), sample, training_queries
    )
    return catalog, measured


if __name__ == "__main__":
    flags.DEFINE_integer("num_ads", 1_000_000, "Number of generated ads.", lower_bound=1)
    flags.DEFINE_list("sweep", None, "Several numbers of generated ads; replaces --num_ads.")
    flags.DEFINE_integer("dimension", 256, "Embedding size of generated ads.", lower_bound=1)
    flags.DEFINE_string("output_dir", "workdir/benchmark_index", "Directory for the indexes.")
    flags.DEFINE_bool("peers", True, "Also measure TFRS BruteForce and ScaNN.")
    flags.DEFINE_string("scann_python", None, "Python interpreter with scann and numpy.")
    flags.DEFINE_string("embeddings", None, "Ad embeddings, .npy [N, D].")
    flags.DEFINE_string("queries", None, "Query embeddings, .npy [Q, D].")
    flags.DEFINE_integer("num_queries", 1_000, "Maximum number of queries to use.", lower_bound=2)
    flags.DEFINE_integer("k", 500, "Number of ads to find.", lower_bound=1)
    flags.DEFINE_float("target_recall", 0.99, "Recall at k that the best rows must reach.", 0, 1)
    flags.DEFINE_multi_string("kind", ["Flat", "IVFPQ"], "Kind or factory string; repeatable.")
    flags.DEFINE_integer("num_lists", None, "Number of cells; default: depends on the ads.")
    flags.DEFINE_enum("refine", "SQ8", ["SQ8", "SQbf16"], "Vectors that rescore, of IVFPQ.")
    flags.DEFINE_string("plot", None, "PNG file for a plot of the best rows over the ads.")
    cli.run(main)
