"""Builds the FAISS index of a release from the ad embeddings.

Shapes: N ads, D embedding size, Q queries.

References: Jégou et al. 2011 (IVF, PQ); André et al. 2017 and the faiss wiki "Fast
accumulation of PQ and AQ codes" (4-bit fast scan); Malkov and Yashunin 2018 (HNSW).
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np

from serving import errors

# faiss's type stubs do not know its subclasses.
_faiss: Any = faiss

KINDS = ("Flat", "IVF", "IVFPQ", "HNSW")
# k-means wants 39 points for each centroid (faiss's own rule).
_POINTS_PER_CENTROID = 39
# Below this exact search takes well under a millisecond, and no code book can be trained.
_MIN_ADS_TO_TRAIN = 1024
# Below this threads gain nothing, and on a busy machine they wait for each other at length.
_MIN_ADS_FOR_THREADS = 20_000


@dataclasses.dataclass(frozen=True)
class IndexConfig:
    """How ads are indexed; None = chosen from the number of ads.

    Attributes:
        kind: `Flat` (exact), `IVF` (cells), `IVFPQ` (cells of 4-bit codes, then refined),
            `HNSW` (graph).
        num_lists: IVF kinds: cells; default the power of two below 4 √N.
        num_probes: IVF kinds: cells searched; default num_lists / 16, and enough cells for
            `num_candidates`. Tuning widens it.
        num_codes: IVFPQ: 4-bit codes for each ad; default D / 2.
        refine: IVFPQ: what the best codes are scored with again, `SQ8` or `RFlat` (exact,
            four times the memory).
        refine_factor: IVFPQ: candidates scored again, in multiples of k; tuning widens it.
        num_neighbours: HNSW: links of each ad.
        search_width: HNSW: ads kept open in a search; default num_candidates; tuning
            widens it.
        num_candidates: k that the index will mostly be asked for.
        target_recall: Recall at num_candidates against exact search that tuning stops at.
        seed: Of k-means.
    """

    kind: str = "IVFPQ"
    num_lists: int | None = None
    num_probes: int | None = None
    num_codes: int | None = None
    refine: str = "SQ8"
    refine_factor: float = 2.0
    num_neighbours: int = 32
    search_width: int | None = None
    num_candidates: int = 500
    target_recall: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: expected one of {KINDS}, got {self.kind!r}.")
        if self.refine not in ("SQ8", "RFlat"):
            raise ValueError(f"refine: expected SQ8 or RFlat, got {self.refine!r}.")
        for name in ("num_lists", "num_probes", "num_codes", "search_width", "num_candidates"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected a positive integer, got {value!r}.")


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Sets OpenMP's threads for the calling thread and sets them back."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def resolve(config: IndexConfig, num_ads: int, dimension: int) -> tuple[str, dict[str, Any]]:
    """Chooses the kind and the parameters that N ads allow.

    Returns:
        The kind, and the build parameters with the faiss `factory` string; `fallback` says why
        the kind is not the one wanted.
    """
    if config.kind in ("IVF", "IVFPQ") and num_ads < _MIN_ADS_TO_TRAIN:
        reason = f"{config.kind} needs {_MIN_ADS_TO_TRAIN} ads, there are {num_ads}"
        return "Flat", {"factory": "Flat", "fallback": reason}
    if config.kind == "Flat":
        return "Flat", {"factory": "Flat"}
    if config.kind == "HNSW":
        return "HNSW", {
            "factory": f"HNSW{config.num_neighbours},Flat",
            "num_neighbours": config.num_neighbours,
        }
    most = min(4 * math.sqrt(num_ads), num_ads / _POINTS_PER_CENTROID)
    num_lists = min(config.num_lists or 2 ** int(math.log2(most)), num_ads)
    build: dict[str, Any] = {"num_lists": num_lists, "seed": config.seed}
    if config.kind == "IVF":
        return "IVF", {**build, "factory": f"IVF{num_lists},Flat"}
    num_codes = config.num_codes or (dimension // 2 if dimension % 2 == 0 else dimension)
    if dimension % num_codes:
        raise ValueError(
            f"num_codes: expected a divisor of the dimension {dimension}, got {num_codes}."
        )
    refine = config.refine if config.refine == "RFlat" else f"Refine({config.refine})"
    factory = f"IVF{num_lists},PQ{num_codes}x4fs,{refine}"
    return "IVFPQ", {**build, "num_codes": num_codes, "refine": config.refine, "factory": factory}


def build(embeddings: np.ndarray, config: IndexConfig) -> tuple[Any, str, dict[str, Any]]:
    """Trains and fills the index, with its search parameters set.

    Args:
        embeddings: [N, D] float32, finite.
        config: Kind and parameters.

    Returns:
        The index, its kind, and the parameters it was built with.

    Raises:
        AdIndexError: There are no ads, or an embedding is not finite.
    """
    embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
    if embeddings.ndim != 2 or not embeddings.size:
        raise errors.AdIndexError(
            f"Expected ad embeddings of shape [N, D] with N ≥ 1, got {list(embeddings.shape)}."
        )
    if not np.isfinite(embeddings).all():
        row = int(np.flatnonzero(~np.isfinite(embeddings).all(axis=1))[0])
        raise errors.AdIndexError(
            f"The embedding of ad {row} is not finite. Train the tower again."
        )
    num_ads, dimension = embeddings.shape
    kind, parameters = resolve(config, num_ads, dimension)
    index = faiss.index_factory(dimension, parameters["factory"], faiss.METRIC_INNER_PRODUCT)
    if kind in ("IVF", "IVFPQ"):
        _faiss.extract_index_ivf(index).cp.seed = config.seed
    with threads(1 if num_ads < _MIN_ADS_FOR_THREADS else faiss.omp_get_max_threads()):
        index.train(embeddings)
        index.add(embeddings)
    _set_search(index, kind, config, num_ads)
    return index, kind, parameters


def _set_search(index: Any, kind: str, config: IndexConfig, num_ads: int) -> None:
    if kind == "HNSW":
        index.hnsw.efSearch = config.search_width or config.num_candidates
    elif kind != "Flat":
        ivf = _faiss.extract_index_ivf(index)
        # Neighbouring cells are filled unevenly, hence several times what holds the candidates.
        enough = math.ceil(4 * config.num_candidates * ivf.nlist / num_ads)
        probes = config.num_probes or max(ivf.nlist // 16, enough, 1)
        ivf.nprobe = min(probes, ivf.nlist)
    if kind == "IVFPQ":
        index.k_factor = config.refine_factor
