"""The events of a history with the ad's value: how many there are, and how old the latest is.

Shapes: L events of a history, V ids of its values, Lv and La values of a listed and of a candidate
ad.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tfrec.layers import histories
from tfrec.layers.comparisons.values import Compare, columns_of
from tfrecords import encoding
from tfrecords import histories as ages
from tfrecords.schema import EVENTS, Field

_EventsOf = Callable[
    [tf.Tensor, Sequence[tf.Tensor], Sequence[tf.Tensor], tf.Tensor], tuple[tf.Tensor, tf.Tensor]
]
# Events are counted once with all weights 1, and once with weights that halve in this time.
_HALF_LIFE_SECONDS = 86_400.0
# The age of the latest event is a mixture of the two neighbors of these ages, in octaves
# log2(1 + hours): an hour, 7 and 31 hours, and 3, 5, 11, 21 and 43 days.
_AGES = np.array([1, 3, 5, 6, 7, 8, 9, 10], np.float32)
# More octaves than any age has: no event.
_NEVER = 1e3


def numbers_of_events(
    fitted: encoding.FittedSchema, history: Field, ad_field: Field, ties: histories.Ties
) -> Compare:
    """Returns the function from rows to features [..., n] of the events with the ad's value.

    The weight of an event is the share of the candidate's values that the event's ad also has. For
    each kind of event, there are log(1 + number) of all events and of recent ones; then the age of
    the latest for each kind.
    """
    schema = fitted.schema
    columns = encoding.history_columns(
        history, dict(encoding.columns(schema.query_fields))[history]
    )
    _, ad_columns = columns_of(fitted, history, ad_field)
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
    find: _EventsOf = _events_of_a_value
    if ad_field.kind != "categorical":
        find = functools.partial(_events_of_a_list, num_values)

    def compare(query: tf.Tensor, ad: tf.Tensor) -> tf.Tensor:
        weights, octaves_of_events = (
            tf.gather(table, query[..., columns.ages]) for table in (recent, octaves)
        )
        kinds = [tf.ones_like(weights)]
        if columns.events is not None:
            codes = query[..., columns.events]
            kinds = [
                tf.cast(tf.equal(codes, 1 + EVENTS.index(kind)), tf.float32)
                for kind in history.event
            ]
        counted = [kind * event_weight for kind in kinds for event_weight in (1.0, weights)]
        ages_of_events = [tf.where(kind > 0.0, octaves_of_events, _NEVER) for kind in kinds]
        numbers_of_kinds, latest = find(
            tf.gather(values, query[..., columns.values]),
            counted,
            ages_of_events,
            ad[..., ad_columns],
        )
        ages_of_kinds = [_ages(latest[..., k : k + 1]) for k in range(len(kinds))]
        return tf.concat([tf.math.log1p(numbers_of_kinds), *ages_of_kinds], axis=-1)

    return compare


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
    sums = [tf.reduce_sum(tf.where(equal, number, 0.0), axis=-1) for number in counted]
    latest = [tf.reduce_min(tf.where(equal, age, _NEVER), axis=-1) for age in octaves]
    return tf.stack(sums, axis=-1), tf.stack(latest, axis=-1)


def _events_of_a_list(
    num_ids: int,
    listed: tf.Tensor,
    counted: Sequence[tf.Tensor],
    octaves: Sequence[tf.Tensor],
    ad_values: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Does the same for lists of values [..., L, Lv] and [..., La].

    Sums are means over the values of the ad. They are computed once for each value of a request,
    and looked up for its candidates.

    Args:
        num_ids: Number of values G, with the missing one.
        listed, counted, octaves, ad_values: As for `_events_of_a_value`.
    """
    # An event is repeated for each of its values.
    length, num_listed = listed.shape[-2:]
    ids = tf.reshape(listed, [-1, length * num_listed])
    num_requests = tf.shape(ids)[0]
    # Negative ids are left out.
    ids = tf.where(ids > 0, ids + num_ids * tf.range(num_requests)[:, None], -1)
    candidate_values = tf.reshape(ad_values, [num_requests, -1, ad_values.shape[-1]])  # [B, C, La]

    def by_value(
        event_values: Sequence[tf.Tensor], summarize: Callable[..., tf.Tensor]
    ) -> tf.Tensor:
        num = len(event_values)
        repeated = tf.repeat(tf.stack(event_values, axis=-1), num_listed, axis=-2)
        flat = tf.reshape(repeated, [-1, num])
        table = summarize(flat, tf.reshape(ids, [-1]), num_requests * num_ids)
        table = tf.reshape(table, [num_requests, num_ids, num])
        known = tf.where(candidate_values < num_ids, candidate_values, 0)
        return tf.gather(table, known, batch_dims=1)  # [B, C, La, num]

    num_values = tf.math.count_nonzero(candidate_values, axis=-1, keepdims=True, dtype=tf.float32)
    sums = tf.reduce_sum(by_value(counted, tf.math.unsorted_segment_sum), axis=-2)
    latest = tf.reduce_min(by_value(octaves, tf.math.unsorted_segment_min), axis=-2)
    shape = tf.shape(ad_values)[:-1]
    means, latest = (
        tf.reshape(numbers, tf.concat([shape, [numbers.shape[-1]]], axis=0))
        for numbers in (sums / tf.maximum(num_values, 1.0), latest)
    )
    return means, latest


def _ages(octaves: tf.Tensor) -> tf.Tensor:
    """Returns the shares [..., A] of neighboring ages, whose sum is 1, or 0 for no event.

    Args:
        octaves: [..., 1] log2(1 + hours); `_NEVER` or more without an event.
    """
    # Position between each age and the next.
    fractions = tf.clip_by_value((octaves - _AGES[:-1]) / np.diff(_AGES), 0.0, 1.0)
    is_known = tf.cast(octaves < _NEVER, tf.float32)
    lower = tf.concat([is_known, fractions], axis=-1)
    return is_known * (lower - tf.concat([fractions, tf.zeros_like(octaves)], axis=-1))
