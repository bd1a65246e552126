"""Crosses of the query and the ad side: products of embeddings, cross layers, and comparisons.

Products of embeddings are learned for each pair of a query value and an ad value. A comparison is
the same for all values: whether both sides have the same value, such as the category of a page and
of an ad, how far a number of the ad is above a number of the query, such as a price above a budget,
or how often the user has seen or clicked the ad. Each pair of values is rare in the log, but equal
values are not. So comparisons can be learned from small logs, and apply to pairs that the log does
not show.

Shapes: B requests, C candidates, Fq and Fa embeddings of fields of the query and the ad side, Wq
and Wa their columns, E embedding, V ids of a query field, L values of a history, N rows, P
comparisons.

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
from tfrecords import histories as ages
from tfrecords.schema import AD, EVENTS, Field

FieldPair: TypeAlias = tuple[Field, Field]
"""A field of the query side and one of the ad side."""
_Compare = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
_EventsOf = Callable[
    [tf.Tensor, Sequence[tf.Tensor], Sequence[tf.Tensor], tf.Tensor], tuple[tf.Tensor, tf.Tensor]
]
_Numbers = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
# Maximum number of clicked rows that are read to find fields to compare.
_MAX_CLICKED_ROWS, _SEED = 20_000, 1
# Categorical fields are compared if their most frequent values overlap: as many of each are looked
# up, and at least this part of the shorter list must be shared, and at least two values.
_NUM_FREQUENT, _MIN_SHARED_PART, _MIN_SHARED = 1_000, 0.2, 2
# Around the words of a title or a search. Signs such as - and + are left: -1 is not equal to 1.
_PUNCTUATION = " ,;:.!?\"'()[]"
# Pairs of longer lists are left out, because all values are compared with all.
_MAX_PAIRS_OF_VALUES = 1_024
# Lists with more different values are not compared with those of the ads in a history, because the
# events of each request are counted by value.
_MAX_VALUES_OF_LISTS = 2_000
# Numbers must have a correlation of at least this in clicked rows. Values must be equal (or, if
# most are, unequal) this many times as often (as rarely) as in rows that are paired at random. Both
# must be this many standard errors from chance, which is the mean of several pairings.
_MIN_CORRELATION, _MIN_RATIO, _MIN_ERRORS, _NUM_PAIRINGS = 0.2, 1.2, 4.0, 20
# The most correlated pairs of numbers; a log of counts alone may have hundreds.
_MAX_PAIRS_OF_NUMBERS = 8
# An event with the value of the ad must be in this many training rows, of the second number that
# are read at most: what a model has never seen, it must not read.
_MIN_EQUAL_ROWS, _MAX_ROWS = 100, 100_000
_REQUESTS_PER_BATCH = 512
# Events of a history are counted once with all weights 1, and once with weights that halve in this
# time.
_HALF_LIFE_SECONDS = 86_400.0
# The age of the latest of these events is a mixture of the two neighbors of these ages, in octaves
# log2(1 + hours): an hour, 7 and 31 hours, and 3, 5, 11, 21 and 43 days.
_AGES = np.array([1, 3, 5, 6, 7, 8, 9, 10], np.float32)
# More octaves than any age has: no event.
_NEVER = 1e3


class Comparisons:
    """Compares fields of a query with fields of an ad.

    - Categorical fields give log(1 + n), where n is the number of the ad's values that the query
      has. Case and enclosing punctuation do not matter.
    - Numbers give max(d, 0), max(d - 1, 0) and max(-d, 0), where d is the ad's logarithm minus the
      query's, each standardized over its buckets: how high the ad's number is for the query's. The
      number of a history is the mean of its ads.
    - A history and a categorical field or list of the ad give log(1 + n) and log(1 + m) for each
      kind of event: n is the number of its events with the ad's value (the mean over the values of
      a list), and m the same with weights that halve each day. Eight more features say how long ago
      the latest of them was. So the model learns that users tire of ads that they see often, or
      return to what they clicked, and when. Values out of the vocabulary are equal to nothing.

    A missing value gives 0.

    Args:
        fitted: The fitted schema.
        pairs: The fields to compare, from `find_comparisons`.
        ties: From `histories.find_histories`; required to compare histories of ads.
    """

    def __init__(
        self,
        fitted: encoding.FittedSchema,
        pairs: Sequence[FieldPair],
        ties: histories.Ties | None = None,
    ) -> None:
        self._comparisons = [
            _comparison(fitted, query_field, ad_field, ties or {})
            for query_field, ad_field in pairs
        ]

    def __call__(self, query: tf.Tensor, ad: tf.Tensor) -> tf.Tensor:
        """Compares encoded rows.

        Args:
            query: [..., Wq] int32; its leading dimensions broadcast against the ad's.
            ad: [..., Wa] int32.

        Returns:
            [..., P] float32.
        """
        # Without pairs the result has no columns.
        no_columns = tf.cast(ad[..., :0], tf.float32)
        compared = [compare(query, ad) for compare in self._comparisons]
        return tf.concat([no_columns, *compared], axis=-1)


def find_comparisons(data_set: reader.DataSet, ties: histories.Ties) -> list[FieldPair]:
    """Finds the fields of both sides to compare, most of which go together in clicked rows.

    - Numbers whose logarithms are correlated: expensive ads are shown to, and clicked by, users
      with large budgets, or who clicked expensive ads before.
    - Categorical fields whose values are equal more often than if rows were paired at random: users
      click the category that they are looking at. Their vocabularies must overlap, and keys are
      left out: two sets of ids that count from 1 have nothing in common.
    - Histories and the field that they list, and the properties as which a history of ads is also
      read, lists among them, if this happens at all, in clicked rows or not: what users do not
      click again matters as much. With sampled negatives, the ad itself is left out: users clicked
      none of their negatives, so an equal ad would reveal the click.

    Args:
        data_set: The data set; up to 20,000 clicked training rows are read, and if it has histories
            up to 100,000 of all, until enough have events with the value of the ad.
        ties: From `histories.find_histories`.

    Returns:
        Pairs of categorical fields in the order of the schema, then pairs of numbers, the most
        correlated first, then histories.
    """
    query, ad = _clicked_rows(data_set)
    fitted = data_set.fitted
    correlations: dict[FieldPair, float] = {}
    often_equal = []
    for query_field in fitted.schema.query_fields:
        for ad_field in fitted.schema.ad_fields:
            if _are_numbers(query_field, ad_field, ties):
                numbers_of_rows = _numbers(fitted, query_field, ad_field, ties)
                correlation = _correlation(*numbers_of_rows(query, ad))
                if correlation >= _MIN_CORRELATION:
                    correlations[query_field, ad_field] = correlation
            elif _may_be_equal(fitted, query_field, ad_field) and _are_often_equal(
                _equal_values(fitted, query_field, ad_field), query, ad
            ):
                often_equal.append((query_field, ad_field))
    strongest = sorted(correlations, key=lambda pair: -correlations[pair])
    return [*often_equal, *strongest[:_MAX_PAIRS_OF_NUMBERS], *_of_histories(data_set, ties)]


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


def _comparison(
    fitted: encoding.FittedSchema, query_field: Field, ad_field: Field, ties: histories.Ties
) -> _Compare:
    if ad_field.kind == "numeric":
        return _differences(fitted, query_field, ad_field, ties)
    if query_field.kind == "history":
        return _numbers_of_events(fitted, query_field, ad_field, ties)
    return _equal_values(fitted, query_field, ad_field)


def _numbers_of_events(
    fitted: encoding.FittedSchema, history: Field, ad_field: Field, ties: histories.Ties
) -> _Compare:
    """Returns the function from rows to features [..., n] of the events of the ad's value.

    An event counts by the share of the ad's values that its ad has. For each kind of event, there
    are log(1 + number) of all events and of recent ones; then the age of the latest for each kind.
    """
    schema = fitted.schema
    own = encoding.history_columns(history, dict(encoding.columns(schema.query_fields))[history])
    _, ad_columns = _columns_of(fitted, history, ad_field)
    if schema.values_of(history) == ad_field:
        values = np.arange(fitted.cardinality(ad_field), dtype=np.int32)[:, None]
    else:
        values = ties[history.name][:, ad_columns]  # [V, Lv]
    num_values = 1 + len(fitted.statistics[ad_field.name].vocabulary)
    values = np.where(values < num_values, values, 0)
    seconds = ages.bucket_seconds(np.arange(ages.NUM_AGE_BUCKETS))
    recent = np.exp2(-seconds / _HALF_LIFE_SECONDS)
    octaves = np.log2(1.0 + seconds / 3_600.0)
    recent[0], octaves[0] = 0.0, _NEVER  # a missing age
    find = _events_of_a_value if ad_field.kind == "categorical" else _events_of_a_list(num_values)

    def compare(query: tf.Tensor, ad: tf.Tensor) -> tf.Tensor:
        weights, octaves_of_events = (
            tf.gather(of, query[..., own.ages]) for of in (recent, octaves)
        )
        kinds = [tf.ones_like(weights)]
        if own.events is not None:
            codes = query[..., own.events]
            kinds = [
                tf.cast(tf.equal(codes, 1 + EVENTS.index(kind)), tf.float32)
                for kind in history.event
            ]
        counted = [kind * of_values for kind in kinds for of_values in (1.0, weights)]
        ages_of_events = [tf.where(kind > 0.0, octaves_of_events, _NEVER) for kind in kinds]
        numbers_of_kinds, latest = find(
            tf.gather(values, query[..., own.values]),
            counted,
            ages_of_events,
            ad[..., ad_columns],
        )
        ages_of_kinds = [_ages(latest[..., own : own + 1]) for own in range(len(kinds))]
        return tf.concat([tf.math.log1p(numbers_of_kinds), *ages_of_kinds], axis=-1)

    return compare


def _ages(octaves: tf.Tensor) -> tf.Tensor:
    """Returns the shares [..., A] of neighboring ages, whose sum is 1, or 0 for no event.

    Args:
        octaves: [..., 1] log2(1 + hours); `_NEVER` or more without an event.
    """
    # How far it is from each age to the next.
    places = tf.clip_by_value((octaves - _AGES[:-1]) / np.diff(_AGES), 0.0, 1.0)
    is_known = tf.cast(octaves < _NEVER, tf.float32)
    first, last = is_known, tf.zeros_like(octaves)
    return is_known * (tf.concat([first, places], axis=-1) - tf.concat([places, last], axis=-1))


def _events_of_a_value(
    listed: tf.Tensor,
    counted: Sequence[tf.Tensor],
    octaves: Sequence[tf.Tensor],
    ad_values: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns sums [..., J] over the events with the ad's value, and the latest ages [..., K].

    Args:
        listed: Value of each event [..., L, 1]; 0 is equal to nothing.
        counted: J numbers of each event [..., L].
        octaves: K ages of each event [..., L].
        ad_values: Value of the ad [..., 1].
    """
    equal = tf.equal(listed[..., 0], ad_values) & (listed[..., 0] > 0)  # [..., L]
    sums = [tf.reduce_sum(tf.where(equal, own, 0.0), axis=-1) for own in counted]
    latest = [tf.reduce_min(tf.where(equal, own, _NEVER), axis=-1) for own in octaves]
    return tf.stack(sums, axis=-1), tf.stack(latest, axis=-1)


