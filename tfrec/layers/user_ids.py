"""The user ids of queries, a categorical field.

Shapes: W columns of ids.
"""

import dataclasses
from typing import Optional

import tensorflow as tf

from tfrecords import encoding


@dataclasses.dataclass(frozen=True)
class UserIds:
    """Column and vocabulary of the user ids in queries.

    Attributes:
        column: Column of the queries' ids.
        vocabulary: Users in the vocabulary: ids 1, 2, ….
        cardinality: Number of ids of the field, with out-of-vocabulary ids and 0.
    """

    column: int
    vocabulary: tuple[str, ...]
    cardinality: int

    @classmethod
    def find(cls, fitted: encoding.FittedSchema) -> Optional["UserIds"]:
        """Returns the user ids; None if no categorical query field is the `user_key`."""
        for field, columns in encoding.columns(fitted.schema.query_fields):
            if field.kind == "categorical" and field.source == fitted.schema.user_key:
                vocabulary = fitted.statistics[field.name].vocabulary
                return cls(columns.start, vocabulary, fitted.cardinality(field))
        return None

    def of(self, query: tf.Tensor) -> tf.Tensor:
        """Returns the ids [...] of queries [..., W] int32."""
        return query[..., self.column]

    def is_known(self, query: tf.Tensor) -> tf.Tensor:
        """Returns [...] bool: whether the user of queries [..., W] int32 is in the vocabulary."""
        ids = self.of(query)
        return (ids > 0) & (ids <= len(self.vocabulary))
