"""Histories: query-side lists whose values are ads, such as the ads that the user clicked last.

A history of the schema, or a list whose values are ads of the catalog or values of an ad-side
field, is tied to the ad side: a value's embedding is its own row plus, through a learned matrix,
its ad-side embedding. So an ad that is rare in histories is learned from its clicks, and an ad
that is rare in the log from its other fields.
Such a list is in order of time, oldest first. It is pooled with learned weights by the
position from its end: several weightings, each for a part of the embedding, start as decays from
none (the user's taste) to fast (the last value only).
A history, whose values have ages, is also pooled by age: each weighting covers values of similar
age and gives a separate embedding, which candidates are compared with. So events an hour and a week
ago are not averaged, and an age range without values is treated as empty.
A history of ads is also read as histories of their properties, such as category and brand: the
effect of a category is learned from all its ads together.

Shapes: B queries (any leading dimensions), L values of a list, V ids of its values, E field
embedding, Ea ad-side embedding, Fa embeddings of the ad side, W query-side columns of ids, Wa
ad-side columns of ids, H weightings, A weightings by age.

References:
    Kang and McAuley, Self-Attentive Sequential Recommendation, 2018 (items of the history and
    items recommended share embeddings).
    Zhou et al., Deep Interest Network for Click-Through Rate Prediction, 2018 (a user's
    clicks are read as goods, shops and categories).
    Press, Smith and Lewis, Train Short, Test Long (ALiBi), 2022 (one slope per head).
    Katharopoulos et al., Transformers are RNNs, 2020 (attention without a softmax is a product with
    sums over the tokens, which are computed once for all candidates).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from tfrecords import encoding, histories, reader
from tfrecords.schema import AD, Field

# Minimum share of the more frequent values of a list that are ads, or values of an ad field.
_MIN_SHARE = 0.9
# Fewer values, such as numbers from 1 to 5, may coincide without the same meaning.
_MIN_VALUES = 100
_DECAYS = (0.0, 0.1, 0.4, 1.6)
# Maximum number of properties of its ads that are derived from a history of ads, and their minimum
# number of values.
_MAX_PROPERTIES, _MIN_PROPERTY_VALUES = 2, 10
# Buckets of ages between two learned points: an octave.
_BUCKETS_PER_POINT = 8
_NUM_POINTS = 1 + histories.NUM_AGE_BUCKETS // _BUCKETS_PER_POINT
# Number of rows for `interpolate_ages`: one for a missing age and one per point.
NUM_AGE_ROWS = 1 + _NUM_POINTS
# Where the weightings by age start: at half an hour, 9 hours, 2 days and 12 days, in octaves of
# seconds, and each a few octaves wide.
AGE_CENTERS = (11.0, 15.0, 17.5, 20.0)
_AGE_WIDTH, _MIN_AGE_LOGIT = 1.5, -5.0
EmbedIds = Callable[[tf.Tensor], tf.Tensor]
"""Maps ids [...] to their embeddings [..., E]."""
Ties = Mapping[str, np.ndarray]
"""List name -> the encoded ad-side fields [V, Wa] int32 of its values."""


def find_histories(fitted: encoding.FittedSchema, catalog: reader.Catalog) -> Ties:
    """Finds the query-side lists whose values are ads, or values of an ad-side field.

    The schema defines a history's values. A list is tied if nearly all of the more frequent half of
    its values are ads of the catalog, or else values of one ad-side categorical field with many
    values. The rarer half does not count: its values may be below the minimum count of the field.

    Args:
        fitted: The fitted schema, with the vocabularies of the lists.
        catalog: The ads.

    Returns:
        List name -> the encoded ad-side fields [V, Wa] int32 of its values, 0 (missing) for
        unknown fields.
    """
    ties = {}
    for field in fitted.schema.query_fields:
        values = fitted.statistics[field.name].vocabulary
        if not field.is_list or not values:
            continue
        known: np.ndarray | None
        if field.kind == "history":
            known = _features_of_history(fitted, catalog, field, values)
        else:
            known = _features_if_ads(fitted, catalog, values)
            if known is None:
                known = _features_if_field_values(fitted, values)
        if known is not None:
            out_of_vocabulary = np.zeros((field.num_oov_buckets, known.shape[1]), np.int32)
            ties[field.name] = np.concatenate([np.zeros_like(known[:1]), known, out_of_vocabulary])
    return ties


def _features_of_history(
    fitted: encoding.FittedSchema, catalog: reader.Catalog, history: Field, values: Sequence[str]
) -> np.ndarray:
    """Returns the features of the ads that a history lists, or of the values of their field."""
    if history.of == AD:
        return _features_of(catalog, _rows_of(catalog, values))
    fields = fitted.schema.ad_fields
    column = next(
        span.start for field, span in encoding.columns(fields) if field.name == history.of
    )
    return _known_of_a_field(fields, column, np.arange(1, len(values) + 1))


def _known_of_a_field(fields: Sequence[Field], column: int, ids: np.ndarray) -> np.ndarray:
    """Returns encoded ad-side fields [V, Wa] that are missing except ids [V] in one column."""
    known = np.zeros((len(ids), encoding.width(fields)), np.int32)
    known[:, column] = ids
    return known


def _features_if_ads(
    fitted: encoding.FittedSchema, catalog: reader.Catalog, values: Sequence[str]
) -> np.ndarray | None:
    """Returns the features of the ads with the values as ids, or None."""
    if len(fitted.schema.ad_key) != 1:
        return None
    rows = _rows_of(catalog, values)
    return _features_of(catalog, rows) if _nearly_all(rows >= 0) else None


def _rows_of(catalog: reader.Catalog, ad_ids: Sequence[str]) -> np.ndarray:
    """Returns the rows of ads, -1 for unknown ones."""
    rows = pc.index_in(pa.array(ad_ids), value_set=catalog.ad_ids.combine_chunks())
    return rows.fill_null(-1).to_numpy()


def _features_of(catalog: reader.Catalog, rows: np.ndarray) -> np.ndarray:
    return np.where(rows[:, None] < 0, 0, np.asarray(catalog.features)[rows])


def _features_if_field_values(
    fitted: encoding.FittedSchema, values: Sequence[str]
) -> np.ndarray | None:
    """Returns features that are missing except for the field with these values, or None."""
    fields = fitted.schema.ad_fields
    for field, columns in encoding.columns(fields):
        vocabulary = fitted.statistics[field.name].vocabulary
        if field.kind == "categorical" and len(vocabulary) >= _MIN_VALUES:
            ids = ids_of_values(values, vocabulary)
            if _nearly_all(ids > 0):
                return _known_of_a_field(fields, columns.start, ids)
    return None


def ids_of_values(values: Sequence[str], vocabulary: Sequence[str]) -> np.ndarray:
    """Returns the id in a vocabulary of each value, from 1; 0 if it is not there."""
    found = pc.index_in(pa.array(values, pa.string()), pa.array(vocabulary, pa.string()))
    return 1 + found.fill_null(-1).to_numpy()


def _nearly_all(known: np.ndarray) -> bool:
    """Returns whether nearly all of the more frequent half of the values are known."""
    return known[: math.ceil(len(known) / 2)].mean() >= _MIN_SHARE


class Property(NamedTuple):
    """A property of the ads that a history lists.

    Attributes:
        field: The ad-side field.
        ids: [V] int32, the property's id of each value of the history; 0 for values out of
            the vocabulary.
        ad_features: [I, Wa] int32, the encoded ad-side fields of each of its I ids.
    """

    field: Field
    ids: np.ndarray
    ad_features: np.ndarray


def find_properties(
    fitted: encoding.FittedSchema, history: Field, ad_features: np.ndarray | None
) -> list[Property]:
    """Returns the properties of ads for which a history of ads is also read as a history.

    Args:
        fitted: The fitted schema.
        history: A query-side list.
        ad_features: Features [V, Wa] of the listed ads, from `find_histories`; None: no ads.
    """
    if ad_features is None:
        return []
    columns = dict(encoding.columns(fitted.schema.ad_fields))
    found = []
    for field in find_property_fields(fitted, history, "categorical"):
        ids, size = np.arange(fitted.cardinality(field)), _size(fitted, field)
        known = _known_of_a_field(
            fitted.schema.ad_fields, columns[field].start, np.where(ids <= size, ids, 0)
        )
        found.append(Property(field, ad_features[:, columns[field].start], known))
    return found


def find_property_fields(fitted: encoding.FittedSchema, history: Field, kind: str) -> list[Field]:
    """Returns the fields of a kind that are properties of the ads that a history lists.

    These are the ad fields with the fewest values, except fields with a handful of values, with
    more than half as many as the history, or with a declared history of the same events. Each value
    of such a field has many clicks to learn its effect from; the effects of other fields are left
    to the embeddings of the ads.
    """
    if history.kind != "history" or history.of != AD:
        return []
    listed = {
        declared.of
        for declared in fitted.schema.histories
        if declared.of != AD and set(history.event) <= set(declared.event)
    }
    max_values = _size(fitted, history) // 2
    found = [
        field
        for field in fitted.schema.ad_fields
        if field.kind == kind and field.name not in listed
        if _MIN_PROPERTY_VALUES <= _size(fitted, field) <= max_values
    ]
    return sorted(found, key=fitted.cardinality)[:_MAX_PROPERTIES]


def _size(fitted: encoding.FittedSchema, field: Field) -> int:
    return len(fitted.statistics[field.name].vocabulary)


class HistoryPooling(tf.keras.layers.Layer):
    """Pools a tied list with learned weights by position from its end, and by age.

    Args:
        ad_features: [V, Wa] int32, from `find_histories`.
        embed_ads: Maps ad-side fields [V, Wa] to their embeddings [V, Fa, Ea].
        dim: E.
        columns: Columns of ages and events; None for a list that has none.
    """

    def __init__(
        self,
        ad_features: np.ndarray,
        embed_ads: Callable[[tf.Tensor], tf.Tensor],
        dim: int,
        columns: encoding.HistoryColumns | None = None,
    ) -> None:
        super().__init__()
        self.ad_features, self._embed_ads, self._columns = ad_features, embed_ads, columns
        # As a constant, it would be in each graph that embeds, and a graph holds at most 2 GB. Not
        # tracked by Keras, because the data set has it, so no checkpoint needs it.
        object.__setattr__(self, "ad_table", tf.Variable(ad_features, trainable=False))
        self._dim = dim
        self.num_by_age = 0 if columns is None else len(AGE_CENTERS)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the weights."""
        length = input_shape[-1]
        decays = np.array(_DECAYS[: math.gcd(self._dim, len(_DECAYS))], np.float32)
        self.logits = self.add_weight(
            "logits",
            (length, len(decays)),
            initializer=tf.constant_initializer(-np.arange(length)[:, None] * decays),
        )
        self.map = tf.keras.layers.Dense(self._dim, use_bias=False)
        if self._columns is not None:
            start = _initial_age_logits()
            self.age_logits = self.add_weight(
                "age_logits", start.shape, initializer=tf.constant_initializer(start)
            )
            if self._columns.events is not None:
                self.event_logits = self.add_weight(
                    "event_logits",
                    (histories.NUM_EVENT_CODES, len(AGE_CENTERS)),
                    initializer="zeros",
                )
        super().build(input_shape)

    def call(self, ids: tf.Tensor, rows: tf.Tensor, embed_ids: EmbedIds) -> tf.Tensor:
        """Pools the values of lists.

        Args:
            ids: [B, L] int32, oldest first; 0 is padding.
            rows: [B, W] int32, all columns of the query side.
            embed_ids: Embeds ids without the ad side.

        Returns:
            [B, 1 + A, E] float32: weighted means by position over the ids that are not 0, over all
            for an empty list; then the weighted values by age, zeros without values of such ages.
        """
        values = self.embed(ids, embed_ids)
        weights = self._weights(ids)
        heads = weights.shape[-1]
        shape = tf.concat([tf.shape(values)[:-1], [heads, values.shape[-1] // heads]], axis=0)
        pooled = tf.reduce_sum(tf.reshape(values, shape) * weights[..., None], axis=-3)
        shape = tf.concat([tf.shape(values)[:-2], [1, values.shape[-1]]], axis=0)
        pooled = tf.reshape(pooled, shape)
        if self._columns is None:
            return pooled
        by_age = tf.matmul(self._weights_by_age(ids, rows), values, transpose_a=True)
        return tf.concat([pooled, by_age], axis=-2)

    def embed(self, ids: tf.Tensor, embed_ids: EmbedIds) -> tf.Tensor:
        """Returns values [B, L, E] of ids [B, L]: their own embeddings plus the ads'."""
        # Each id once, since a batch repeats many.
        distinct, index = tf.unique(tf.reshape(ids, [-1]))
        mapped = self._embed_ads(tf.gather(self.ad_table, distinct))
        mapped = self.map(tf.reshape(mapped, [-1, mapped.shape[-2] * mapped.shape[-1]]))
        shape = tf.concat([tf.shape(ids), [self._dim]], axis=0)
        return tf.reshape(tf.gather(embed_ids(distinct) + mapped, index), shape)

    def _weights(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the weights [B, L, H] of ids [B, L]."""
        present = tf.not_equal(ids, 0)
        empty = tf.logical_not(tf.reduce_any(present, axis=-1, keepdims=True))
        from_end = tf.cumsum(tf.cast(present, tf.int32), axis=-1, exclusive=True, reverse=True)
        logits = tf.gather(self.logits, from_end)
        return _softmax_of_values(tf.where((present | empty)[..., None], logits, -1e9))

    def _weights_by_age(self, ids: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Returns the weights [B, L, A] by age and event, whose sums over L are below 1.

        A value without an age has no weight: a log has all ages, so nothing is learned about
        missing ones.
        """
        assert self._columns is not None
        ages = rows[..., self._columns.ages]
        logits = tf.gather(interpolate_ages(self.age_logits), ages)
        if self._columns.events is not None:
            logits += tf.gather(self.event_logits, rows[..., self._columns.events])
        known = tf.not_equal(ids, 0) & tf.not_equal(ages, 0)
        logits = tf.where(known[..., None], logits, -1e9)
        # No event of an age counts as one event of logit 0.
        logits = tf.concat([tf.zeros_like(logits[..., :1, :]), logits], axis=-2)
        return _softmax_of_values(logits)[..., 1:, :]


def _softmax_of_values(logits: tf.Tensor) -> tf.Tensor:
    """Returns the softmax [..., L, H] over L; `axis=-2` would add forty operations to the graph."""
    return tf.linalg.matrix_transpose(tf.nn.softmax(tf.linalg.matrix_transpose(logits)))


def interpolate_ages(points: tf.Tensor) -> tf.Tensor:
    """Interpolates the values of all age buckets [256, n] from points and a missing age.

    Neighboring buckets share what they learn because most are rare.

    Args:
        points: [1 + P, n], `NUM_AGE_ROWS` rows.
    """
    position = np.arange(histories.NUM_AGE_BUCKETS - 1) / _BUCKETS_PER_POINT
    low = position.astype(np.int32)
    share = (position - low).astype(np.float32)[:, None]
    known = tf.gather(points, 1 + low) * (1 - share) + tf.gather(points, 2 + low) * share
    return tf.concat([points[:1], known], axis=0)


def _initial_age_logits() -> np.ndarray:
    """Returns logits [1 + P, A] that fall with the distance in octaves from the centers."""
    seconds = histories.bucket_seconds(1 + _BUCKETS_PER_POINT * np.arange(_NUM_POINTS - 1))
    octaves = np.log2(np.maximum(seconds, 1.0))
    octaves = np.append(octaves, octaves[-1] + 1)
    known = -(((octaves[:, None] - AGE_CENTERS) / _AGE_WIDTH) ** 2) / 2
    return np.maximum(np.concatenate([np.zeros_like(known[:1]), known]), _MIN_AGE_LOGIT)
