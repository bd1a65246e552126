"""The kinds of FAISS index: their options, and their parameters for N ads.

    Flat    exact                                                 4·D bytes per ad
    IVF     cells of float or 8-bit vectors                       4·D or D
    IVFPQ   cells of 4-bit codes (fast scan), the best rescored   num_codes / 2 + D
    HNSW    graph over float or 8-bit vectors                     4·D or D, plus 8·links

Shapes: N ads, D embedding size.

References: Jégou et al. 2011 (IVF, PQ); André et al. 2017 and the faiss wiki "Fast
accumulation of PQ and AQ codes" (4-bit fast scan); Malkov and Yashunin 2018 (HNSW).
"""

import dataclasses
import inspect
import math
import traceback
from typing import Any

import numpy as np

from tfrecords import plugins
from tfrecords.schema import NUM_CANDIDATES

KINDS = ("Flat", "IVF", "IVFPQ", "HNSW")
AUTO = "auto"
BACKENDS = FAISS, MILVUS = ("faiss", "milvus")
MILVUS_KINDS = (AUTO, "Flat", "HNSW", "DISKANN")
STORAGES = ("float", "SQ8")
REFINEMENTS = ("SQ8", "SQbf16", "SQfp16", "RFlat")
# Number of points per centroid for k-means, and its minimum. faiss recommends 39 to 256. With
# more than 100, a query needs a few percent fewer cells, but training takes much longer.
POINTS_PER_CENTROID = 100
_MIN_POINTS_PER_CENTROID = 39
# Codebooks cannot be trained with fewer ads.
MIN_ADS_TO_TRAIN = 1024
# Exact search of up to this number of ads takes 0.5 ms, and recall is 1.
EXACT_UP_TO = 10_000
# FAISS keeps widths as int32.
_INT32_END = 2**31


class IndexKind(plugins.Plugin):
    """The base class of your own kinds of index.

        class Bytes(index.IndexKind):
            def factory(self, config, num_ads, dimension):
                return "SQ8"

    `tfrec export --index=MODULE:CLASS`, or an entry point of the group `tfrec.index_kinds`, uses
    it. The release contains only the FAISS index: serving does not need the class.
    """

    def factory(self, config: "IndexConfig", num_ads: int, dimension: int) -> str:
        """Returns the faiss factory string of an index for inner products.

        An index that rescores (`Refine`) is refused: kind IVFPQ does that.

        Args:
            config: Options, as given.
            num_ads: Number of ads N.
            dimension: Embedding size D.
        """
        raise NotImplementedError(f"{type(self).__name__} has no `factory`.")

    def train(self, index: Any, embeddings: np.ndarray, queries: np.ndarray | None) -> None:
        """Trains the empty index.

        Args:
            index: The faiss index.
            embeddings: [sample, D] float32, contiguous, a sample of the ads.
            queries: [Q, D] float32, representative query embeddings, or None.
        """
        index.train(embeddings)

    def set_search(self, index: Any, config: "IndexConfig", num_ads: int) -> None:
        """Sets the search parameters, which the file of the index keeps.

        The number of probed cells is increased afterward until the target recall is reached.

        Args:
            index: The faiss index.
            config: Options, as given.
            num_ads: Number of ads N.
        """


def _accept(found: Any) -> IndexKind | None:
    if inspect.isclass(found) and issubclass(found, IndexKind):
        try:
            return found()
        except Exception as error:
            raise ValueError(
                f"index kind {plugins.reference_to(found)!r}: expected a class that is created "
                f"without arguments, got {type(error).__name__} ({error}). Options are in the "
                "`config` of its methods."
            ) from error
    return found if isinstance(found, IndexKind) else None


# Built-in kinds are listed only to reserve their names.
INDEX_KINDS: plugins.Registry[IndexKind] = plugins.Registry(
    "index kind",
    "tfrec.index_kinds",
    dict.fromkeys((AUTO, *KINDS), ""),
    "a subclass of serving.index.IndexKind",
    _accept,
)


def call_own(kind: str, method: str, *arguments: Any) -> Any:
    """Calls a method of a custom kind.

    Raises:
        ValueError: The method failed; the message says where.
    """
    index_kind = INDEX_KINDS.get(kind)
    try:
        return getattr(index_kind, method)(*arguments)
    except Exception as error:
        # The first frame is this function's, the second the method's.
        frames = traceback.extract_tb(error.__traceback__)[1:2]
        where = "".join(f" ({frame.filename}, line {frame.lineno})" for frame in frames)
        raise ValueError(
            f"index kind {kind!r}: `{method}` failed with {type(error).__name__}: {error}{where}. "
            "Correct the class."
        ) from error


