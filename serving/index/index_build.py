"""Builds the FAISS index of a release from the ad embeddings.

Shapes: N ads, D embedding size.

References: Dhillon and Modha 2001 (spherical k-means: with centroids of unit length, the inner
product with a centroid depends on how near the cell is, not on how dense it is).
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np

from serving import errors
from serving.index import ivfpq, kinds, own_kind

# With fewer ads, threads save no time, and are slow on a busy machine.
_MIN_ADS_FOR_THREADS = 20_000
_ITERATIONS = 10
# Larger samples do not improve scalar quantizers and codebooks.
_MIN_SAMPLE = 65_536
# Number of vectors that `try_kind` adds, and of those among them that serve as queries.
_NUM_TRIED, _NUM_TRIED_QUERIES = 1_000, 64
# Memory-mapped embeddings are read in pieces of this size.
_ADDED_AT_ONCE = 65_536


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Sets the number of OpenMP threads of the calling thread in a `with` block."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def build(
    embeddings: np.ndarray, config: kinds.IndexConfig, queries: np.ndarray | None = None
) -> tuple[Any, str, dict[str, Any]]:
    """Trains and fills the index, and sets its search parameters.

    Args:
        embeddings: [N, D] float32, finite.
        config: Kind and parameters.
        queries: [Q, D] float32, representative query embeddings, from which IVFPQ computes the
            weights of directions. None uses no weights.

    Returns:
        The index, its kind, and its build parameters.

    Raises:
        AdIndexError: An embedding is not finite.
        ValueError: `config.use_gpu` is set, but there is no GPU; or a custom kind
            fails, or its index cannot be served.
    """
    size = training_sample_size(config, *embeddings.shape)
    drawn = sample_vectors(embeddings, size, config.seed)
    check_finite(drawn)
    index, kind, parameters = train_index(drawn, config, len(embeddings), queries)
    _fill(index, kind, parameters["factory"], embeddings)
    return index, kind, parameters


def try_kind(config: kinds.IndexConfig, num_ads: int, dimension: int) -> None:
    """Builds a small index of a custom kind, to find errors before long work.

    It trains with random unit vectors, as many as for N ads.

    Args:
        config: Kind and parameters. Built-in kinds are not tried.
        num_ads: Number of ads N that will be added.
        dimension: Embedding size D.

    Raises:
        ValueError: The kind fails, or its index cannot be served.
    """
    if not config.has_own_kind:
        return
    size = training_sample_size(config, num_ads, dimension)
    drawn = np.random.default_rng(config.seed).standard_normal((size, dimension), np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    index, kind, parameters = train_index(drawn, config, num_ads, drawn[:_NUM_TRIED_QUERIES])
    _fill(index, kind, parameters["factory"], drawn[:_NUM_TRIED])


def train_index(
    embeddings: np.ndarray,
    config: kinds.IndexConfig,
    num_ads: int,
    queries: np.ndarray | None = None,
) -> tuple[Any, str, dict[str, Any]]:
    """Creates an empty trained index, to be filled with `add_vectors`.

    Args:
        embeddings: [sample, D] float32, a sample of the ads; see `training_sample_size`.
        config: Kind and parameters.
        num_ads: Number of ads N that will be added.
        queries: [Q, D] float32, representative query embeddings, or None; see `build`.

    Returns:
        The index with its search parameters set, its kind, and its build parameters.

    Raises:
        ValueError: See `build`.
    """
    dimension = embeddings.shape[1]
    kind, parameters = kinds.resolve(config, num_ads, dimension)
    factory = parameters["factory"]
    if kind in kinds.KINDS:
        index = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    else:
        index = own_kind.create(kind, factory, dimension)
    embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
    cells_on = _on_gpu(dimension, kind) if config.use_gpu else None
    with threads(_num_threads(num_ads)):
        ivf = faiss.try_extract_index_ivf(index)
        if ivf is not None:
            ivf.cp.seed = config.seed
            ivf.cp.niter = _ITERATIONS
            ivf.cp.max_points_per_centroid = kinds.POINTS_PER_CENTROID
        if kind == "IVFPQ":
            weighted = ivfpq.train(index, embeddings, queries, cells_on)
            parameters["weighted_by_queries"] = weighted
        elif kind == "IVF":
            ivf.clustering_index = cells_on
            index.train(embeddings)
            ivf.clustering_index = None
        elif kind in kinds.KINDS:
            index.train(embeddings)
        else:
            own_kind.train(kind, index, embeddings, queries)
    set_search(index, kind, config, num_ads)
    return index, kind, parameters


def _fill(index: Any, kind: str, factory: str, embeddings: np.ndarray) -> None:
    """Adds all embeddings [N, D], and checks an index of a custom kind."""
    try:
        for first in range(0, len(embeddings), _ADDED_AT_ONCE):
            add_vectors(index, embeddings[first : first + _ADDED_AT_ONCE])
    except RuntimeError as error:
        if kind in kinds.KINDS:
            raise
        raise ValueError(
            f"index kind {kind!r}: expected an index to which {len(embeddings):,} ads can be "
            f"added, got {factory!r}, which fails ({error}). Correct what `factory` returns."
        ) from error
    if kind not in kinds.KINDS:
        own_kind.check_filtered_search(kind, factory, index, embeddings[:1])


def add_vectors(index: Any, embeddings: np.ndarray) -> None:
    """Appends embeddings [rows, D] float32 to the index.

    Raises:
        AdIndexError: An embedding is not finite.
    """
    check_finite(embeddings, index.ntotal)
    # A graph is deterministic only if a single thread builds it.
    is_graph = isinstance(index, faiss.IndexHNSW)
    embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
    with threads(1 if is_graph else _num_threads(index.ntotal + len(embeddings))):
        if isinstance(index, faiss.IndexRefine):
            ivfpq.add(index, embeddings)
        else:
            index.add(embeddings)


def training_sample_size(config: kinds.IndexConfig, num_ads: int, dimension: int) -> int:
    """Returns the number of embeddings that training uses, at most N."""
    _, parameters = kinds.resolve(config, num_ads, dimension)
    sample_size = kinds.POINTS_PER_CENTROID * parameters.get("num_lists", 0)
    return min(max(sample_size, _MIN_SAMPLE), num_ads)


def sample_vectors(embeddings: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Draws rows without replacement, in row order: [size, D]."""
    if size >= len(embeddings):
        return embeddings
    chosen = np.random.default_rng(seed).choice(len(embeddings), size, replace=False)
    return embeddings[np.sort(chosen)]


