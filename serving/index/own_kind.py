"""Checks the index that a custom kind makes, and names the kind in each error.

Shapes: Q queries, D embedding size.
"""

from typing import Any

import faiss
import numpy as np

from serving.index import filtered_search, kinds
from serving.index.filters import row_set

_NUM_FOUND = 10


def create(kind: str, factory: str, dimension: int) -> Any:
    """Creates the empty index of a factory string.

    Raises:
        ValueError: FAISS has no such index for inner products; or the index rescores, or has other
            labels than the rows.
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
    return index


def train(kind: str, index: Any, embeddings: np.ndarray, queries: np.ndarray | None) -> None:
    """Trains an index with the kind's `train`; the arguments are the same as for `IndexKind.train`.

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
    """Checks that a filled index finds the best of some ads for queries [Q, D], as filters need it.

    Raises:
        ValueError: The index does not accept a selector of eligible ads.
    """
    eligible = row_set.RowSet.of_rows(np.arange(0, index.ntotal, 2), index.ntotal)
    try:
        # Few eligible ads are otherwise searched without the index.
        searched = filtered_search.FilteredSearch(index, always_exact=0)
        searched.search(queries, _NUM_FOUND, eligible)
    except RuntimeError as error:
        raise ValueError(
            f"index kind {kind!r}: expected an index that accepts a selector of ads, which filters "
            f"need, got {factory!r}, which does not ({error}). Use a flat, IVF or HNSW index."
        ) from error
