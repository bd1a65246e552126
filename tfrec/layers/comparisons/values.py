"""Comparisons of values: equal categories, and differences of numbers.

Shapes: Lq and La values of a query's and an ad's field, V ids of a field.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from tfrec.layers import histories, numbers
from tfrecords import encoding
from tfrecords.schema import Field

FieldPair: TypeAlias = tuple[Field, Field]
"""A field of the query side and one of the ad side."""
Compare = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
_Numbers = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
# Around the words of a title or a search. Signs such as - and + are kept: -1 is not equal to 1.
_PUNCTUATION = " ,;:.!?\"'()[]"


def equal_values(fitted: encoding.FittedSchema, query_field: Field, ad_field: Field) -> Compare:
    """Returns the function from rows to log(1 + the number of equal values) [..., 1]."""
    columns, ad_columns = columns_of(fitted, query_field, ad_field)
    fields = (query_field, ad_field)
    shared = shared_ids(*(fitted.statistics[field.name].vocabulary for field in fields))
    # [V] of each field; 0 for missing and out-of-vocabulary values.
    ids, ad_ids = (np.zeros(fitted.cardinality(field), np.int32) for field in fields)
    for table, known in zip((ids, ad_ids), shared, strict=True):
        table[1 : 1 + len(known)] = known

    def compare(query: tf.Tensor, ad: tf.Tensor) -> tf.Tensor:
        values = tf.gather(ids, query[..., columns])[..., None, :]  # [..., 1, Lq]
        ad_values = tf.gather(ad_ids, ad[..., ad_columns])[..., None]  # [..., La, 1]
        equal = tf.equal(values, ad_values) & (values > 0)  # [..., La, Lq]
        number = tf.math.count_nonzero(tf.reduce_any(equal, axis=-1), axis=-1, dtype=tf.float32)
        return tf.math.log1p(number)[..., None]

    return compare


def differences(
    fitted: encoding.FittedSchema, query_field: Field, ad_field: Field, ties: histories.Ties
) -> Compare:
    """Returns the function from rows to features [..., 3] of an ad's number minus the query's.

    A missing number counts as 0, the mean: if a budget is unknown, an expensive ad is still above
    it.
    """
    numbers_of_rows = numbers_of_pair(fitted, query_field, ad_field, ties)

    def compare(query: tf.Tensor, ad: tf.Tensor) -> tf.Tensor:
        query_number, ad_number = (
            tf.where(tf.math.is_nan(number), 0.0, number) for number in numbers_of_rows(query, ad)
        )
        above = ad_number - query_number
        return tf.nn.relu(tf.stack([above, above - 1.0, -above], axis=-1))

    return compare


def numbers_of_pair(
    fitted: encoding.FittedSchema, query_field: Field, ad_field: Field, ties: histories.Ties
) -> _Numbers:
    """Returns the function from rows to the logarithms of both numbers [...]; NaN is missing."""
    columns, ad_columns = columns_of(fitted, query_field, ad_field)
    ad_logarithms = _logarithms(fitted, ad_field)
    if query_field.kind == "numeric":
        values = _logarithms(fitted, query_field)
    else:
        values = ad_logarithms[ties[query_field.name][:, ad_columns.start]]

    def numbers_of_rows(query: tf.Tensor, ad: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        listed = tf.gather(values, query[..., columns])
        known = tf.logical_not(tf.math.is_nan(listed))
        total = tf.reduce_sum(tf.where(known, listed, 0.0), axis=-1)
        # The mean of no numbers is NaN.
        mean = total / tf.reduce_sum(tf.cast(known, tf.float32), axis=-1)
        return mean, tf.gather(ad_logarithms, ad[..., ad_columns.start])

    return numbers_of_rows


def columns_of(
    fitted: encoding.FittedSchema, query_field: Field, ad_field: Field
) -> tuple[slice, slice]:
    """Returns the columns of the values of both fields."""
    sides = (fitted.schema.query_fields, fitted.schema.ad_fields)
    columns, ad_columns = (dict(encoding.value_columns(fields)) for fields in sides)
    return columns[query_field], ad_columns[ad_field]


def shared_ids(
    vocabulary: Sequence[str], ad_vocabulary: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns an id of each value of both fields, from 1, which equal values share.

    Case and enclosing punctuation do not matter: a query `shoes` is equal to the word `Shoes,` of a
    title. A value that no ad has is 0.
    """
    folded, ad_folded = (
        pc.utf8_lower(pc.utf8_trim(pa.array(values, pa.string()), _PUNCTUATION)).to_pylist()
        for values in (vocabulary, ad_vocabulary)
    )
    # The first of several equal values is found.
    return (
        histories.ids_of_values(folded, ad_folded),
        histories.ids_of_values(ad_folded, ad_folded),
    )


def _logarithms(fitted: encoding.FittedSchema, field: Field) -> np.ndarray:
    """Returns the standardized logarithm of each id of a numeric field; NaN for a missing one."""
    table = numbers.numbers_of_ids(fitted.statistics[field.name].boundaries)
    table[0] = np.nan
    return table
