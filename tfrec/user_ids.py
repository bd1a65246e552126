"""Users as the query side knows them: by the id of a categorical field.

Shapes: W columns of ids.
"""

from typing import Optional

import tensorflow as tf

from tfrecords import encoding


class UserIds:
    """Where queries carry the user's id; `find` says whether they do.

    Args:
        fitted: The fitted schema.
        column: Of the queries' ids.
        name: The field's.

    Attributes:
        vocabulary: The users known by name: ids 1, 2, ….
        cardinality: Ids of the field, those out of vocabulary and 0 included.
    """

    def __init__(self, fitted: encoding.FittedSchema, column: int, name: str) -> None:
        self._column = column
        self.vocabulary = fitted.statistics[name].vocabulary
        fields = fitted.schema.query_fields
        self.cardinality = next(fitted.cardinality(f) for f in fields if f.name == name)

    @classmethod
    def find(cls, fitted: encoding.FittedSchema) -> Optional["UserIds"]:
        """Returns the users' ids; None where no categorical query field is the `user_key`."""
        for field, columns in encoding.columns(fitted.schema.query_fields):
            if field.kind == "categorical" and field.source == fitted.schema.user_key:
                return cls(fitted, columns.start, field.name)
        return None

    def of(self, query: tf.Tensor) -> tf.Tensor:
        """Returns the ids [...] of queries [..., W] int32."""
        return query[..., self._column]

    def is_known(self, query: tf.Tensor) -> tf.Tensor:
        """Returns [...] bool: whether the user of queries [..., W] int32 is in the vocabulary."""
        ids = self.of(query)
        return (ids > 0) & (ids <= len(self.vocabulary))