def _events_of_a_list(num_ids: int) -> _EventsOf:
    """Returns the same function for lists of values [..., L, Lv] and [..., La].

    Sums are means over the values of the ad. They are computed once for each value of a request,
    and looked up for its candidates.

    Args:
        num_ids: Number of values G, with the missing one.
    """

    def find(
        listed: tf.Tensor,
        counted: Sequence[tf.Tensor],
        octaves: Sequence[tf.Tensor],
        ad_values: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        # An event is repeated for each of its values.
        length, num_listed = listed.shape[-2:]
        ids = tf.reshape(listed, [-1, length * num_listed])
        num_requests = tf.shape(ids)[0]
        # Negative ids are left out.
        ids = tf.where(ids > 0, ids + num_ids * tf.range(num_requests)[:, None], -1)
        of_ad = tf.reshape(ad_values, [num_requests, -1, ad_values.shape[-1]])  # [B, C, La]

        def by_value(
            of_events: Sequence[tf.Tensor], summarize: Callable[..., tf.Tensor]
        ) -> tf.Tensor:
            num = len(of_events)
            repeated = tf.repeat(tf.stack(of_events, axis=-1), num_listed, axis=-2)
            flat = tf.reshape(repeated, [-1, num])
            table = summarize(flat, tf.reshape(ids, [-1]), num_requests * num_ids)
            table = tf.reshape(table, [num_requests, num_ids, num])
            known = tf.where(of_ad < num_ids, of_ad, 0)
            return tf.gather(table, known, batch_dims=1)  # [B, C, La, num]

        num_values = tf.math.count_nonzero(of_ad, axis=-1, keepdims=True, dtype=tf.float32)
        sums = tf.reduce_sum(by_value(counted, tf.math.unsorted_segment_sum), axis=-2)
        latest = tf.reduce_min(by_value(octaves, tf.math.unsorted_segment_min), axis=-2)
        shape = tf.shape(ad_values)[:-1]
        means, latest = (
            tf.reshape(own, tf.concat([shape, [own.shape[-1]]], axis=0))
            for own in (sums / tf.maximum(num_values, 1.0), latest)
        )
        return means, latest

    return find


def _of_histories(data_set: reader.DataSet, ties: histories.Ties) -> list[FieldPair]:
    """Returns histories with the field that they list, and with the properties of their ads.

    Pairs whose values are equal in few training rows are left out.
    """
    fitted = data_set.fitted
    pairs = []
    for history in fitted.schema.histories:
        listed = fitted.schema.values_of(history)
        if listed is not None and not (history.of == AD and data_set.has_sampled_negatives):
            pairs.append((history, listed))
        for kind in ("categorical", "categorical_list") if history.name in ties else ():
            for own in histories.find_property_fields(fitted, history, kind):
                if own.kind == "categorical" or fitted.cardinality(own) <= _MAX_VALUES_OF_LISTS:
                    pairs.append((history, own))
    rows = dict.fromkeys(pairs, 0)
    compare = {pair: _numbers_of_events(fitted, *pair, ties) for pair in pairs}
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


def _equal_values(fitted: encoding.FittedSchema, query_field: Field, ad_field: Field) -> _Compare:
    """Returns the function from rows to log(1 + the number of equal values) [..., 1]."""
    columns, ad_columns = _columns_of(fitted, query_field, ad_field)
    fields = (query_field, ad_field)
    shared = _shared_ids(*(fitted.statistics[field.name].vocabulary for field in fields))
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


def _shared_ids(
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
    # Of equal values, the first one is found.
    return (
        histories.ids_of_values(folded, ad_folded),
        histories.ids_of_values(ad_folded, ad_folded),
    )


def _differences(
    fitted: encoding.FittedSchema, query_field: Field, ad_field: Field, ties: histories.Ties
) -> _Compare:
    """Returns the function from rows to features [..., 3] of an ad's number minus the query's."""
    numbers_of_rows = _numbers(fitted, query_field, ad_field, ties)

    def compare(query: tf.Tensor, ad: tf.Tensor) -> tf.Tensor:
        query_number, ad_number = numbers_of_rows(query, ad)
        above = ad_number - query_number
        above = tf.where(tf.math.is_nan(above), 0.0, above)
        return tf.nn.relu(tf.stack([above, above - 1.0, -above], axis=-1))

    return compare


def _numbers(
    fitted: encoding.FittedSchema, query_field: Field, ad_field: Field, ties: histories.Ties
) -> _Numbers:
    """Returns the function from rows to the logarithms of both numbers [...]; NaN is missing."""
    columns, ad_columns = _columns_of(fitted, query_field, ad_field)
    of_ads = _logarithms(fitted, ad_field)
    if query_field.kind == "numeric":
        values = _logarithms(fitted, query_field)
    else:
        values = of_ads[ties[query_field.name][:, ad_columns.start]]

    def numbers_of_rows(query: tf.Tensor, ad: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        listed = tf.gather(values, query[..., columns])
        known = tf.logical_not(tf.math.is_nan(listed))
        total = tf.reduce_sum(tf.where(known, listed, 0.0), axis=-1)
        # The mean of no numbers is NaN.
        mean = total / tf.reduce_sum(tf.cast(known, tf.float32), axis=-1)
        return mean, tf.gather(of_ads, ad[..., ad_columns.start])

    return numbers_of_rows


def _columns_of(
    fitted: encoding.FittedSchema, query_field: Field, ad_field: Field
) -> tuple[slice, slice]:
    sides = (fitted.schema.query_fields, fitted.schema.ad_fields)
    columns, ad_columns = (dict(encoding.value_columns(fields)) for fields in sides)
    return columns[query_field], ad_columns[ad_field]


def _logarithms(fitted: encoding.FittedSchema, field: Field) -> np.ndarray:
    """Returns the standardized logarithm of each id of a numeric field; NaN for a missing one."""
    table = numbers.numbers_of_ids(fitted.statistics[field.name].boundaries)
    table[0] = np.nan
    return table


def _are_numbers(query_field: Field, ad_field: Field, ties: histories.Ties) -> bool:
    """Returns whether both fields are numbers, or the first is a history of ads, which have them.

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
    shared = int(np.count_nonzero(_shared_ids(*frequent)[0]))
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


def _are_often_equal(compare: _Compare, query: np.ndarray, ad: np.ndarray) -> bool:
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
