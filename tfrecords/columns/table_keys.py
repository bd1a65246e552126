"""Keys of ads and users: which repeat in a table, which rows have none, and which are floats.

Shapes: B rows, V distinct keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords.columns import arrow, placeholders

if TYPE_CHECKING:
    from tfrecords import records

# pandas writes whole numbers of a column with missing values as floats.
WHOLE_FLOAT = r"^-?[0-9]+\.0$"
NEARLY_ALL = 0.95


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


def count_whole_floats(column: pa.ChunkedArray) -> tuple[int, int, str | None]:
    """Returns the number of rows with a key such as 118.0, of all with a key, and an example."""
    array = arrow.as_strings(column)
    encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    keys = encoded.dictionary
    rows = np.bincount(encoded.indices.drop_null().to_numpy(), minlength=len(keys))
    is_float = pc.match_substring_regex(keys, WHOLE_FLOAT)
    is_missing = placeholders.are_missing(keys)
    example = next(iter(keys.filter(is_float)[:1].to_pylist()), None)
    num_floats = int(rows[is_float.to_numpy(zero_copy_only=False)].sum())
    return num_floats, int(rows[~is_missing].sum()), example


def _coded(column: pa.ChunkedArray) -> np.ndarray:
    """Returns codes [B] that are equal for equal values of any type."""
    array = column.combine_chunks()
    array = array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
    if pa.types.is_nested(array.type) or pa.types.is_null(array.type):
        array = pa.array([repr(value) for value in array.to_pylist()], pa.string())
    return array.dictionary_encode(null_encoding="encode").indices.to_numpy()
