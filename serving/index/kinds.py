"""The configuration of an ad index, and its FAISS factory string for N ads.

    Flat    exact                                                 4·D bytes per ad
    IVF     cells of float vectors                                4·D
    IVFPQ   cells of 4-bit codes (fast scan), the best rescored   D / 4 + D
    HNSW    graph over float vectors                              4·D + 256

Shapes: N ads, D embedding size.

References: Jégou et al. 2011 (IVF, PQ); André et al. 2017 and the faiss wiki "Fast
accumulation of PQ and AQ codes" (4-bit fast scan); Malkov and Yashunin 2018 (HNSW).
"""

import dataclasses
import math
from typing import Any

import faiss

from tfrecords.schema import NUM_CANDIDATES

KINDS = ("Flat", "IVF", "IVFPQ", "HNSW")
AUTO = "auto"
BACKENDS = FAISS, MILVUS = ("faiss", "milvus")
MILVUS_KINDS = (AUTO, "Flat", "HNSW", "DISKANN")
REFINEMENTS = ("SQ8", "SQbf16", "SQfp16", "RFlat")
# Number of points per centroid for k-means, and its minimum. faiss recommends 39 to 256. With
# more than 100, a query needs a few percent fewer cells, but training takes much longer.
POINTS_PER_CENTROID = 100
_MIN_POINTS_PER_CENTROID = 39
# Codebooks cannot be trained with fewer ads.
MIN_ADS_TO_TRAIN = 1024
# Exact search of up to this number of ads takes 0.5 ms, and recall is 1.
EXACT_UP_TO = 10_000
# Links per ad of a graph.
NUM_NEIGHBORS = 32
# FAISS keeps widths as int32.
_INT32_END = 2**31


@dataclasses.dataclass(frozen=True)
class IndexConfig:
    """Kind and parameters of an index. None chooses a value from the number of ads.

    Attributes:
        kind: One of `KINDS`; `auto`, which is exact search up to 10,000 ads and IVFPQ above; or a
            factory string of FAISS for inner products, such as `IVF4096,SQ8`.
        num_lists: IVF, IVFPQ: number of cells. Default: the power of two below 4 √N.
        num_probes: IVF, IVFPQ: minimum number of cells to search. Default: num_lists / 16, or
            enough for `num_candidates`, if there are no queries to find it by.
        refine: IVFPQ: vectors that rescore the best codes: `SQ8`, `SQbf16`, `SQfp16` or `RFlat`
            (exact), with 1, 2, 2 or 4 bytes per dimension. `SQbf16` is faster than `SQfp16`.
        num_candidates: Typical k of the searches.
        target_recall: Recall at `num_candidates` against exact search at which tuning stops.
        seed: Seed of k-means.
        backend: `faiss`, in process, or `milvus`, whose kinds are `auto`, `Flat`, `HNSW` and
            `DISKANN`.
        milvus_uri: Address of Milvus, as http://HOST:19530, or the path of a milvus-lite file.

    Raises:
        ValueError: An option is out of its range; the message names it.
    """

    kind: str = AUTO
    num_lists: int | None = None
    num_probes: int | None = None
    refine: str = "SQ8"
    num_candidates: int = NUM_CANDIDATES
    target_recall: float = 0.99
    seed: int = 0
    backend: str = FAISS
    milvus_uri: str | None = None

    def __post_init__(self) -> None:
        if self.backend == MILVUS:
            self._check_milvus()
        elif self.milvus_uri is not None:
            raise ValueError(
                f"milvus_uri: expected none for the backend {self.backend!r}, got "
                f"{self.milvus_uri!r}. Choose the backend 'milvus'."
            )
        elif self.kind not in (AUTO, *KINDS):
            _check_factory(self.kind)
        for name, known in {"refine": REFINEMENTS, "backend": BACKENDS}.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {known}, got {getattr(self, name)!r}.")
        for name in ("num_lists", "num_probes", "num_candidates"):
            value = getattr(self, name)
            if value is not None and not 1 <= value < _INT32_END:
                raise ValueError(f"{name}: expected a positive integer below 2^31, got {value!r}.")
        if not 0 < self.target_recall <= 1:
            raise ValueError(
                f"target_recall: expected a number in (0, 1], got {self.target_recall!r}."
            )

    def _check_milvus(self) -> None:
        if self.kind not in MILVUS_KINDS:
            raise ValueError(
                f"index kind: expected one of {MILVUS_KINDS} in Milvus, got {self.kind!r}. Cells "
                "(IVF) are not offered there: their filtered searches return too few ads."
            )
        uri = self.milvus_uri or ""
        if "://" not in uri and not uri.endswith(".db"):
            raise ValueError(
                "milvus_uri: expected the address of Milvus, as http://HOST:19530, or the path of "
                f"a milvus-lite file, as milvus.db, got {self.milvus_uri!r}. Commands take it as "
                "--milvus_uri, or from TFREC_MILVUS_URI."
            )


def _check_factory(kind: str) -> None:
    """Refuses what is no factory string; `check_kind` knows the dimension, and tells the rest."""
    try:
        faiss.index_factory(64, kind, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        if "could not parse" in str(error):
            raise ValueError(
                f"index kind: expected one of {(AUTO, *KINDS)} or a factory string of FAISS, such "
                f"as IVF4096,SQ8, got {kind!r}."
            ) from error


def resolve(config: IndexConfig, num_ads: int, dimension: int) -> tuple[str, dict[str, Any]]:
    """Chooses the kind and its parameters for N ads."""
    kind = config.kind
    if kind == AUTO:
        kind = "Flat" if num_ads <= EXACT_UP_TO else "IVFPQ"
    if kind in ("IVF", "IVFPQ") and num_ads < MIN_ADS_TO_TRAIN:
        reason = f"{kind} needs at least {MIN_ADS_TO_TRAIN} ads, got {num_ads}"
        return "Flat", {"factory": "Flat", "fallback": reason}
    if kind == "HNSW":
        return kind, {"factory": f"HNSW{NUM_NEIGHBORS},Flat"}
    if kind not in ("IVF", "IVFPQ"):
        return kind, {"factory": kind}
    num_lists = min(config.num_lists or default_lists(num_ads), num_ads)
    build: dict[str, Any] = {"num_lists": num_lists, "seed": config.seed}
    if kind == "IVF":
        return kind, {**build, "factory": f"IVF{num_lists},Flat"}
    num_codes = dimension // 2 if dimension % 2 == 0 else dimension
    refine = config.refine if config.refine == "RFlat" else f"Refine({config.refine})"
    # The matrix of OPQ is a placeholder for the matrix of `ivfpq_space`.
    factory = f"OPQ{num_codes},IVF{num_lists},PQ{num_codes}x4fs,{refine}"
    return kind, {**build, "num_codes": num_codes, "refine": config.refine, "factory": factory}


def default_lists(num_ads: int) -> int:
    """Returns the default number of cells, the power of two below 4 √N.

    It is smaller if k-means would have too few points per centroid.
    """
    max_lists = min(4 * math.sqrt(num_ads), num_ads / _MIN_POINTS_PER_CENTROID)
    return 2 ** int(math.log2(max(max_lists, 1)))
