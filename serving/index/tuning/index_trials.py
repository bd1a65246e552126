"""Measures a built index with different search parameters.

Trials are compared by their recall and their counted work. Only a few are timed.

Shapes: N ads, D embedding size, Q queries, k ads per query.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np

from serving.index import index_build, kinds, search
from serving.index.tuning import index_recall, search_cost

# Probed shares of the cells; refine factors; search widths as multiples of num_candidates.
_PROBED = (1 / 64, 1 / 32, 5 / 128, 3 / 64, 1 / 16, 3 / 32, 1 / 8, 3 / 16, 1 / 4, 1 / 2, 1)
_REFINED = (1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
_OPEN = (1, 2, 4, 8, 16)
# Maximum number of queries to time. With fewer, each is timed more often in the same time.
_MAX_TIMED = 100
# Smaller gains in recall do not count.
_MIN_GAIN = 5e-4
# Recall at which wider searches are not tried.
_ENOUGH = 0.9985


@dataclasses.dataclass(frozen=True)
class Trial:
    """Measurement of an index with one setting of its search parameters.

    Attributes:
        name: faiss's factory string and the search parameters.
        config: Config with the same index and search parameters.
        recall: Recall at k against exact search, in [0, 1].
        recall_error: Standard error of `recall` over queries.
        distances: Mean work of a query, in inner products of float vectors (`search_cost`).
        megabytes: Size of the saved index in MB (10^6 bytes).
        build_seconds: Time of training and adding, the same for all settings of an index.
        num_queries: Number of queries that `recall` was measured with.
        p50_ms: Median latency of single queries on one thread; None if not timed. The latency of a
            query is the median of several calls, so other processes hardly affect it.
        p99_ms: 99th percentile of the latency; None if not timed.
    """

    name: str
    config: kinds.IndexConfig
    recall: float
    recall_error: float
    distances: float
    megabytes: float
    build_seconds: float
    num_queries: int
    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclasses.dataclass(frozen=True)
class Structure:
    """A built index to measure.

    Attributes:
        searcher: Searches the index.
        config: Config of the index.
        build_parameters: Build parameters returned by `index_build.build`.
        megabytes: Size of the saved index in MB (10^6 bytes).
        build_seconds: Time of training and adding.
    """

    searcher: search.Searcher
    config: kinds.IndexConfig
    build_parameters: dict[str, Any]
    megabytes: float
    build_seconds: float

    def set(self, config: kinds.IndexConfig) -> None:
        """Sets the search parameters from a config of this index."""
        kind = self.searcher.structure
        index_build.set_search(self.searcher.index, kind, config, self.searcher.num_ads)

    def measure(self, config: kinds.IndexConfig, queries: np.ndarray, wanted: np.ndarray) -> Trial:
        """Sets the search parameters, and measures recall and work.

        Args:
            config: Config of this index with the search parameters.
            queries: [Q, D] float32.
            wanted: [Q, k] rows found by exact search.
        """
        self.set(config)
        k = wanted.shape[1]
        recalls = index_recall.recall_of_rows(self.searcher.search(queries, k)[1], wanted)
        shown = ", ".join(f"{n} {v:g}" for n, v in self.searcher.search_parameters().items())
        factory = self.build_parameters["factory"]
        return Trial(
            name=f"{factory}: {shown}" if shown else factory,
            config=config,
            recall=float(recalls.mean()),
            recall_error=float(recalls.std() / math.sqrt(len(queries))),
            distances=search_cost.count_distances(self.searcher, queries, k),
            megabytes=self.megabytes,
            build_seconds=self.build_seconds,
            num_queries=len(queries),
        )

    def time(self, trial: Trial, queries: np.ndarray, k: int) -> Trial:
        """Sets the search parameters of a trial of this index, and adds its latencies.

        Args:
            trial: Trial of this index.
            queries: [Q, D] float32.
            k: Number of ads for each query.
        """
        self.set(trial.config)
        times = index_recall.time_alone(self.searcher, queries[:_MAX_TIMED], k)
        query_times = np.nanmedian(times[:, ~np.isnan(times[0])], axis=0)
        p50, p99 = np.percentile(query_times, [50, 99]).tolist()
        return dataclasses.replace(trial, p50_ms=p50, p99_ms=p99)

    def sweep(self, queries: np.ndarray, wanted: np.ndarray) -> Iterator[Trial]:
        """Measures settings from narrow to wide, until recall no longer improves.

        It tries two numbers of cells that reach the target recall, because with more cells fewer
        codes may have to be rescored.
        """
        reached, lower_bound, enough = -1.0, -1.0, False
        for settings in self._settings():
            best = -1.0
            for setting in settings:
                trial = self.measure(dataclasses.replace(self.config, **setting), queries, wanted)
                yield trial
                lower_bound = max(lower_bound, trial.recall - trial.recall_error)
                if trial.recall < best + _MIN_GAIN:
                    break
                best = trial.recall
            if enough or best >= _ENOUGH or best < reached + _MIN_GAIN:
                return
            reached, enough = best, lower_bound >= self.config.target_recall

    def _settings(self) -> Iterator[list[dict[str, Any]]]:
        kind, num_ads = self.searcher.structure, self.searcher.num_ads
        if kind == "Flat":
            yield [{}]
        elif kind == "HNSW":
            widths = {min(m * self.config.num_candidates, num_ads) for m in _OPEN}
            yield [{"search_width": width} for width in sorted(widths)]
        else:
            num_lists = faiss.extract_index_ivf(self.searcher.index).nlist
            factors = _REFINED if kind == "IVFPQ" else (None,)
            # Fewer cells would not contain enough ads, and the search would probe more of them.
            min_share = 2 * self.config.num_candidates / num_ads
            shares = [share for share in _PROBED if share > min_share] or [1.0]
            for num_probes in sorted({math.ceil(share * num_lists) for share in shares}):
                probed = {"num_probes": num_probes}
                yield [probed if f is None else {**probed, "refine_factor": f} for f in factors]