@dataclasses.dataclass(frozen=True)
class IndexConfig:
    """Kind and parameters of an index. None chooses a value from the number of ads.

    Attributes:
        kind: One of `KINDS`, or `auto`: exact search up to 10,000 ads; above, the result of
            measuring the kinds against the targets below if queries are given (`index_choice`),
            and IVFPQ otherwise; or a name or MODULE:CLASS of an `IndexKind`.
        storage: IVF, HNSW: `float`, or `SQ8` with 8 bits per dimension.
        num_lists: IVF, IVFPQ: number of cells. Default: the power of two below 4 √N.
        num_probes: IVF, IVFPQ: number of cells to search. Default: num_lists / 16, or enough for
            `num_candidates`. Tuning increases it.
        num_codes: IVFPQ: number of 4-bit codes per ad. Default: D / 2.
        refine: IVFPQ: vectors that rescore the best codes: `SQ8`, `SQbf16`, `SQfp16` or `RFlat`
            (exact), with 1, 2, 2 or 4 bytes per dimension. `SQbf16` is faster than `SQfp16`.
        refine_factor: IVFPQ: number of candidates to rescore, as a multiple of k. Tuning
            increases it.
        num_neighbors: HNSW: number of links per ad.
        search_width: HNSW: number of open candidates in a search (efSearch). Default:
            num_candidates. Tuning increases it.
        num_candidates: Typical k of the searches.
        target_recall: Recall at `num_candidates` against exact search at which tuning stops.
        latency_budget_ms: `auto`: maximum p99 over queries, each with its median latency. None
            sets no limit.
        memory_limit_mb: `auto`: maximum size of the index in MB (10^6 bytes). None sets no limit.
        seed: Seed of k-means.
        backend: `faiss`, in process, or `milvus`, whose kinds are `auto`, `Flat`, `HNSW` and
            `DISKANN`.
        milvus_uri: Address of Milvus, as http://HOST:19530, or the path of a milvus-lite file.
        use_gpu: Whether to train cells on a GPU, with a faiss-gpu build. The index runs on CPUs.
    """

    kind: str = AUTO
    storage: str = "float"
    num_lists: int | None = None
    num_probes: int | None = None
    num_codes: int | None = None
    refine: str = "SQ8"
    refine_factor: float = 2.0
    num_neighbors: int = 32
    search_width: int | None = None
    num_candidates: int = NUM_CANDIDATES
    target_recall: float = 0.99
    latency_budget_ms: float | None = 1.4
    memory_limit_mb: float | None = None
    seed: int = 0
    backend: str = FAISS
    milvus_uri: str | None = None
    use_gpu: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", plugins.reference_to(self.kind))
        if self.backend == MILVUS:
            self._check_milvus()
        elif self.milvus_uri is not None:
            raise ValueError(
                f"milvus_uri: expected none for the backend {self.backend!r}, got "
                f"{self.milvus_uri!r}. Choose the backend 'milvus'."
            )
        elif not INDEX_KINDS.is_built_in(self.kind):
            INDEX_KINDS.get(self.kind)
        choices = {"storage": STORAGES, "refine": REFINEMENTS, "backend": BACKENDS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {known}, got {getattr(self, name)!r}.")
        for name in ("num_lists", "num_probes", "num_codes", "search_width", "num_candidates"):
            value = getattr(self, name)
            if value is not None and not 1 <= value < _INT32_END:
                raise ValueError(f"{name}: expected a positive integer below 2^31, got {value!r}.")
        # With one neighbor, FAISS divides by log(1); with none, it reads outside the graph.
        if not 2 <= self.num_neighbors < _INT32_END:
            raise ValueError(
                "num_neighbors: expected an integer from 2 and below 2^31, got "
                f"{self.num_neighbors!r}."
            )
        for name in ("latency_budget_ms", "memory_limit_mb"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}: expected a positive number or None, got {value!r}.")
        if not 0 < self.target_recall <= 1:
            raise ValueError(
                f"target_recall: expected a number in (0, 1], got {self.target_recall!r}."
            )
        if not 1 <= self.refine_factor < math.inf:
            raise ValueError(
                "refine_factor: expected a number of at least 1, and finite, got "
                f"{self.refine_factor!r}."
            )

    @property
    def has_own_kind(self) -> bool:
        """Whether the kind is an `IndexKind`."""
        return self.backend == FAISS and self.kind not in (AUTO, *KINDS)

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


def resolve(config: IndexConfig, num_ads: int, dimension: int) -> tuple[str, dict[str, Any]]:
    """Chooses the kind and its parameters for N ads.

    Returns:
        The kind, and the build parameters with the faiss `factory` string. `fallback` is the
        reason if the kind differs from the configured one.

    Raises:
        ValueError: An option does not fit D, or a custom kind returns no string.
    """
    kind = config.kind
    if kind == AUTO:
        kind = "Flat" if num_ads <= EXACT_UP_TO else "IVFPQ"
    if kind not in KINDS:
        factory = call_own(kind, "factory", config, num_ads, dimension)
        if not isinstance(factory, str):
            raise ValueError(
                f"index kind {kind!r}: expected a factory string of FAISS from `factory`, got "
                f"{factory!r}. Return one such as 'IVF256,SQ6'."
            )
        return kind, {"factory": factory}
    if kind == "Flat":
        return "Flat", {"factory": "Flat"}
    is_trained = kind != "HNSW" or config.storage != "float"
    if is_trained and num_ads < MIN_ADS_TO_TRAIN:
        reason = f"{kind} needs at least {MIN_ADS_TO_TRAIN} ads, got {num_ads}"
        return "Flat", {"factory": "Flat", "fallback": reason}
    stored = "Flat" if config.storage == "float" else config.storage
    if kind == "HNSW":
        return "HNSW", {
            "factory": f"HNSW{config.num_neighbors},{stored}",
            "num_neighbors": config.num_neighbors,
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
    # The matrix of OPQ is a placeholder for the matrix of `ivfpq_space`.
    factory = f"OPQ{num_codes},{cells},PQ{num_codes}x4fs,{refine}"
    return "IVFPQ", {**build, "num_codes": num_codes, "refine": config.refine, "factory": factory}


def default_lists(num_ads: int) -> int:
    """Returns the default number of cells, the power of two below 4 √N.

    It is smaller if k-means would have too few points per centroid.
    """
    max_lists = min(4 * math.sqrt(num_ads), num_ads / _MIN_POINTS_PER_CENTROID)
    return 2 ** int(math.log2(max(max_lists, 1)))
