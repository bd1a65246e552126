"""Builds an index over generated embeddings, for the benchmarks of filters and updates.

Shapes: N ads, Q queries, D embedding size.
"""

import pathlib
import time
from typing import Any

import faiss
import numpy as np
from absl import flags
from workload import harness, tower_embeddings

from serving import index, requests

_TUNING_QUERIES = 100

flags.DEFINE_integer("num_ads", 1_000_000, "Number of ads of the release.", lower_bound=1024)
flags.DEFINE_integer("dimension", 256, "Embedding size.", lower_bound=2)
flags.DEFINE_integer("num_queries", 300, "Number of queries per row.", lower_bound=10)
flags.DEFINE_integer("k", 500, "Number of ads per query.", lower_bound=1)
flags.DEFINE_enum("kind", "IVFPQ", ("Flat", "IVF", "IVFPQ", "HNSW"), "Kind of index.")
flags.DEFINE_string("index", None, "File for the index; used if it exists, otherwise written.")
flags.DEFINE_string("json", None, "File for the result as JSON.")


def make() -> tuple[index.Searcher, np.ndarray, np.ndarray, dict[str, Any]]:
    """Returns the index of the flags, embeddings [N, D], queries [Q, D] and a description."""
    chosen = flags.FLAGS
    space = tower_embeddings.Space.drawn(chosen.dimension)
    embeddings = np.concatenate(list(space.chunks(chosen.num_ads)))
    queries = space.queries(chosen.num_queries + _TUNING_QUERIES)
    started = time.perf_counter()
    path = pathlib.Path(chosen.index) if chosen.index else None
    if path is not None and path.is_file():
        searcher = _opened(path, embeddings.shape, chosen.kind)
    else:
        config = index.IndexConfig(kind=chosen.kind, num_candidates=chosen.k)
        searcher = index.build_index(
            embeddings, config, tuning_queries=queries[:_TUNING_QUERIES]
        ).searcher
        if path is not None:
            faiss.write_index(searcher.index, str(path))
    state = {
        "num_ads": chosen.num_ads,
        "dimension": chosen.dimension,
        "k": chosen.k,
        "kind": searcher.kind,
        "search": searcher.search_parameters(),
        "index_seconds": time.perf_counter() - started,
    }
    return searcher, embeddings, queries[_TUNING_QUERIES:], state


def _opened(path: pathlib.Path, shape: tuple[int, ...], kind: str) -> index.Searcher:
    try:
        searcher = index.Searcher(faiss.read_index(str(path)))
    except RuntimeError as error:
        raise ValueError(f"--index: {path} is not an index ({error}). Remove it.") from error
    found = searcher.kind, searcher.num_ads, searcher.dimension
    if found != (kind, *shape):
        raise ValueError(
            f"--index: expected a {kind} index of {shape[0]} ads with {shape[1]} dimensions in "
            f"{path}, got {found[0]}, {found[1]}, {found[2]}. Remove it or choose another file."
        )
    return searcher


def exact_recall(
    embeddings: np.ndarray, queries: np.ndarray, k: int, found: list[np.ndarray]
) -> float:
    """Returns the recall of found positions against exact search; 1 if there are no embeddings."""
    if not len(embeddings):
        return 1.0
    wanted = index.exact_rows([embeddings], queries, k)
    return float(index.recall_of_rows(np.stack(found), wanted).mean())


def time_filtered(
    ads: Any, eligibility: Any, queries: np.ndarray, filters: requests.Filters | None
) -> tuple[dict[str, float], list[np.ndarray]]:
    """Searches with each query alone, evaluating the filters each time.

    Args:
        ads: Index to search, with a method `search`.
        eligibility: Evaluates filters, with a method `eligible`.
        queries: Query embeddings [Q, D] float32.
        filters: Validated filters. None: every ad is eligible.

    Returns:
        Milliseconds of the first query, and the median and the 99th percentile of the others;
        and the rows that each query found.
    """
    seconds, found = [], []
    for query in queries[:, None]:
        started = time.perf_counter()
        eligible = None if filters is None else eligibility.eligible(filters)
        _, rows = ads.search(query, flags.FLAGS.k, eligible)
        seconds.append(time.perf_counter() - started)
        found.append(rows[0])
    values = 1000 * np.array(seconds)
    return {"first_ms": float(values[0]), **harness.percentiles(values[1:])}, found
