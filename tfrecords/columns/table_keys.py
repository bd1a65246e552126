"""Keys of ads and users: which repeat in a table, which rows have none, and which are floats.

Shapes: B rows, V distinct keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords.columns import arrow, codes, placeholders

if TYPE_CHECKING:
    from tfrecords import records

# pandas writes whole numbers of a column with missing values as floats.
WHOLE_FLOAT = r"^-?[0-9]+\.0$"
NEARLY_ALL = 0.95


def rows_by_key(
    table: pa.Table, key: Sequence[str], names: Sequence[str]
) -> tuple[pa.Array, np.ndarray, np.ndarray, records.TableKeys]:
    """Finds the rows of a table that count: the last one of each key.

    Args:
        table: The table.
        key: Key columns of the table.
        names: Columns that are read from it, in addition to the key.

    Returns:
        The keys [V] that are not missing, their fingerprints [V] int64, their rows [V] int64, and
        the counts of all rows.
    """
    # Imported here, so that formats and schemas can be checked without TensorFlow.
    from tfrecords import records

    row_codes, keys = codes.coded_keys(table, key)
    last = codes.last_rows(row_codes, len(keys))
    nothing = "|" * (len(key) - 1)
    is_missing = pc.equal(keys.values, nothing).to_numpy(zero_copy_only=False)
    without_key = is_missing[row_codes]
    counted = last[row_codes]
    repeated = np.flatnonzero((counted != np.arange(table.num_rows)) & ~without_key)
    differs = np.zeros(len(repeated), bool)
    compared = pa.array(np.concatenate([repeated, counted[repeated]]))
    for name in names if len(repeated) else ():
        earlier_values, last_values = np.split(_coded(table[name].take(compared)), 2)
        differs |= earlier_values != last_values
    kept = np.flatnonzero((last >= 0) & ~is_missing)
    values = keys.values.take(pa.array(kept))
    found = records.TableKeys(
        key=list(key),
        repeated=len(repeated),
        differing=int(differs.sum()),
        without_key=int(without_key.sum()),
        examples=values[:3].to_pylist(),
    )
    return values, keys.fingerprints[kept], last[kept], found


def count_whole_floats(column: pa.ChunkedArray) -> tuple[int, int, str | None]:
    """Returns the number of rows with a key such as 118.0, of all with a key, and an example."""
    encoded = arrow.as_dictionary(column)
    keys = encoded.dictionary
    rows = np.bincount(encoded.indices.drop_null().to_numpy(), minlength=len(keys))
    is_float = pc.match_substring_regex(keys, WHOLE_FLOAT)
    is_missing = placeholders.are_missing(keys)
    example = next(iter(keys.filter(is_float)[:1].to_pylist()), None)
    num_floats = int(rows[is_float.to_numpy(zero_copy_only=False)].sum())
    return num_floats, int(rows[~is_missing].sum()), example


def _coded(column: pa.ChunkedArray) -> np.ndarray:
    """Returns codes [B] that are equal for equal values of any type."""
    array = arrow.decoded(column.combine_chunks())
    if pa.types.is_nested(array.type) or pa.types.is_null(array.type):
        array = pa.array([repr(value) for value in array.to_pylist()], pa.string())
    return array.dictionary_encode(null_encoding="encode").indices.to_numpy()
