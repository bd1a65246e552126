"""Opens and searches a saved index in this process and prints time and memory as JSON.

    python scripts/benchmarks/workload/index_load.py ad_index/1/index.faiss queries.npy 500

`load_seconds` is the time to open the index, `first_queries_seconds` that of the following 100
searches, which read pages that are not in memory yet. `private_mb` is the memory of this process
alone; `resident_mb` includes mapped pages, which processes with the same index share.
"""

import json
import pathlib
import sys
import time

import numpy as np

from serving import index


def main(path: str, queries_path: str, k: int) -> None:
    """Measures an index.

    Args:
        path: Index file.
        queries_path: File of query embeddings, .npy [Q, D].
        k: Number of ads per query.
    """
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
    """Returns the memory of this process by kind as Linux reports it, in 10^6 bytes."""
    lines = pathlib.Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) * 1024 / 1e6 for line in lines}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
