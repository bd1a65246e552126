"""Looks up what belongs to the ids of numeric fields.

Shapes: W columns of ids of a side, M numeric fields.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfrecords import encoding, schema


class NumberLookup:
    """Maps encoded rows of a side to a value for each of its numbers.

    Args:
        fields: The fields of the side, in the order of the columns.
        tables: The value of each id of each numeric field.
        dtype: Type of the values.
    """

    def __init__(
        self, fields: Sequence[schema.Field], tables: Sequence[np.ndarray], dtype: type
    ) -> None:
        own = [columns.start for f, columns in encoding.columns(fields) if f.kind == "numeric"]
        self._columns = np.array(own, np.int32)
        self._first = np.cumsum([0, *map(len, tables)])[:-1].astype(np.int32)
        self._values: np.ndarray = np.concatenate([*tables, np.empty(0)]).astype(dtype)

    def __call__(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the values [..., M] of ids [..., W] int32."""
        return tf.gather(self._values, tf.gather(ids, self._columns, axis=-1) + self._first)


def coarse_rows(
    fitted: encoding.FittedSchema, fields: Sequence[schema.Field], first: Sequence[int]
) -> NumberLookup:
    """Returns a lookup of the row, in a table, of the coarse bucket of each number.

    Args:
        fitted: The fitted schema.
        fields: The fields of a side.
        first: The row of id 0 of each numeric field.
    """
    numeric = [field for field in fields if field.kind == "numeric"]
    buckets = [fitted.statistics[field.name].coarse_buckets() for field in numeric]
    rows = [own + row for own, row in zip(buckets, first, strict=True)]
    return NumberLookup(fields, rows, np.int32)
