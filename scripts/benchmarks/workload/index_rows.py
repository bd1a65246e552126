"""Measures our indexes for the benchmark, with a row per configuration.

Shapes: N ads, Q queries, D embedding size, k ads per query.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import faiss
import numpy as np
from workload import fresh_process

from serving.index import (
    IndexConfig,
    Searcher,
    Structure,
    add_vectors,
    read_index,
    time_alone,
    train_index,
    training_sample_size,
)

Row = dict[str, Any]


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


def build(
    catalog: EmbeddedAds, config: IndexConfig, dimension: int, saved: pathlib.Path
) -> Structure:
    """Builds an index chunk by chunk, saves it and opens it.

    The time to generate the chunks is not counted.
    """
    sample = catalog.sample(training_sample_size(config, catalog.num_ads, dimension))
    started = time.perf_counter()
    index, _, parameters = train_index(sample, config, catalog.num_ads, catalog.queries)
    seconds = time.perf_counter() - started
    del sample
    for chunk in catalog.chunks():
        started = time.perf_counter()
        add_vectors(index, chunk)
        seconds += time.perf_counter() - started
    faiss.write_index(index, str(saved))
    del index
    return Structure(
        Searcher(read_index(saved)),
        config,
        build_parameters=parameters,
        megabytes=saved.stat().st_size / 1e6,
        build_seconds=seconds,
    )


def measure(
    structure: Structure,
    queries: np.ndarray,
    exact_rows: np.ndarray,
    saved: pathlib.Path,
) -> list[Row]:
    """Measures a built index at all search settings, and opens it in a fresh process."""
    common = {"library": "faiss", "load_seconds": fresh_process.call(load, saved)}
    rows, k = [], exact_rows.shape[1]
    for trial in structure.sweep(queries, exact_rows):
        times = time_alone(structure.searcher, queries, k)
        p50, p99 = np.nanpercentile(times, [50, 99]).tolist()
        measured = dataclasses.asdict(dataclasses.replace(trial, p50_ms=p50, p99_ms=p99))
        del measured["config"]
        rate = throughput(structure.searcher, queries, k)
        rows.append({**measured, "batch_queries_per_second": rate, **common})
    return rows


def throughput(searcher: Searcher, queries: np.ndarray, k: int) -> float:
    """Returns the queries per second of one batch on all cores."""
    together = Searcher(searcher.index, faiss.omp_get_max_threads())
    together.search(queries[:32], k)
    started = time.perf_counter()
    together.search(queries, k)
    return len(queries) / (time.perf_counter() - started)


def load(path: pathlib.Path) -> float:
    """Opens a saved index and returns the seconds; call it in a fresh process."""
    started = time.perf_counter()
    Searcher(read_index(path))
    return time.perf_counter() - started
