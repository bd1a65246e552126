"""Measures the ad index: recall, latency, throughput, memory, building and loading.

    python scripts/benchmarks/index.py
    python scripts/benchmarks/index.py --scann_python=workdir/scann-venv/bin/python
    python scripts/benchmarks/index.py --embeddings=ads.npy --queries=queries.npy
    python scripts/benchmarks/index.py --num_ads=10000000 --kinds=IVFPQ --num_queries=200
    python scripts/benchmarks/index.py --sweep=10000,100000,1000000 --plot=growth.png

Ten minutes at a million ads on two cores, twenty at ten million, which are never held: they are
made, added and searched exactly chunk by chunk. Embeddings are `tower_embeddings`'s, a trained
tower's (--workdir), or files'. Each row is an index at one setting of its search, at k = 500:
single queries on one thread (p50, p99, recall), and one batch on all cores. TFRS `BruteForce` is
measured beside it, and ScaNN where --scann_python is an interpreter of an environment of its own,
which it needs beside TensorFlow 2.21 (python3 -m venv workdir/scann-venv; its pip install scann).

The last line is JSON: `rows`, and `best`, for each N the row of least p99 that reaches
--target_recall, the library's and the peers'.
"""

import os
import pathlib
from typing import Any

import matplotlib.figure
import numpy as np
from absl import flags
from peers import index_peers
from workload import fresh_process, index_rows, results, tower_embeddings

from serving import cli, export, index
from serving.cli.flags import tuning_flags
from tfrecords import terminal

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(tuning_flags)
Row = dict[str, Any]
# Beyond, the peers, which keep floats, and exact search are left out.
_MOST_HELD = 2_000_000
_MOST_EXACT_QUERIES = 100
# Queries that an index of generated ads may learn from; an export has about as many.
_LEARNT_FROM = 500


def main() -> None:
    workdir = pathlib.Path(FLAGS.output_dir)
    workdir.mkdir(parents=True, exist_ok=True)
    if not FLAGS.keep:
        for saved in (*workdir.glob("exact-*.npy"), *workdir.glob("*.faiss.json")):
            saved.unlink()
    targets = index.IndexConfig(
        num_candidates=FLAGS.k, target_recall=FLAGS.target_recall, latency_budget_ms=None
    )
    sizes = results.flag_numbers("sweep", "10000,100000") if FLAGS.sweep else [FLAGS.num_ads]
    given = _given()
    rows: list[Row] = []
    for size in sizes:
        catalogue, queries = _generated(size) if given is None else given
        rows += measure(catalogue, queries, targets, workdir)
    result = {
        "k": FLAGS.k,
        "target_recall": FLAGS.target_recall,
        "cores": os.cpu_count(),
        "source": FLAGS.embeddings or FLAGS.workdir or "generated",
        "rows": rows,
        "best": best(rows, FLAGS.target_recall),
        "scann": "measured" if FLAGS.scann_python else "not measured, for lack of --scann_python",
        "peak_rss_mb": fresh_process.peak_rss_mb(),
    }
    print(table(result))
    if FLAGS.plot:
        plot(result, FLAGS.plot)
    results.print_json(result, FLAGS.json)


def measure(
    catalogue: index_rows.Catalogue,
    queries: np.ndarray,
    targets: index.IndexConfig,
    workdir: pathlib.Path,
) -> list[Row]:
    """Measures every kind, and the peers, on one catalogue."""
    num_ads = catalogue.num_ads
    print(f"{num_ads:,} ads: exact search of {len(queries)} queries", flush=True)
    k = min(FLAGS.k, num_ads)
    wanted = index_rows.exact(
        catalogue, queries, k, workdir / f"exact-{num_ads}-{len(queries)}-{k}.npy"
    )
    rows = []
    for config in index.structures_to_try(targets, num_ads, FLAGS.kinds, FLAGS.num_lists or [None]):
        if config.kind == "Flat" and num_ads > _MOST_HELD:
            continue
        print(f"{num_ads:,} ads: {config.kind} {config.storage} {config.refine}", flush=True)
        asked = slice(None, _MOST_EXACT_QUERIES if config.kind == "Flat" else None)
        built = [num_ads, config.kind, config.storage, config.refine, config.num_lists]
        name = "-".join(map(str, built))
        saved = workdir / f"{name}.faiss"
        structure = index_rows.build(catalogue, config, queries.shape[1], saved)
        rows += index_rows.measure(structure, queries[asked], wanted[asked], saved)
        del structure
    if num_ads <= _MOST_HELD and FLAGS.peers:
        ads = np.concatenate(list(catalogue.chunks()))
        print(f"{num_ads:,} ads: peers", flush=True)
        rows.append(index_peers.brute_force(ads, queries, wanted))
        if FLAGS.scann_python:
            rows += index_peers.scann(FLAGS.scann_python, ads, queries, wanted)
    return [{"num_ads": num_ads, **row} for row in rows]


