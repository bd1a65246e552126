"""Opens a saved index in this fresh process, searches it and prints what that took, as JSON.

    python scripts/benchmarks/workload/index_load.py ad_index/1/index.faiss queries.npy 500

`load_seconds` is until the index is open, `first_queries_seconds` of the 100 searches after it,
which read what is not yet in memory. `private_mb` is memory of this process alone,
`resident_mb` with the mapped pages that other processes on the same index share.
"""

import argparse
import json
import pathlib
import time

import numpy as np

from serving import index


def main(path: str, queries_path: str, k: int) -> None:
    """Measures."""
    queries = np.load(queries_path)[:100]
    before = memory_mb()
    started = time.perf_counter()
    searcher = index.Searcher(index.read_index(path))
    loaded = time.perf_counter()
    for query in queries:
        searcher.search(query[None], k)
    searched = time.perf_counter()
    after = memory_mb()
    measured = {
        "load_seconds": loaded - started,
        "first_queries_seconds": searched - loaded,
        "private_mb": after["Anonymous"] - before["Anonymous"],
        "resident_mb": after["Rss"],
    }
    print(json.dumps(measured))


def memory_mb() -> dict[str, float]:
    """Returns Linux's count of this process's pages, in 10^6 bytes."""
    lines = pathlib.Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) * 1024 / 1e6 for line in lines}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", help="The index file.")
    parser.add_argument("queries", help="Query embeddings, .npy [Q, D].")
    parser.add_argument("k", type=int, help="Ads wanted.")
    arguments = parser.parse_args()
    main(arguments.index, arguments.queries, arguments.k)
