"""A factorization machine of the fields: a shallow model for labels with few positives.

The logit is a sum of effects of all field values, and of inner products of the query side's sum of
vectors with the ad side's. Each value of a list counts. Numbers count by their buckets, and those
of the ad also by their logarithm and its square: whether users buy the most expensive ads, which
few rows have, then follows from the effect of the price.

Shapes: B requests, C candidates, Wq and Wa columns of ids of the query and the ad side, W columns
with ids of a side, M numbers of the ad side, V rows of the table: ids of all fields, then the
numbers and their squares, F fields (each number is one, and each square), K rank.

References:
    Rendle, Factorization Machines, 2010 (here without the products inside a side).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfrec.layers import numbers
from tfrecords import encoding, schema

RANK = 8


class FactorizationMachine(tf.keras.layers.Layer):
    """Scores pairs of queries and ads; `ranking.rare_heads` fits it, not the optimizer.

    Args:
        fitted: The fitted schema; fields that are vectors are left out.

    Attributes:
        table: [V, 1 + K] effect and vector of each id of each field, each number and each square.
        intercept: Logit of rows without effects.
        share: Weight in [0, 1] of this logit in the mixture with another; 0 before the fit.
        query_rows, ad_rows: Maps encoded rows of a side to rows of the table.
        field_of_row: [V] number of the field of each row, from 0.
        is_padding: [V - 2 M] bool, true for id 0 of lists.
    """

    def __init__(self, fitted: encoding.FittedSchema) -> None:
        super().__init__(name="factorization_machine", trainable=False)
        query_fields, ad_fields = fitted.schema.query_fields, fitted.schema.ad_fields
        fields = [f for f in (*query_fields, *ad_fields) if not f.is_vector]
        sizes = [
            fitted.num_coarse_buckets(f) if f.is_bucketed else fitted.cardinality(f) for f in fields
        ]
        first = dict(zip(fields, np.cumsum([0, *sizes]).tolist(), strict=False))
        padding = [first[field] for field in fields if field.is_list]
        self.query_rows = TableRows(fitted, query_fields, first)
        self.ad_rows = TableRows(fitted, ad_fields, first)
        self._numbers = numbers.scaled_numbers(fitted, ad_fields)
        self._num_ids = sum(sizes)
        sizes += [1] * (2 * self._numbers.num_fields)
        self.field_of_row = np.repeat(np.arange(len(sizes)), sizes)
        self.is_padding = np.isin(np.arange(self._num_ids), padding)
        self.table = self.add_weight("table", (sum(sizes), 1 + RANK), initializer="zeros")
        self.intercept = self.add_weight("intercept", (), initializer="zeros")
        self.share = self.add_weight("share", (), initializer="zeros")

    def call(self, query: tf.Tensor, ad: tf.Tensor) -> tf.Tensor:
        """Returns logits [B, C] of queries [B, Wq] and ads [B, C, Wa], int32."""
        query_sum = self._sum(self.query_rows(query))[:, None]  # [B, 1, 1 + K]
        ad_sum = self._sum(self.ad_rows(ad))  # [B, C, 1 + K]
        ad_sum += tf.tensordot(self.ad_numbers(ad), self.table[self._num_ids :], axes=1)
        effects = query_sum[..., 0] + ad_sum[..., 0]
        products = tf.reduce_sum(query_sum[..., 1:] * ad_sum[..., 1:], axis=-1)
        return self.intercept + effects + products

    def ad_numbers(self, ad: tf.Tensor) -> tf.Tensor:
        """Returns the values [..., 2 M] of the last rows of the table at ads [..., Wa] int32."""
        logarithms = self._numbers(ad)
        # Of normal numbers, the square has mean 0 and about deviation 1, too.
        return tf.concat([logarithms, (tf.square(logarithms) - 1.0) / 1.5], axis=-1)

    def _sum(self, rows: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.gather(self.table, rows), axis=-2)


class TableRows:
    """Maps encoded rows of a side to rows of a table that has all ids of all fields but vectors."""

    def __init__(
        self,
        fitted: encoding.FittedSchema,
        fields: Sequence[schema.Field],
        first: Mapping[schema.Field, int],
    ) -> None:
        strings = [
            (np.arange(span.start, span.stop), np.full(span.stop - span.start, first[field]))
            for field, span in encoding.value_columns(fields)
            if field in first and not field.is_bucketed
        ]
        columns, rows = zip(*strings, strict=True) if strings else ((), ())
        self._columns = np.concatenate([*columns, np.empty(0)]).astype(np.int32)
        self._first = np.concatenate([*rows, np.empty(0)]).astype(np.int32)
        numeric = [first[field] for field in fields if field.is_bucketed]
        self._numeric = numbers.coarse_rows(fitted, fields, numeric)

    def __call__(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns rows of the table [..., W] of encoded rows [..., Wq or Wa] int32."""
        strings = tf.gather(ids, self._columns, axis=-1) + self._first
        return tf.concat([strings, self._numeric(ids)], axis=-1)