def best(rows: list[Row], target_recall: float) -> list[Row]:
    """Returns for each N and library the row of least p99 that reaches the recall."""
    chosen: dict[tuple[int, str], Row] = {}
    for row in rows:
        key = row["num_ads"], row["library"]
        reaches = row["recall"] >= target_recall
        if reaches and (key not in chosen or row["p99_ms"] < chosen[key]["p99_ms"]):
            chosen[key] = row
    return list(chosen.values())


def table(result: Row) -> str:
    """Renders the rows; the best of each library is marked."""
    heads = ("recall", "p50 ms", "p99 ms", "batch q/s", "build s", "MB", "load s")
    formats = {
        "recall": ".4f", "p50_ms": ".2f", "p99_ms": ".2f", "batch_queries_per_second": ",.0f",
        "build_seconds": ".1f", "megabytes": ".1f", "load_seconds": ".2f",
    }  # fmt: skip
    rows = [
        [
            "*" if row in result["best"] else "",
            f"{row['num_ads']:,}",
            row["name"],
            *(format(row[key], form) if key in row else "–" for key, form in formats.items()),
        ]
        for row in result["rows"]
    ]
    lines = [
        "",
        terminal.text_table(["", "ads", "index", *heads], rows, left=(0, 2)),
        "",
        f"* least p99 with recall at {result['k']} of at least {result['target_recall']:g}",
        f"ScaNN: {result['scann']}. Most memory resident: {result['peak_rss_mb']:,.0f} MB.",
    ]
    return "\n".join(lines)


def plot(result: Row, path: str) -> None:
    """Draws how latency, memory and build time of the best rows grow with N."""
    figure = matplotlib.figure.Figure(figsize=(12, 4), layout="constrained")
    shown = {"p99_ms": "p99 ms", "megabytes": "index, MB", "build_seconds": "build, s"}
    for axes, (key, label) in zip(figure.subplots(1, 3), shown.items(), strict=True):
        for library in dict.fromkeys(row["library"] for row in result["best"]):
            rows = [r for r in result["best"] if r["library"] == library and key in r]
            axes.plot([r["num_ads"] for r in rows], [r[key] for r in rows], "o-", label=library)
        axes.set(xscale="log", yscale="log", xlabel="ads", ylabel=label)
        axes.grid(alpha=0.3)
    axes.legend()
    figure.suptitle(f"Least p99 at recall@{result['k']} ≥ {result['target_recall']:g}")
    figure.savefig(path)


def _given() -> tuple[index_rows.Catalogue, np.ndarray] | None:
    if bool(FLAGS.embeddings) != bool(FLAGS.queries):
        raise ValueError("--embeddings and --queries: expected both or neither.")
    if not FLAGS.embeddings and not FLAGS.workdir:
        return None
    if FLAGS.sweep:
        raise ValueError("--sweep: expected generated embeddings, not --embeddings or --workdir.")
    if FLAGS.embeddings:
        ads, queries = export.embeddings_from_files(FLAGS.embeddings, FLAGS.queries)
        learnt_from, queries = queries[1::2], queries[::2]
    else:
        tower = export.trained_tower(pathlib.Path(FLAGS.workdir))
        ads, queries = export.embeddings_from_tower(*tower, FLAGS.num_queries)
        learnt_from = export.tuning_queries(*tower)
    rows = tower_embeddings.CHUNK
    catalogue = index_rows.Catalogue(
        len(ads),
        lambda: (
            ads[first : first + rows].astype(np.float32) for first in range(0, len(ads), rows)
        ),
        lambda size: index.sample_vectors(ads, size, seed=0).astype(np.float32),
        learnt_from.astype(np.float32),
    )
    return catalogue, queries[: FLAGS.num_queries].astype(np.float32)


def _generated(num_ads: int) -> tuple[index_rows.Catalogue, np.ndarray]:
    space = tower_embeddings.Space.drawn(FLAGS.dimension)

    # Ads are drawn independently of each other: the first are a sample.
    def sample(size: int) -> np.ndarray:
        return np.concatenate(list(space.chunks(size)))

    queries = space.queries(FLAGS.num_queries + _LEARNT_FROM)
    measured, learnt_from = np.split(queries, [FLAGS.num_queries])
    catalogue = index_rows.Catalogue(num_ads, lambda: space.chunks(num_ads), sample, learnt_from)
    return catalogue, measured


if __name__ == "__main__":
    flags.DEFINE_integer("num_ads", 1_000_000, "Ads generated.", lower_bound=1)
    flags.DEFINE_list("sweep", None, "Numbers of ads, for growth, in place of --num_ads.")
    flags.DEFINE_integer("dimension", 256, "Embedding size of generated ads.", lower_bound=1)
    flags.DEFINE_string("output_dir", "workdir/benchmark_index", "Indexes are saved there.")
    flags.DEFINE_bool("keep", False, "Use the indexes that a run of the same flags saved.")
    flags.DEFINE_bool("peers", True, "Measure TFRS BruteForce and ScaNN too.")
    flags.DEFINE_string("scann_python", None, "An interpreter with scann and numpy.")
    flags.DEFINE_string("json", None, "File for the JSON.")
    FLAGS.set_default("workdir", None)
    FLAGS.set_default("kinds", "Flat,IVFPQ,IVFPQbf16")
    cli.run(main)