def megabytes(index: Any) -> float:
    """Returns the size of the saved index in MB (10^6 bytes)."""
    total = 0

    def count(piece: bytes) -> int:
        nonlocal total
        total += len(piece)
        return len(piece)

    writer = faiss.PyCallbackIOWriter(count, 1 << 20)
    faiss.write_index(index, writer)
    return total / 1e6


def check_finite(embeddings: np.ndarray, first_row: int = 0) -> None:
    """Checks embeddings [rows, D] of the ads from `first_row` on.

    Raises:
        AdIndexError: An embedding is not finite.
    """
    # isfinite of the whole array takes a byte per number, 1 GB for 4 million ads.
    if np.isfinite(embeddings.sum(dtype=np.float64)):
        return
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if bad.size:
        raise errors.AdIndexError(
            f"The embedding of ad {first_row + int(bad[0])} is not finite. Train the tower again."
        )


def _num_threads(num_ads: int) -> int:
    return 1 if num_ads < _MIN_ADS_FOR_THREADS else faiss.omp_get_max_threads()


def _on_gpu(dimension: int, kind: str) -> Any:
    """Returns an empty GPU index for k-means; None for kinds without cells."""
    get_num_gpus = getattr(faiss, "get_num_gpus", None)
    if get_num_gpus is None or get_num_gpus() == 0:
        raise ValueError(
            "use_gpu: expected a faiss-gpu build and a GPU, found none. Install faiss-gpu on a "
            "machine with a GPU, or do not set use_gpu."
        )
    flat: Any = {"IVF": faiss.IndexFlatIP, "IVFPQ": faiss.IndexFlatL2}.get(kind)
    return None if flat is None else faiss.index_cpu_to_all_gpus(flat(dimension))


def set_search(index: Any, kind: str, config: kinds.IndexConfig, num_ads: int) -> None:
    """Sets the search parameters from the config, or their defaults for N ads."""
    if kind not in kinds.KINDS:
        kinds.call_own(kind, "set_search", index, config, num_ads)
        return
    if kind == "HNSW":
        index.hnsw.efSearch = config.search_width or config.num_candidates
    elif kind != "Flat":
        ivf = faiss.extract_index_ivf(index)
        # Cells differ in size, so this probes four times the cells that hold enough ads on average.
        enough = math.ceil(4 * config.num_candidates * ivf.nlist / num_ads)
        probes = config.num_probes or max(ivf.nlist // 16, enough, 1)
        ivf.nprobe = min(probes, ivf.nlist)
    if kind == "IVFPQ":
        index.k_factor = config.refine_factor
