"""Finds the fields of both sides that are worth comparing.

Shapes: N rows, Wq and Wa columns of the query and the ad side.
"""

import itertools
import math

import numpy as np
import tensorflow as tf

from tfrec.layers import histories
from tfrec.layers.comparisons import events, values
from tfrecords import encoding, reader
from tfrecords.schema import AD, Field

# Maximum number of clicked rows that are read to find fields to compare.
_MAX_CLICKED_ROWS, _SEED = 20_000, 1
# Categorical fields are compared if their most frequent values overlap: number of values of each
# field, and minimum share of the shorter list, and number of values, that both have.
_NUM_FREQUENT, _MIN_SHARED_PART, _MIN_SHARED = 1_000, 0.2, 2
# Pairs of longer lists are left out, because all values are compared with all.
_MAX_PAIRS_OF_VALUES = 1_024
# Lists with more different values are not compared with those of the ads in a history, because the
# events of each request are counted by value.
_MAX_VALUES_OF_LISTS = 2_000
# Minimum correlation of numbers in clicked rows; minimum ratio of the number of rows with equal
# values to the number in rows paired at random (if most are equal: of rows with unequal values, the
# other way around); minimum number of standard errors of both; number of random pairings.
_MIN_CORRELATION, _MIN_RATIO, _MIN_ERRORS, _NUM_PAIRINGS = 0.2, 1.2, 4.0, 20
# The most correlated pairs of numbers; a log of counts alone may have hundreds.
_MAX_PAIRS_OF_NUMBERS = 8
# Minimum number of training rows with an event that has the value of the ad, among at most this
# many rows that are read.
_MIN_EQUAL_ROWS, _MAX_ROWS = 100, 100_000
_REQUESTS_PER_BATCH = 512


def find_comparisons(data_set: reader.DataSet, ties: histories.Ties) -> list[values.FieldPair]:
    """Finds the fields of both sides to compare, most of which are related in clicked rows.

    - Numbers whose logarithms are correlated: expensive ads are shown to, and clicked by, users
      with large budgets, or who clicked expensive ads before.
    - Categorical fields whose values are equal more often than if rows were paired at random: users
      click the category that they are looking at. Their vocabularies must overlap, and keys are
      left out: two sets of ids that count from 1 have nothing in common.
    - Histories with the field that they list, and histories of ads with properties of the ads, also
      lists, if enough rows have equal values, clicked or not: what users do not click again matters
      as much. If users clicked none of their sampled negatives, the ad itself is left out: an equal
      ad would reveal the click.

    Args:
        data_set: The data set; up to 20,000 clicked training rows are read, and if it has histories
            up to 100,000 of all, until enough have events with the value of the ad.
        ties: From `histories.find_histories`.

    Returns:
        Pairs of categorical fields in the order of the schema, then pairs of numbers, the most
        correlated first, then histories.
    """
    fitted = data_set.fitted
    query_fields, ad_fields = fitted.schema.query_fields, fitted.schema.ad_fields
    pairs = list(itertools.product(query_fields, ad_fields))
    numbers = [pair for pair in pairs if _are_numbers(*pair, ties)]
    categories = [pair for pair in pairs if _may_be_equal(fitted, *pair)]
    correlations: dict[values.FieldPair, float] = {}
    often_equal = []
    if numbers or categories:
        query, ad = _clicked_rows(data_set)
        for pair in numbers:
            numbers_of_rows = values.numbers_of_pair(fitted, *pair, ties)
            correlation = _correlation(*numbers_of_rows(query, ad))
            if correlation >= _MIN_CORRELATION:
                correlations[pair] = correlation
        for pair in categories:
            if _are_often_equal(values.equal_values(fitted, *pair), query, ad):
                often_equal.append(pair)
    strongest = sorted(correlations, key=lambda pair: -correlations[pair])
    return [*often_equal, *strongest[:_MAX_PAIRS_OF_NUMBERS], *_history_pairs(data_set, ties)]


