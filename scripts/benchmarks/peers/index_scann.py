"""Measures ScaNN; run by `scripts/benchmarks/index.py` in an environment with ScaNN.

    SCANN_PYTHON scripts/benchmarks/peers/index_scann.py ads.npy queries.npy 500 results/

ScaNN 1.4.2 cannot be loaded with TensorFlow 2.21, and TFRS imports it if it is installed, so it
needs a separate environment (scann and numpy). Single queries use one thread, like the queries of
our indexes; batches use all cores. Writes results/rows.json, and the rows found as
results/NUMBER.npy.

The tree has about 2√N leaves, and a code covers two dimensions, as ScaNN's guide recommends
(https://github.com/google-research/google-research/blob/master/scann/docs/algorithms.md).
"""

import json
import math
import pathlib
import resource
import sys
import time

import numpy as np

_SHARES_OF_LEAVES = (1 / 64, 1 / 32, 1 / 16, 3 / 32, 1 / 8, 3 / 16, 1 / 4, 1 / 2)
_REORDERED = (1.5, 2, 3, 4)
_TRAINED_ON = 250_000


def main(ads_path: str, queries_path: str, k: int, results: pathlib.Path) -> None:
    """Builds an index and measures it with each search setting."""
    from scann.scann_ops.py import scann_ops_pybind

    ads, queries = np.load(ads_path), np.load(queries_path)
    num_leaves = 2 ** round(math.log2(2 * math.sqrt(len(ads))))
    started = time.perf_counter()
    searcher = (
        scann_ops_pybind.builder(ads, k, "dot_product")
        .tree(num_leaves, num_leaves // 16, training_sample_size=min(len(ads), _TRAINED_ON))
        .score_ah(2, anisotropic_quantization_threshold=0.2)
        .reorder(2 * k)
        .build()
    )
    build_seconds = time.perf_counter() - started
    rows: list[dict[str, object]] = []
    for share in _SHARES_OF_LEAVES:
        for factor in _REORDERED:
            leaves, reordered = math.ceil(share * num_leaves), int(factor * k)
            times, found = _alone(searcher, queries, k, reordered, leaves)
            np.save(results / f"{len(rows)}.npy", found)
            started = time.perf_counter()
            searcher.search_batched_parallel(queries, k, reordered, leaves)
            batch_seconds = time.perf_counter() - started
            rows.append(
                {
                    "name": f"ScaNN {num_leaves} leaves: searched {leaves}, reordered {reordered}",
                    "p50_ms": float(np.percentile(times, 50)),
                    "p99_ms": float(np.percentile(times, 99)),
                    "batch_queries_per_second": len(queries) / batch_seconds,
                    "build_seconds": build_seconds,
                    # Includes the floats for reordering, 4·D bytes per ad.
                    "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
                }
            )
    (results / "rows.json").write_text(json.dumps(rows))


def _alone(
    searcher: object, queries: np.ndarray, k: int, reordered: int, leaves: int
) -> tuple[np.ndarray, np.ndarray]:
    for query in queries[:10]:
        searcher.search(query, k, reordered, leaves)  # type: ignore[attr-defined]
    milliseconds, found = [], np.full((len(queries), k), -1, np.int64)
    for i, query in enumerate(queries):
        started = time.perf_counter()
        rows, _ = searcher.search(query, k, reordered, leaves)  # type: ignore[attr-defined]
        milliseconds.append(1e3 * (time.perf_counter() - started))
        found[i, : len(rows)] = rows
    return np.array(milliseconds), found


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), pathlib.Path(sys.argv[4]))
