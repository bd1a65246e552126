"""Measures one built index at every setting of its search that may be worth having.

Shapes: N ads, D embedding size, Q queries, k ads wanted.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np

from serving.index import index_build, kinds, search
from serving.index.tuning import index_recall

# faiss's type stubs do not know its subclasses.
_faiss: Any = faiss

# Shares of the cells; multiples of k; ads kept open, in multiples of k.
_PROBED = (1 / 64, 1 / 32, 5 / 128, 3 / 64, 1 / 16, 3 / 32, 1 / 8, 3 / 16, 1 / 4, 1 / 2, 1)
_REFINED = (1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
_OPEN = (1, 2, 4, 8, 16)
# Timed calls of a trial: of fewer, p99 is the greatest but one.
_MIN_CALLS = 200
# Scoring more again, or searching more cells, that gains less gains nothing.
_MIN_GAIN = 5e-4
# Beyond there is nothing left to gain.
_ENOUGH = 0.9985


@dataclasses.dataclass(frozen=True)
class Trial:
    """One index with one setting of its search, as measured.

    Attributes:
        name: faiss's factory string and the search parameters.
        config: Builds and sets it again.
        recall: At k against exact search, in [0, 1].
        recall_error: Its standard error, over queries.
        p50_ms: Half of the single queries take less, one thread.
        p99_ms: 99 % take less.
        megabytes: 10^6 bytes of the saved index.
        build_seconds: Training and adding; the same for all settings of one index.
        num_queries: That recall comes from.
    """

    name: str
    config: kinds.IndexConfig
    recall: float
    recall_error: float
    p50_ms: float
    p99_ms: float
    megabytes: float
    build_seconds: float
    num_queries: int


@dataclasses.dataclass(frozen=True)
class Structure:
    """A built index.

    Attributes:
        searcher: Over it.
        config: It was built with.
        build_parameters: As `index_build.build` gives them.
        megabytes: 10^6 bytes as it is saved.
        build_seconds: Training and adding.
    """

    searcher: search.Searcher
    config: kinds.IndexConfig
    build_parameters: dict[str, Any]
    megabytes: float
    build_seconds: float

    def set(self, config: kinds.IndexConfig) -> None:
        """Sets the search as a config of the same index says."""
        kind = self.searcher.kind
        index_build.set_search(self.searcher.index, kind, config, self.searcher.num_ads)

    def measure(self, config: kinds.IndexConfig, queries: np.ndarray, wanted: np.ndarray) -> Trial:
        """Sets the search and measures it.

        Args:
            config: A setting of this index.
            queries: [Q, D] float32.
            wanted: [Q, k] rows that exact search finds.
        """
        self.set(config)
        repeat = math.ceil(_MIN_CALLS / len(queries))
        k = wanted.shape[1]
        times, found = index_recall.time_alone(self.searcher, queries, k, repeat)
        recalls = index_recall.recall_of_rows(found, wanted)
        shown = ", ".join(f"{n} {v:g}" for n, v in self.searcher.search_parameters().items())
        factory = self.build_parameters["factory"]
        return Trial(
            name=f"{factory}: {shown}" if shown else factory,
            config=config,
            recall=float(recalls.mean()),
            recall_error=float(recalls.std() / math.sqrt(len(queries))),
            p50_ms=float(np.percentile(times, 50)),
            p99_ms=float(np.percentile(times, 99)),
            megabytes=self.megabytes,
            build_seconds=self.build_seconds,
            num_queries=len(queries),
        )

    def sweep(self, queries: np.ndarray, wanted: np.ndarray) -> Iterator[Trial]:
        """Measures the settings, from narrow to wide, until nothing is left to gain.

        Of the numbers of cells that reach the target recall two are tried: with more of them
        fewer codes may need to be scored again.
        """
        reached, surely, enough = -1.0, -1.0, False
        for settings in self._settings():
            best = -1.0
            for setting in settings:
                trial = self.measure(dataclasses.replace(self.config, **setting), queries, wanted)
                yield trial
                surely = max(surely, trial.recall - trial.recall_error)
                if trial.recall < best + _MIN_GAIN:
                    break
                best = trial.recall
            if enough or best >= _ENOUGH or best < reached + _MIN_GAIN:
                return
            reached, enough = best, surely >= self.config.target_recall

    def _settings(self) -> Iterator[list[dict[str, Any]]]:
        kind, num_ads = self.searcher.kind, self.searcher.num_ads
        if kind == "Flat":
            yield [{}]
        elif kind == "HNSW":
            widths = {min(m * self.config.num_candidates, num_ads) for m in _OPEN}
            yield [{"search_width": width} for width in sorted(widths)]
        else:
            num_lists = _faiss.extract_index_ivf(self.searcher.index).nlist
            factors = _REFINED if kind == "IVFPQ" else (None,)
            # Fewer cells do not hold as many, and the search would widen itself.
            enough = 2 * self.config.num_candidates / num_ads
            shares = [share for share in _PROBED if share > enough] or [1.0]
            for num_probes in sorted({math.ceil(share * num_lists) for share in shares}):
                probed = {"num_probes": num_probes}
                yield [probed if f is None else {**probed, "refine_factor": f} for f in factors]
