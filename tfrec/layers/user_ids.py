"""Users as the query side knows them: by the id of a categorical field.

Shapes: W columns of ids.
"""

import dataclasses
from typing import Optional

import tensorflow as tf

from tfrecords import encoding


@dataclasses.dataclass(frozen=True)
class UserIds:
    """Where queries carry the user's id; `find` says whether they do.

    Attributes:
        column: Of the queries' ids.
        vocabulary: The users known by name: ids 1, 2, ….
        cardinality: Ids of the field, those out of vocabulary and 0 included.
    """

    column: int
    vocabulary: tuple[str, ...]
    cardinality: int

    @classmethod
    def find(cls, fitted: encoding.FittedSchema) -> Optional["UserIds"]:
        """Returns the users' ids; None where no categorical query field is the `user_key`."""
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
