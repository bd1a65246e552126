"""A factorization machine of the fields: a shallow model for labels with few positives.

The logit is a sum of effects of all field values, and of inner products of the query side's sum of
vectors with the ad side's. Numbers count by their buckets, and each value of a list counts.

Shapes: B requests, C candidates, Wq and Wa columns of ids of the query and the ad side, W columns
with ids of a side, V ids of all fields, F fields, K rank.

References:
    Rendle, Factorization Machines, 2010 (here without the products inside a side).
"""

import numpy as np
import tensorflow as tf

from tfrecords import encoding

RANK = 8


class FactorizationMachine(tf.keras.layers.Layer):
    """Scores pairs of queries and ads; `ranking.rare_heads` fits it, not the optimizer.

    Args:
        fitted: The fitted schema; fields that are vectors are left out.

    Attributes:
        table: [V, 1 + K] effect and vector of each id of each field.
        intercept: Logit of rows without effects.
        share: Weight in [0, 1] of this logit where it is mixed with another; 0 before the fit.
        query_columns, ad_columns: [W] columns of a side's ids in its encoded rows.
        query_rows, ad_rows: [W] row of the table of a column's id 0.
        field_of_row: [V] number of the field of each row, from 0.
        is_padding: [V] bool, true for id 0 of lists.
    """

    def __init__(self, fitted: encoding.FittedSchema) -> None:
        super().__init__(name="factorization_machine", trainable=False)
        sizes: list[int] = []
        padding: list[int] = []
        sides = []
        for fields in (fitted.schema.query_fields, fitted.schema.ad_fields):
            columns: list[int] = []
            rows: list[int] = []
            for field, own in encoding.value_columns(fields):
                if field.is_vector:
                    continue
                if field.is_list:
                    padding.append(sum(sizes))
                columns += range(own.start, own.stop)
                rows += [sum(sizes)] * (own.stop - own.start)
                sizes.append(fitted.cardinality(field))
            sides += [np.array(columns, np.int32), np.array(rows, np.int32)]
        self.query_columns, self.query_rows, self.ad_columns, self.ad_rows = sides
        self.field_of_row = np.repeat(np.arange(len(sizes)), sizes)
        self.is_padding = np.isin(np.arange(sum(sizes)), padding)
        self.table = self.add_weight("table", (sum(sizes), 1 + RANK), initializer="zeros")
        self.intercept = self.add_weight("intercept", (), initializer="zeros")
        self.share = self.add_weight("share", (), initializer="zeros")

    def call(self, query: tf.Tensor, ad: tf.Tensor) -> tf.Tensor:
        """Returns logits [B, C] of queries [B, Wq] and ads [B, C, Wa], int32."""
        query_sum = self._sum(query, self.query_columns, self.query_rows)[:, None]  # [B, 1, 1 + K]
        ad_sum = self._sum(ad, self.ad_columns, self.ad_rows)  # [B, C, 1 + K]
        effects = query_sum[..., 0] + ad_sum[..., 0]
        products = tf.reduce_sum(query_sum[..., 1:] * ad_sum[..., 1:], axis=-1)
        return self.intercept + effects + products

    def _sum(self, ids: tf.Tensor, columns: np.ndarray, rows: np.ndarray) -> tf.Tensor:
        own = tf.gather(ids, columns, axis=-1) + rows
        return tf.reduce_sum(tf.gather(self.table, own), axis=-2)
