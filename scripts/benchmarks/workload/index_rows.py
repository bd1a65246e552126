"""Measures our indexes for the benchmark, with a row per configuration.

Shapes: N ads, Q queries, D embedding size, k ads per query.
"""

import dataclasses
import itertools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import faiss
import numpy as np
from workload import fresh_process

from serving import index

Row = dict[str, Any]
# Number of queries that are searched before timing starts, and of passes over the timed ones.
_WARM_UP, _PASSES, _MAX_SECONDS = 10, 15, 2.0
# Wider searches than one with this recall are not measured.
_ENOUGH = 0.9985


@dataclasses.dataclass(frozen=True)
class EmbeddedAds:
    """Ad embeddings that may not fit into memory.

    Attributes:
        num_ads: Number of ads, N.
        chunks: Starts a pass over the embeddings, [rows, D] float32.
        sample: Draws a number of embeddings for training.
        queries: Query embeddings [Q, D] float32 for training; others are used to measure.
    """

    num_ads: int
    chunks: Callable[[], Iterator[np.ndarray]]
    sample: Callable[[int], np.ndarray]
    queries: np.ndarray


@dataclasses.dataclass(frozen=True)
class Built:
    """A saved and opened index, and the time of training and adding."""

    searcher: index.Searcher
    factory: str
    seconds: float


def build(
    catalog: EmbeddedAds, config: index.IndexConfig, dimension: int, saved: pathlib.Path
) -> Built:
    """Builds an index chunk by chunk, saves it and opens it.

    The time to generate the chunks is not counted.
    """
    sample = catalog.sample(index.training_sample_size(config, catalog.num_ads, dimension))
    started = time.perf_counter()
    empty, _, parameters = index.train_index(sample, config, catalog.num_ads, catalog.queries)
    seconds = time.perf_counter() - started
    del sample
    for chunk in catalog.chunks():
        started = time.perf_counter()
        index.add_vectors(empty, chunk)
        seconds += time.perf_counter() - started
    faiss.write_index(empty, str(saved))
    del empty
    return Built(index.Searcher(index.read_index(saved)), parameters["factory"], seconds)


def measure(
    built: Built,
    config: index.IndexConfig,
    queries: np.ndarray,
    exact_rows: np.ndarray,
    saved: pathlib.Path,
) -> list[Row]:
    """Measures an index at all search settings, and opens it in a fresh process."""
    load_seconds = fresh_process.call(load, saved)
    rows, k = [], exact_rows.shape[1]
    for setting in index.settings(built.searcher, config) or [{}]:
        built.searcher.set_search_parameters(setting)
        recall = index.recall_of_rows(built.searcher.search(queries, k)[1], exact_rows).mean()
        p50, p99 = np.nanpercentile(time_alone(built.searcher, queries, k), [50, 99]).tolist()
        shown = ", ".join(f"{name} {value:g}" for name, value in setting.items())
        rows.append(
            {
                "library": "faiss",
                "name": f"{built.factory}: {shown}" if shown else built.factory,
                "recall": float(recall),
                "p50_ms": p50,
                "p99_ms": p99,
                "batch_queries_per_second": throughput(built.searcher, queries, k),
                "build_seconds": built.seconds,
                "megabytes": saved.stat().st_size / 1e6,
                "load_seconds": load_seconds,
            }
        )
        if recall >= _ENOUGH:
            break
    return rows


def time_alone(searcher: index.Searcher, queries: np.ndarray, k: int) -> np.ndarray:
    """Returns the milliseconds of searches for one query at a time; NaN after the time limit."""
    for query in queries[:_WARM_UP]:
        searcher.search(query[None], k)
    milliseconds = np.full((_PASSES, len(queries)), np.nan)
    until = time.perf_counter() + _MAX_SECONDS
    for number, query in itertools.product(range(_PASSES), range(len(queries))):
        started = time.perf_counter()
        if started >= until and (number or query >= _WARM_UP):
            break
        searcher.search(queries[query][None], k)
        milliseconds[number, query] = 1e3 * (time.perf_counter() - started)
    return milliseconds


def throughput(searcher: index.Searcher, queries: np.ndarray, k: int) -> float:
    """Returns the queries per second of one batch on all cores."""
    together = index.Searcher(searcher.index, faiss.omp_get_max_threads())
    together.search(queries[:32], k)
    started = time.perf_counter()
    together.search(queries, k)
    return len(queries) / (time.perf_counter() - started)


def load(path: pathlib.Path) -> float:
    """Opens a saved index and returns the seconds; call it in a fresh process."""
    started = time.perf_counter()
    index.Searcher(index.read_index(path))
    return time.perf_counter() - started
