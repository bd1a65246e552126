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
from serving.index import filtered_search, ivfpq, kinds
from serving.index.filters import row_set

# With fewer ads, threads save no time, and are slow on a busy machine.
_MIN_ADS_FOR_THREADS = 20_000
_ITERATIONS = 10
# Rescored candidates of IVFPQ as a multiple of k, if there are no queries to tune it with.
_REFINE_FACTOR = 2.0
# Larger samples do not improve scalar quantizers and codebooks.
_MIN_SAMPLE = 65_536
# Number of ads in the filtered searches that check an index.
_NUM_CHECKED = 10
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
        queries: [Q, D] float32, representative query embeddings, from which IVFPQ computes the
            weights of directions. None uses no weights.
    """
    drawn = sample_vectors(embeddings, training_sample_size(config, *embeddings.shape), config.seed)
    check_finite(drawn)
    try:
        index, kind, parameters = train_index(drawn, config, len(embeddings), queries)
        for first in range(0, len(embeddings), _ADDED_AT_ONCE):
            add_vectors(index, embeddings[first : first + _ADDED_AT_ONCE])
        if kind not in kinds.KINDS:
            _check_filtered_search(index, kind, embeddings[:1])
    except RuntimeError as error:
        if config.kind in (kinds.AUTO, *kinds.KINDS):
            raise
        raise _unfit(config.kind, f"which fails ({error})") from error
    return index, kind, parameters


def check_kind(config: kinds.IndexConfig, dimension: int) -> None:
    """Checks a factory string, to find errors before long work.

    Raises:
        ValueError: FAISS has no such index of this dimension, or it cannot be served.
    """
    if config.backend == kinds.FAISS and config.kind not in (kinds.AUTO, *kinds.KINDS):
        _create(config.kind, dimension)


def _create(factory: str, dimension: int) -> Any:
    """Creates the empty index of a factory string."""
    try:
        index = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise _unfit(
            factory, f"which FAISS refuses for {dimension} dimensions ({error})"
        ) from error
    ivf = faiss.try_extract_index_ivf(index)
    reasons = {
        "which rescores": isinstance(index, faiss.IndexRefine),
        "whose labels are not the rows of the ads": isinstance(index, faiss.IndexIDMap),
        "which FAISS makes for distances": index.metric_type != faiss.METRIC_INNER_PRODUCT,
        "whose vectors cannot be read from its file, as filters need": ivf is not None
        and isinstance(faiss.downcast_index(ivf), faiss.IndexIVFFastScan),
    }
    for reason, is_unfit in reasons.items():
        if is_unfit:
            raise _unfit(factory, reason)
    return index


def _check_filtered_search(index: Any, factory: str, queries: np.ndarray) -> None:
    """Searches half of the ads with the index, and a few without it, as serving does."""
    every_other = np.arange(0, index.ntotal, 2)
    half, some = (
        row_set.RowSet.from_rows(rows, index.ntotal)
        for rows in (every_other, every_other[:_NUM_CHECKED])
    )
    with_selector = filtered_search.FilteredSearch(index, always_exact=0)
    gathering = filtered_search.FilteredSearch(index)
    found = [
        with_selector.search(queries, min(_NUM_CHECKED, half.count), half)[1],
        gathering.search(queries, some.count, some)[1],
        gathering.exhaustive(queries, some.count, some)[1],
    ]
    ivf = faiss.try_extract_index_ivf(index)
    if ivf is not None:
        # Gathering adds a map from ads to cells, which the index file does not need.
        ivf.set_direct_map_type(faiss.DirectMap.NoMap)
    if any((rows < 0).any() for rows in found):
        raise _unfit(factory, "which finds fewer ads than there are")


def _unfit(factory: str, reason: str) -> ValueError:
    return ValueError(
        f"index: expected {', '.join((kinds.AUTO, *kinds.KINDS))}, or a FAISS factory string of a "
        f"flat, IVF or HNSW index for inner products, such as IVF4096,SQ8; got {factory!r}, "
        f"{reason}."
    )


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
    if kind in kinds.KINDS:
        index = faiss.index_factory(dimension, parameters["factory"], faiss.METRIC_INNER_PRODUCT)
    else:
        index = _create(kind, dimension)
    embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
    with threads(_num_threads(num_ads)):
        ivf = faiss.try_extract_index_ivf(index)
        if ivf is not None:
            ivf.cp.seed = config.seed
            ivf.cp.niter = _ITERATIONS
            ivf.cp.max_points_per_centroid = kinds.POINTS_PER_CENTROID
            # Cells differ in size, so this probes four times those that hold enough ads on average.
            enough = math.ceil(4 * config.num_candidates * ivf.nlist / num_ads)
            ivf.nprobe = min(config.num_probes or max(ivf.nlist // 16, enough, 1), ivf.nlist)
        if kind == "IVFPQ":
            parameters["weighted_by_queries"] = ivfpq.train(index, embeddings, queries)
            index.k_factor = _REFINE_FACTOR
        else:
            index.train(embeddings)
    if isinstance(index, faiss.IndexHNSW):
        index.hnsw.efSearch = config.num_candidates
    return index, kind, parameters


def add_vectors(index: Any, embeddings: np.ndarray) -> None:
    """Appends embeddings [rows, D] float32 to the index.

    Raises:
        BundleError: An embedding is not finite.
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
    kind, parameters = kinds.resolve(config, num_ads, dimension)
    num_lists = parameters.get("num_lists", 0)
    if kind not in kinds.KINDS:
        ivf = faiss.try_extract_index_ivf(_create(kind, dimension))
        num_lists = 0 if ivf is None else ivf.nlist
    return min(max(kinds.POINTS_PER_CENTROID * num_lists, _MIN_SAMPLE), num_ads)


def sample_vectors(embeddings: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Draws rows without replacement, in row order: [size, D]."""
    if size >= len(embeddings):
        return embeddings
    chosen = np.random.default_rng(seed).choice(len(embeddings), size, replace=False)
    return embeddings[np.sort(chosen)]


def check_finite(embeddings: np.ndarray, first_row: int = 0) -> None:
    """Checks embeddings [rows, D] of the ads from `first_row` on."""
    # isfinite of the whole array takes a byte per number, 1 GB for 4 million ads.
    if np.isfinite(embeddings.sum(dtype=np.float64)):
        return
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if bad.size:
        raise errors.BundleError(
            f"Ad row {first_row + int(bad[0])} has a non-finite embedding. Train the tower again."
        )


def _num_threads(num_ads: int) -> int:
    return 1 if num_ads < _MIN_ADS_FOR_THREADS else faiss.omp_get_max_threads()
