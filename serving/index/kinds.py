"""The kinds of FAISS index: their options, and what N ads allow.

    Flat    exact                                                     4·D bytes an ad
    IVF     cells of vectors, float or of 8 bits                      4·D or D
    IVFPQ   cells of 4-bit codes (fast scan), the best scored again   num_codes / 2 + D
    HNSW    graph over vectors, float or of 8 bits                    4·D or D, + 8·links

Shapes: N ads, D embedding size.

References: Jégou et al. 2011 (IVF, PQ); André et al. 2017 and the faiss wiki "Fast
accumulation of PQ and AQ codes" (4-bit fast scan); Malkov and Yashunin 2018 (HNSW).
"""

import dataclasses
import math
from typing import Any

from tfrecords.schema import NUM_CANDIDATES

KINDS = ("Flat", "IVF", "IVFPQ", "HNSW")
AUTO = "auto"
STORAGES = ("float", "SQ8")
REFINEMENTS = ("SQ8", "SQbf16", "SQfp16", "RFlat")
# Points for each centroid that k-means is given and at least needs (faiss's own rule is 39 to
# 256); beyond, the cells that a query needs get some per cent smaller and training much longer.
POINTS_PER_CENTROID = 100
_MIN_POINTS_PER_CENTROID = 39
# Below this no code book can be trained.
MIN_ADS_TO_TRAIN = 1024
# Exact search takes half a millisecond at as many, and nothing is lost.
EXACT_UP_TO = 10_000


@dataclasses.dataclass(frozen=True)
class IndexConfig:
    """How ads are indexed; None = chosen from the number of ads.

    Attributes:
        kind: One of KINDS, or `auto`: chosen by measuring the kinds against the targets
            below with queries (`index_choice`), or without queries by the number of ads.
        storage: IVF, HNSW: `float` or `SQ8`, 8 bits a dimension.
        num_lists: IVF kinds: cells; default the power of two below 4 √N.
        num_probes: IVF kinds: cells searched; default num_lists / 16, and enough cells for
            `num_candidates`. Tuning widens it.
        num_codes: IVFPQ: 4-bit codes for each ad; default D / 2.
        refine: IVFPQ: what the best codes are scored with again: `SQ8`, `SQbf16`, `SQfp16` or
            `RFlat` (exact), in 1, 2, 2 or 4 bytes a dimension. `SQbf16` is the faster to read.
        refine_factor: IVFPQ: candidates scored again, in multiples of k; tuning widens it.
        num_neighbours: HNSW: links of each ad.
        search_width: HNSW: ads kept open in a search; default num_candidates; tuning
            widens it.
        num_candidates: k that the index will mostly be asked for.
        target_recall: Recall at num_candidates against exact search that tuning stops at.
        latency_budget_ms: `auto`: the p99 of single queries to stay below; None = any.
        memory_limit_mb: `auto`: the index's 10^6 bytes to stay below; None = any.
        seed: Of k-means.
        use_gpu: Cells are trained on the GPU of a faiss-gpu build; the index itself is a
            CPU's.
    """

    kind: str = AUTO
    storage: str = "float"
    num_lists: int | None = None
    num_probes: int | None = None
    num_codes: int | None = None
    refine: str = "SQ8"
    refine_factor: float = 2.0
    num_neighbours: int = 32
    search_width: int | None = None
    num_candidates: int = NUM_CANDIDATES
    target_recall: float = 0.99
    latency_budget_ms: float | None = 1.4
    memory_limit_mb: float | None = None
    seed: int = 0
    use_gpu: bool = False

    def __post_init__(self) -> None:
        choices = {"kind": (AUTO, *KINDS), "storage": STORAGES, "refine": REFINEMENTS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {known}, got {getattr(self, name)!r}.")
        for name in ("num_lists", "num_probes", "num_codes", "search_width", "num_candidates"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected a positive integer, got {value!r}.")
        for name in ("latency_budget_ms", "memory_limit_mb"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}: expected a positive number or None, got {value!r}.")
        if not 0 < self.target_recall <= 1:
            raise ValueError(f"target_recall: expected (0, 1], got {self.target_recall!r}.")
        if self.refine_factor < 1:
            raise ValueError(f"refine_factor: expected at least 1, got {self.refine_factor!r}.")


def resolve(config: IndexConfig, num_ads: int, dimension: int) -> tuple[str, dict[str, Any]]:
    """Chooses the kind and the parameters that N ads allow.

    Returns:
        The kind, and the build parameters with the faiss `factory` string; `fallback` says why
        the kind is not the one wanted.
    """
    kind = config.kind
    if kind == AUTO:
        kind = "Flat" if num_ads <= EXACT_UP_TO else "IVFPQ"
    if kind in ("IVF", "IVFPQ", "HNSW") and num_ads < MIN_ADS_TO_TRAIN and trains(config, kind):
        reason = f"{kind} needs {MIN_ADS_TO_TRAIN} ads, there are {num_ads}"
        return "Flat", {"factory": "Flat", "fallback": reason}
    if kind == "Flat":
        return "Flat", {"factory": "Flat"}
    stored = "Flat" if config.storage == "float" else config.storage
    if kind == "HNSW":
        return "HNSW", {
            "factory": f"HNSW{config.num_neighbours},{stored}",
            "num_neighbours": config.num_neighbours,
            "storage": config.storage,
        }
    num_lists = config.num_lists or default_lists(num_ads)
    build: dict[str, Any] = {"num_lists": min(num_lists, num_ads), "seed": config.seed}
    cells = f"IVF{build['num_lists']}"
    if kind == "IVF":
        return "IVF", {**build, "storage": config.storage, "factory": f"{cells},{stored}"}
    num_codes = config.num_codes or (dimension // 2 if dimension % 2 == 0 else dimension)
    if dimension % num_codes:
        raise ValueError(
            f"num_codes: expected a divisor of the dimension {dimension}, got {num_codes}."
        )
    refine = config.refine if config.refine == "RFlat" else f"Refine({config.refine})"
    # Before the cells a matrix, of the kind that OPQ's is: `ivfpq_space`.
    factory = f"OPQ{num_codes},{cells},PQ{num_codes}x4fs,{refine}"
    return "IVFPQ", {**build, "num_codes": num_codes, "refine": config.refine, "factory": factory}


def trains(config: IndexConfig, kind: str) -> bool:
    """Tells whether a kind is trained on the ads before they are added."""
    return kind in ("IVF", "IVFPQ") or (kind == "HNSW" and config.storage != "float")


def default_lists(num_ads: int) -> int:
    """Returns the power of two below 4 √N cells, and below what k-means can be trained for."""
    most = min(4 * math.sqrt(num_ads), num_ads / _MIN_POINTS_PER_CENTROID)
    return 2 ** int(math.log2(max(most, 1)))