def _history_pairs(data_set: reader.DataSet, ties: histories.Ties) -> list[values.FieldPair]:
    """Returns histories with the field that they list, and with the properties of their ads.

    Pairs whose values are equal in few training rows are left out.
    """
    fitted = data_set.fitted
    pairs = []
    for history in fitted.schema.histories:
        listed = fitted.schema.values_of(history)
        if listed is not None and not (history.of == AD and data_set.negatives_are_new_to_users):
            pairs.append((history, listed))
        for kind in ("categorical", "categorical_list") if history.name in ties else ():
            for field in histories.find_property_fields(fitted, history, kind):
                if field.kind == "categorical" or fitted.cardinality(field) <= _MAX_VALUES_OF_LISTS:
                    pairs.append((history, field))
    rows = dict.fromkeys(pairs, 0)
    compare = {pair: events.numbers_of_events(fitted, *pair, ties) for pair in pairs}
    num_read = 0
    for batch in data_set.batches("train", _REQUESTS_PER_BATCH, _SEED) if pairs else ():
        rare = [pair for pair in pairs if rows[pair] < _MIN_EQUAL_ROWS]
        if not rare or num_read >= _MAX_ROWS:
            break
        num_read += int(tf.math.count_nonzero(batch["mask"]))
        for pair in rare:
            numbers_of_rows = compare[pair](batch["query"][:, None], batch["ad"])
            rows[pair] += int(tf.math.count_nonzero(tf.reduce_any(numbers_of_rows > 0, axis=-1)))
    return [pair for pair in pairs if rows[pair] >= _MIN_EQUAL_ROWS]


def _are_numbers(query_field: Field, ad_field: Field, ties: histories.Ties) -> bool:
    """Returns whether the ad's field is a number and the query's is one or a history of ads.

    Rates are left out of histories: the earlier rates of the ads are not known.
    """
    lists_ads = query_field.kind == "history" and query_field.of == AD and query_field.name in ties
    has_numbers = query_field.kind == "numeric" or (lists_ads and ad_field.of is None)
    return ad_field.kind == "numeric" and has_numbers


def _may_be_equal(fitted: encoding.FittedSchema, query_field: Field, ad_field: Field) -> bool:
    kinds, schema = ("categorical", "categorical_list"), fitted.schema
    if query_field.kind not in kinds or ad_field.kind not in kinds:
        return False
    if query_field.source == schema.user_key or schema.ad_key == (ad_field.source,):
        return False
    if query_field.width * ad_field.width > _MAX_PAIRS_OF_VALUES:
        return False
    frequent = [
        fitted.statistics[field.name].vocabulary[:_NUM_FREQUENT]
        for field in (query_field, ad_field)
    ]
    shared = int(np.count_nonzero(values.shared_ids(*frequent)[0]))
    return shared >= max(_MIN_SHARED, _MIN_SHARED_PART * min(map(len, frequent)))


def _clicked_rows(data_set: reader.DataSet) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids of queries [N, Wq] and ads [N, Wa] of some clicked training rows, shuffled."""
    schema = data_set.schema
    widths = (encoding.width(fields) for fields in (schema.query_fields, schema.ad_fields))
    parts = [tuple(np.empty((0, width), np.int32) for width in widths)]
    num_rows = 0
    for batch in data_set.clicked("train", _MAX_CLICKED_ROWS, _SEED):
        parts.append((batch["query"].numpy(), batch["ad"].numpy()))
        num_rows += len(parts[-1][0])
        if num_rows >= _MAX_CLICKED_ROWS:
            break
    query, ad = (np.concatenate(side) for side in zip(*parts, strict=True))
    shuffled = np.random.default_rng(_SEED).permutation(num_rows)[:_MAX_CLICKED_ROWS]
    return query[shuffled], ad[shuffled]


def _correlation(query_numbers: tf.Tensor, ad_numbers: tf.Tensor) -> float:
    """Returns the correlation of numbers [N], NaN where missing; 0 if it may be chance."""
    values = np.stack([query_numbers, ad_numbers]).astype(np.float64)
    values = values[:, ~np.isnan(values.sum(axis=0))]
    if values.shape[1] < 2 or not values.std(axis=1).all():
        return 0.0
    correlation = float(np.corrcoef(values[0], values[1])[0, 1])
    return correlation if correlation * math.sqrt(values.shape[1]) >= _MIN_ERRORS else 0.0


def _are_often_equal(compare: values.Compare, query: np.ndarray, ad: np.ndarray) -> bool:
    """Returns whether values are equal more often than if the rows [N] were paired at random.

    If most are equal by chance, such as the languages of users and ads, unequal ones are counted.
    """
    equal, *by_chance = (
        int(np.count_nonzero(compare(query, np.roll(ad, shift, axis=0))))
        for shift in range(1 + _NUM_PAIRINGS)
    )
    number, chance = len(ad), float(np.mean(by_chance))
    if chance <= number / 2:
        return equal >= _MIN_RATIO * chance + _MIN_ERRORS * math.sqrt(max(chance, 1.0))
    unequal = number - chance
    return number - equal <= unequal / _MIN_RATIO - _MIN_ERRORS * math.sqrt(max(unequal, 1.0))
