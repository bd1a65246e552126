"""Ids of users and of ads, read from the categorical fields that hold them, if there are any.

Shapes: W columns of ids.
"""

import dataclasses
from collections.abc import Sequence
from typing import Optional

import numpy as np
import tensorflow as tf

from tfrecords import encoding
from tfrecords.schema import Field


@dataclasses.dataclass(frozen=True)
class KeyIds:
    """Column and vocabulary of the ids of users or ads.

    Attributes:
        column: Column of the encoded ids of its side.
        vocabulary: Keys in the vocabulary: ids 1, 2, ….
        cardinality: Number of ids of the field, with out-of-vocabulary ids and 0.
    """

    column: int
    vocabulary: tuple[str, ...]
    cardinality: int

    @classmethod
    def for_users(cls, fitted: encoding.FittedSchema) -> Optional["KeyIds"]:
        """Returns the ids of users; None if no categorical query field is the `user_key`."""
        schema = fitted.schema
        return cls._find(fitted, schema.query_fields, schema.user_key)

    @classmethod
    def for_ads(cls, fitted: encoding.FittedSchema) -> Optional["KeyIds"]:
        """Returns the ids of ads; None if no categorical ad field is the whole `ad_key`."""
        schema = fitted.schema
        return cls._find(
            fitted, schema.ad_fields, schema.ad_key[0] if len(schema.ad_key) == 1 else None
        )

    @classmethod
    def _find(
        cls, fitted: encoding.FittedSchema, fields: Sequence[Field], key: str | None
    ) -> Optional["KeyIds"]:
        for field, columns in encoding.columns(fields):
            if field.kind == "categorical" and field.source == key:
                vocabulary = fitted.statistics[field.name].vocabulary
                return cls(columns.start, vocabulary, fitted.cardinality(field))
        return None

    def ids_in(self, rows: tf.Tensor | np.ndarray) -> tf.Tensor | np.ndarray:
        """Returns the ids [...] of encoded rows [..., W] int32."""
        return rows[..., self.column]

    def is_known(self, rows: tf.Tensor | np.ndarray) -> tf.Tensor | np.ndarray:
        """Returns [...] bool: whether the key of rows [..., W] int32 is in the vocabulary."""
        ids = self.ids_in(rows)
        return (ids > 0) & (ids <= len(self.vocabulary))
