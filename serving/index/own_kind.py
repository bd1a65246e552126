"""Creates, trains and checks the index of a custom kind; errors name the kind.

Shapes: Q queries, D embedding size.
"""

from typing import Any

import faiss
import numpy as np

from serving.index import filtered_search, kinds
from serving.index.filters import row_set

_NUM_FOUND = 10
# Maximum number of ads in searches that compare all ads, or gather the eligible ones.
_NUM_COMPARED = 1_000


def create(kind: str, factory: str, dimension: int) -> Any:
    """Creates the empty index of a factory string.

    Raises:
        ValueError: FAISS has no such index for inner products; or the index has another metric,
            rescores, has labels other than the rows, or cannot be memory-mapped with filters.
    """
    try:
        index = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ValueError(
            f"index kind {kind!r}: expected a factory string of FAISS for inner products of "
            f"{dimension} dimensions, got {factory!r}, which FAISS refuses ({error}). Correct what "
            "`factory` returns."
        ) from error
    if isinstance(index, faiss.IndexRefine):
        raise ValueError(
            f"index kind {kind!r}: expected an index that does not rescore, got {factory!r}. Leave "
            "Refine out, or use the kind IVFPQ."
        )
    if isinstance(index, faiss.IndexIDMap):
        raise ValueError(
            f"index kind {kind!r}: expected an index whose labels are the rows of the ads, got "
            f"{factory!r}. Leave IDMap out."
        )
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise ValueError(
            f"index kind {kind!r}: expected an index for inner products, got {factory!r}, which "
            "FAISS makes for distances. Use a flat, IVF or HNSW index."
        )
    if isinstance(_cells(index), faiss.IndexIVFFastScan):
        raise ValueError(
            f"index kind {kind!r}: expected an index whose vectors can be read from its file, as "
            f"filters need, got {factory!r}, whose codes FAISS does not find there. Leave fast "
            "scan (fs) out, or use the kind IVFPQ."
        )
    return index


def _cells(index: Any) -> Any:
    """Returns the IVF index of an index with its class, or None."""
    ivf = faiss.try_extract_index_ivf(index)
    return None if ivf is None else faiss.downcast_index(ivf)


def train(kind: str, index: Any, embeddings: np.ndarray, queries: np.ndarray | None) -> None:
    """Trains an index with the kind's `train`; see `IndexKind.train` for the arguments.

    Raises:
        ValueError: `train` failed, did not train the index or added ads to it.
    """
    kinds.call_own(kind, "train", index, embeddings, queries)
    if not index.is_trained:
        raise ValueError(
            f"index kind {kind!r}: expected a trained index after `train`, got one that is not "
            "trained. Call index.train(embeddings) there."
        )
    if index.ntotal:
        raise ValueError(
            f"index kind {kind!r}: expected an empty index after `train`, got one with "
            f"{index.ntotal} vectors. Do not add any there: the ads are added later."
        )


def check_filtered_search(kind: str, factory: str, index: Any, queries: np.ndarray) -> None:
    """Checks that filtered searches of a filled index work, with queries [Q, D].

    Raises:
        ValueError: The index does not accept a selector of eligible ads, returns no vectors of
            them, or finds fewer of them than there are.
    """
    try:
        found = _filtered_rows(index, queries)
    except RuntimeError as error:
        raise ValueError(
            f"index kind {kind!r}: expected an index that accepts a selector of ads, and "
            f"reconstructs ads, which filters need, got {factory!r}, which does not ({error}). "
            "Use a flat, IVF or HNSW index."
        ) from error
    if any((rows < 0).any() for rows in found):
        raise ValueError(
            f"index kind {kind!r}: expected an index that finds as many ads as there are, got "
            f"{factory!r}, which finds fewer. Use a flat index, an IVF index whose cells are not "
            "found by a graph (IVF256, not IVF256_HNSW32), or an HNSW index without a transform "
            "before it."
        )


def _filtered_rows(index: Any, queries: np.ndarray) -> list[np.ndarray]:
    """Returns the rows found by each method that serving may choose for a search."""
    total = index.ntotal
    half = row_set.RowSet.from_rows(np.arange(0, total, 2), total)
    some = row_set.RowSet.from_rows(np.arange(0, total, 2)[:_NUM_COMPARED], total)
    ivf = _cells(index)
    map_type = None if ivf is None else ivf.direct_map.type
    # By default, few eligible ads are searched without the index.
    with_selector = filtered_search.FilteredSearch(index, always_exact=0)
    gathering = filtered_search.FilteredSearch(index)
    try:
        return [
            with_selector.search(queries, _NUM_FOUND, half)[1],
            gathering.search(queries, _NUM_FOUND, some)[1],
            gathering.exhaustive(queries, some.count, some)[1],
            gathering.exhaustive(queries, min(total, _NUM_COMPARED), row_set.RowSet.full(total))[1],
        ]
    finally:
        if ivf is not None:
            # Gathering adds a map from ads to cells, which the index file does not need.
            ivf.set_direct_map_type(map_type)
