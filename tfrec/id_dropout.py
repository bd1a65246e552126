"""Id dropout: in training some users and ads are made strangers.

What a model has learnt of ids that are out of vocabulary decides what it makes of users and ads
that training never saw. Rare values alone, which share these ids, teach it little. So with a
small probability the id of a user, or of an ad that has other fields, is replaced by one that is
out of vocabulary: the other fields then have to tell what the id would have.

Shapes: B queries or ads, W columns of ids.

References:
    Volkovs, Yu and Poutanen, DropoutNet: Addressing Cold Start in Recommender Systems, 2017.
"""

from collections.abc import Sequence

import tensorflow as tf

from tfrecords import encoding
from tfrecords import schema as schema_lib


class IdDropout:
    """Replaces the ids of one field.

    Args:
        fitted: The fitted schema.
        fields: The side's fields, in the order of the ids' columns.
        column: The log's column that is the id; None, or of no categorical field, replaces none.
        rate: Probability that an id is replaced.
    """

    def __init__(
        self,
        fitted: encoding.FittedSchema,
        fields: Sequence[schema_lib.Field],
        column: str | None,
        rate: float,
    ) -> None:
        self._rate = 0.0
        self._width = encoding.width(fields)
        first = 0
        for field in fields:
            if field.kind == "categorical" and field.source == column:
                self._rate, self._column = rate, first
                self._num_oov = field.num_oov_buckets
                self._first_oov = fitted.cardinality(field) - field.num_oov_buckets
            first += field.width

    def __call__(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns ids [..., W] int32, some of them replaced."""
        if not self._rate:
            return ids
        shape = tf.shape(ids)[:-1]
        replaced = tf.random.uniform(shape) < self._rate
        stranger = tf.random.uniform(shape, maxval=self._num_oov, dtype=tf.int32)
        stranger += self._first_oov
        here = tf.range(self._width) == self._column
        return tf.where(replaced[..., None] & here, stranger[..., None], ids)


def of_user(fitted: encoding.FittedSchema, rate: float) -> IdDropout:
    """Returns the dropout of the user's id, on the query side."""
    schema = fitted.schema
    return IdDropout(fitted, schema.query_fields, schema.user_key, rate)


def of_ad(fitted: encoding.FittedSchema, rate: float) -> IdDropout:
    """Returns the dropout of the ad's id: where it is one column, and the ad has other fields."""
    schema = fitted.schema
    column = schema.ad_key[0] if len(schema.ad_key) == 1 and len(schema.ad_fields) > 1 else None
    return IdDropout(fitted, schema.ad_fields, column, rate)
