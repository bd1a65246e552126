"""An index over generated embeddings, for the benchmarks of filters and of updates.

Shapes: N ads, Q queries, D embedding size.
"""

import pathlib
import time
from typing import Any

import faiss
import numpy as np
from absl import flags
from workload import results, tower_embeddings

from serving import index, requests

_TUNING_QUERIES = 100

flags.DEFINE_integer("num_ads", 1_000_000, "Ads of the release.", lower_bound=1024)
flags.DEFINE_integer("dimension", 256, "Size of an embedding.", lower_bound=2)
flags.DEFINE_integer("num_queries", 300, "Queries measured for each row.", lower_bound=10)
flags.DEFINE_integer("k", 500, "Ads for each query.", lower_bound=1)
flags.DEFINE_enum("kind", "IVFPQ", ("Flat", "IVF", "IVFPQ", "HNSW"), "Kind of the index.")
flags.DEFINE_string("index", None, "Keep the built index in this file, and use it if it is there.")
flags.DEFINE_string("json", None, "File for the JSON.")


def make() -> tuple[index.Searcher, np.ndarray, np.ndarray, dict[str, Any]]:
    """Returns an index as the flags say, the embeddings [N, D], queries [Q, D] and its state."""
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
        raise ValueError(f"--index: {path} is no index ({error}). Remove it.") from error
    found = searcher.kind, searcher.num_ads, searcher.dimension
    if found != (kind, *shape):
        raise ValueError(
            f"--index: expected in {path} an index {kind} of {shape[0]} ads of {shape[1]} "
            f"dimensions, got {found[0]}, {found[1]}, {found[2]}. Remove it, or name another file."
        )
    return searcher


def exact_recall(
    embeddings: np.ndarray, queries: np.ndarray, k: int, found: list[np.ndarray]
) -> float:
    """Returns the share of the exact top k of some embeddings among the found places; of none 1."""
    if not len(embeddings):
        return 1.0
    wanted = index.exact_rows([embeddings], queries, k)
    return float(index.recall_of_rows(np.stack(found), wanted).mean())


def time_filtered(
    ads: Any, eligibility: Any, queries: np.ndarray, filters: requests.Filters | None
) -> tuple[dict[str, float], list[np.ndarray]]:
    """Searches with every query [Q, D] alone, resolving the filters each time.

    Args:
        ads: Is searched, by `search`.
        eligibility: Resolves filters, by `eligible`.
        queries: [Q, D] float32.
        filters: Checked; None = every ad is eligible.

    Returns:
        Milliseconds of the first query, and the median and the 99th percentile of the others;
        and the rows that each found.
    """
    seconds, found = [], []
    for query in queries[:, None]:
        started = time.perf_counter()
        eligible = None if filters is None else eligibility.eligible(filters)
        _, rows = ads.search(query, flags.FLAGS.k, eligible)
        seconds.append(time.perf_counter() - started)
        found.append(rows[0])
    values = 1000 * np.array(seconds)
    return {"first_ms": float(values[0]), **results.percentiles(values[1:])}, found
