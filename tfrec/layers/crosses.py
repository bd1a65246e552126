"""What crosses the query and the ad side: products of embeddings, cross layers, and comparisons.

Products of embeddings are learned for each value of one side with each value of the other. A
comparison says what holds for all values: both sides have the same one, such as the category of a
page and of an ad, or a number of the ad is above one of the query, such as a price above a budget.
Few rows have any one pair of values, but many have equal ones, so comparisons are learned from
small logs, and they hold for pairs that the log does not show.

Shapes: B requests, C candidates, Fq and Fa embeddings of fields of the query and the ad side, Wq
and Wa their columns, E embedding, V ids of a query field, N rows, P comparisons.

References:
    Cheng et al., Wide & Deep Learning for Recommender Systems, 2016 (cross-product features).
    Naumov et al., Deep Learning Recommendation Model, 2019 (products of embeddings).
    Wang et al., DCN V2: Improved Deep & Cross Network, 2021 (cross layers).
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from tfrec.layers import histories, numbers
from tfrecords import encoding, reader
from tfrecords.schema import AD, Field

FieldPair: TypeAlias = tuple[Field, Field]
"""A field of the query side and one of the ad side."""
_Compare = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
# Number of clicked rows that are read to find fields to compare.
_MAX_ROWS, _SEED = 20_000, 1
# Values are compared if both vocabularies share this part of the smaller one, and at least this
# many.
_MIN_SHARED, _MIN_SHARED_VALUES = 0.5, 2
# Clicked rows relate numbers with a correlation of at least this, and values that are equal this
# many times as often as by chance; both must also be this many standard errors above chance.
_MIN_CORRELATION, _MIN_RATIO, _MIN_ERRORS = 0.2, 1.2, 4.0
# The most correlated pairs of numbers; a log of counts alone may have hundreds.
_MAX_PAIRS_OF_NUMBERS = 8


class Comparisons:
    """Compares fields of a query with fields of an ad.

    Equal values give log(1 + n), where n is the number of values that both have. Numbers give how
    far the ad's logarithm is above the query's, how far it is more than 1 above, and how far it is
    below, in standard deviations of the two fields. The number of a history is the mean of its
    ads. A missing value gives 0.

    Args:
        fitted: The fitted schema.
        pairs: The fields to compare, from `find_comparisons`.
        ties: From `histories.find_histories`; required to compare histories.
    """

    def __init__(
        self,
        fitted: encoding.FittedSchema,
        pairs: Sequence[FieldPair],
        ties: histories.Ties | None = None,
    ) -> None:
        self._compare = [
            _differences(fitted, own, of_ad, ties or {})
            if of_ad.kind == "numeric"
            else _equal_values(fitted, own, of_ad)
            for own, of_ad in pairs
        ]

    def __call__(self, query: tf.Tensor, ad: tf.Tensor) -> tf.Tensor:
        """Compares encoded rows.

        Args:
            query: [..., Wq] int32.
            ad: [..., Wa] int32; leading dimensions broadcast.

        Returns:
            [..., P] float32.
        """
        # Without pairs the result has no columns.
        none = tf.cast(ad[..., :0], tf.float32)
        return tf.concat([none, *(compare(query, ad) for compare in self._compare)], axis=-1)


def find_comparisons(data_set: reader.DataSet, ties: histories.Ties) -> list[FieldPair]:
    """Finds the fields of both sides that clicked rows relate.

    - Numbers whose logarithms are correlated: expensive ads are shown to, and clicked by, users
      with large budgets, or who clicked expensive ads before.
    - Values that are equal more often than if rows were paired at random: users click the category
      that they are looking at. The vocabularies must overlap, and keys are left out: two sets of
      ids that count from 1 have nothing in common.

    Args:
        data_set: The data set; a few hundred thousand training rows are read.
        ties: From `histories.find_histories`.

    Returns:
        The pairs of values, in the order of the schema, then of numbers, the most correlated first.
    """
    query, ad = _clicked_rows(data_set)
    fitted = data_set.fitted
    schema = fitted.schema
    correlated: dict[FieldPair, float] = {}
    equal = []
    for own in schema.query_fields:
        for of_ad in schema.ad_fields:
            if _have_numbers(own, of_ad, ties):
                numbers_of_rows = _numbers(fitted, own, of_ad, ties)
                correlation = _correlation(numbers_of_rows(query, ad))
                if correlation >= _MIN_CORRELATION:
                    correlated[own, of_ad] = correlation
            elif _may_be_equal(fitted, own, of_ad) and _are_often_equal(
                _equal_values(fitted, own, of_ad), query, ad
            ):
                equal.append((own, of_ad))
    strongest = sorted(correlated, key=lambda pair: -correlated[pair])
    return [*equal, *strongest[:_MAX_PAIRS_OF_NUMBERS]]


def pairwise_products(query_embeddings: tf.Tensor, ad_embeddings: tf.Tensor) -> tf.Tensor:
    """Returns the inner products [B C, Fa Fq] of each ad-side with each query-side field.

    Args:
        query_embeddings: [B, Fq, E].
        ad_embeddings: [B, C, Fa, E].
    """
    num_requests, num_ads, num_ad_fields, dim = tf.unstack(tf.shape(ad_embeddings))
    fields = tf.reshape(ad_embeddings, [num_requests, num_ads * num_ad_fields, dim])
    pairs = tf.matmul(fields, query_embeddings, transpose_b=True)  # [B, C Fa, Fq]
    return tf.reshape(pairs, [-1, ad_embeddings.shape[2] * query_embeddings.shape[1]])


class CrossLayer(tf.keras.layers.Layer):
    """A cross layer: x_{l+1} = x_0 * (W x_l + b) + x_l (DCN V2, eq. 1)."""

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the projection."""
        self._project = tf.keras.layers.Dense(input_shape[-1])
        super().build(input_shape)

    def call(self, x0: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """Returns the crossed input [B, D].

        Args:
            x0: [B, D] the input of the first cross layer.
            x: [B, D] the output of the previous one.
        """
        return x0 * self._project(x) + x


def _equal_values(fitted: encoding.FittedSchema, own: Field, of_ad: Field) -> _Compare:
    """Returns the function from rows to log(1 + the number of equal values) [..., 1]."""
    columns, ad_columns = _columns_of(fitted, own, of_ad)
    ids = np.zeros(fitted.cardinality(own), np.int32)  # of the ad's field, [V]
    shared = _shared_ids(fitted, own, of_ad)
    ids[1 : 1 + len(shared)] = shared

    def compare(query: tf.Tensor, ad: tf.Tensor) -> tf.Tensor:
        values = tf.gather(ids, query[..., columns])[..., None]  # [..., values, 1]
        equal = tf.equal(values, ad[..., None, ad_columns]) & (values > 0)
        return tf.math.log1p(tf.reduce_sum(tf.cast(equal, tf.float32), axis=[-2, -1]))[..., None]

    return compare


def _differences(
    fitted: encoding.FittedSchema, own: Field, of_ad: Field, ties: histories.Ties
) -> _Compare:
    """Returns the function from rows to how far a number is above another [..., 3]."""
    numbers_of_rows = _numbers(fitted, own, of_ad, ties)

    def compare(query: tf.Tensor, ad: tf.Tensor) -> tf.Tensor:
        number, number_of_ad = numbers_of_rows(query, ad)
        above = number_of_ad - number
        above = tf.where(tf.math.is_nan(above), 0.0, above)
        return tf.nn.relu(tf.stack([above, above - 1.0, -above], axis=-1))

    return compare


def _numbers(
    fitted: encoding.FittedSchema, own: Field, of_ad: Field, ties: histories.Ties
) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Returns the function from rows to the logarithms of both numbers [...]; NaN is missing."""
    columns, ad_columns = _columns_of(fitted, own, of_ad)
    of_ads = _logarithms(fitted, of_ad)
    if own.kind == "numeric":
        values = _logarithms(fitted, own)
    else:
        columns = slice(columns.start, columns.start + own.list_length)
        values = of_ads[ties[own.name][:, ad_columns.start]]

    def numbers_of_rows(query: tf.Tensor, ad: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        listed = tf.gather(values, query[..., columns])
        known = tf.logical_not(tf.math.is_nan(listed))
        total = tf.reduce_sum(tf.where(known, listed, 0.0), axis=-1)
        # The mean of no numbers is NaN.
        mean = total / tf.reduce_sum(tf.cast(known, tf.float32), axis=-1)
        return mean, tf.gather(of_ads, ad[..., ad_columns.start])

    return numbers_of_rows


def _have_numbers(own: Field, of_ad: Field, ties: histories.Ties) -> bool:
    """Returns whether both are numbers; the ads of a history have them, but not earlier rates."""
    lists_ads = own.kind == "history" and own.of == AD and own.name in ties
    return of_ad.kind == "numeric" and (own.kind == "numeric" or (lists_ads and of_ad.of is None))


def _columns_of(fitted: encoding.FittedSchema, own: Field, of_ad: Field) -> tuple[slice, slice]:
    sides = (fitted.schema.query_fields, fitted.schema.ad_fields)
    columns, ad_columns = (dict(encoding.columns(fields)) for fields in sides)
    return columns[own], ad_columns[of_ad]


def _logarithms(fitted: encoding.FittedSchema, field: Field) -> np.ndarray:
    """Returns the scaled logarithm of each id of a numeric field; NaN for a missing number."""
    table = numbers.numbers_of_ids(fitted.statistics[field.name].boundaries)
    table[0] = np.nan
    return table


def _shared_ids(fitted: encoding.FittedSchema, own: Field, of_ad: Field) -> np.ndarray:
    """Returns the id in the ad's field of each value of the query's vocabulary; 0 if not in it."""
    values, others = (pa.array(fitted.statistics[f.name].vocabulary) for f in (own, of_ad))
    if not len(values) or not len(others):
        return np.zeros(len(values), np.int32)
    return 1 + pc.fill_null(pc.index_in(values, value_set=others), -1).to_numpy()


def _may_be_equal(fitted: encoding.FittedSchema, own: Field, of_ad: Field) -> bool:
    kinds = ("categorical", "categorical_list")
    if own.kind not in kinds or of_ad.kind not in kinds:
        return False
    schema = fitted.schema
    if own.source == schema.user_key or of_ad.source in schema.ad_key:
        return False
    shared = int(np.count_nonzero(_shared_ids(fitted, own, of_ad)))
    smaller = min(len(fitted.statistics[field.name].vocabulary) for field in (own, of_ad))
    return shared >= max(_MIN_SHARED_VALUES, _MIN_SHARED * smaller)


def _clicked_rows(data_set: reader.DataSet) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids of queries [N, Wq] and ads [N, Wa] of some clicked training rows, shuffled."""
    rows = next(iter(data_set.windows("train", _SEED)))
    clicked = np.flatnonzero(rows["click"].numpy() == 1)
    clicked = np.random.default_rng(_SEED).permutation(clicked)[:_MAX_ROWS]
    request = np.repeat(np.arange(len(rows["query"])), rows["list_lengths"].numpy())
    return rows["query"].numpy()[request[clicked]], rows["ad"].numpy()[clicked]


def _correlation(numbers_of_rows: tuple[tf.Tensor, tf.Tensor]) -> float:
    """Returns the correlation of two numbers [N], NaN where missing; 0 if it may be chance."""
    values = np.stack(numbers_of_rows).astype(np.float64)
    own, others = values[:, ~np.isnan(values.sum(axis=0))]
    if len(own) < 2 or not own.std() or not others.std():
        return 0.0
    correlation = float(np.corrcoef(own, others)[0, 1])
    return correlation if correlation * math.sqrt(len(own)) >= _MIN_ERRORS else 0.0


def _are_often_equal(compare: _Compare, query: np.ndarray, ad: np.ndarray) -> bool:
    """Returns whether values are equal more often than if the rows [N] were paired at random."""
    equal, by_chance = (
        int(np.count_nonzero(compare(query, rows))) for rows in (ad, np.roll(ad, 1, axis=0))
    )
    return equal >= _MIN_RATIO * by_chance + _MIN_ERRORS * math.sqrt(max(by_chance, 1))
