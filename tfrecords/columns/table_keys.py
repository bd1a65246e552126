"""Keys of tables of ads and users: which repeat, and which rows have none.

Shapes: B rows, V distinct keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from tfrecords import records


def count_keys(
    table: pa.Table,
    key: Sequence[str],
    names: Sequence[str],
    codes: np.ndarray,
    last: np.ndarray,
    is_missing: np.ndarray,
) -> records.TableKeys:
    """Counts the rows of a table that do not count, because of their key.

    Args:
        table: The table.
        key: Its key columns.
        names: Columns that are read from it, in addition to the key.
        codes: Code of the key of each row [B].
        last: Last row of each key [V].
        is_missing: Whether a key is a missing one [V].
    """
    # Imported here, so that formats and schemas can be checked without TensorFlow.
    from tfrecords import records

    without_key = is_missing[codes]
    counted = last[codes]
    repeated = np.flatnonzero((counted != np.arange(len(codes))) & ~without_key)
    differs = np.zeros(len(repeated), bool)
    compared = pa.array(np.concatenate([repeated, counted[repeated]]))
    for name in names if len(repeated) else ():
        own, of_last = np.split(_coded(table[name].take(compared)), 2)
        differs |= own != of_last
    return records.TableKeys(
        key=list(key),
        repeated=len(repeated),
        differing=int(differs.sum()),
        without_key=int(without_key.sum()),
    )


def _coded(column: pa.ChunkedArray) -> np.ndarray:
    """Returns codes [B] that are equal for equal values of any type."""
    array = column.combine_chunks()
    array = array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
    if pa.types.is_nested(array.type) or pa.types.is_null(array.type):
        array = pa.array([repr(value) for value in array.to_pylist()], pa.string())
    return array.dictionary_encode(null_encoding="encode").indices.to_numpy()
