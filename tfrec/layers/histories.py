"""Histories: lists on the query side whose values are ads, such as what the user clicked last.

A history of the schema, or a list whose values are ads of the catalog, or values of an ad-side
field, is tied to the ad side: a value's embedding is a row of its own plus, through a learned
matrix, the ad side's embedding of it. So an ad that is rare in histories is known from its clicks,
and an ad that is rare in the log from its other fields.
Such a list is in order of time, the latest value last. It is pooled with learned weights by the
position from its end: several weightings, each for a part of the embedding, start as decays from
none (the user's taste) to fast (the last value only).

Shapes: B queries (any leading dimensions), L values of a list, V ids of its values, E field
embedding, Ea that of the ad side, Fa fields of the ad side, Wa their columns of ids, H weightings.

References:
    Kang and McAuley, Self-Attentive Sequential Recommendation, 2018 (items of the history and
    items recommended share embeddings).
    Press, Smith and Lewis, Train Short, Test Long (ALiBi), 2022 (a slope a head).
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from tfrecords import encoding, reader
from tfrecords.schema import AD, Field

# Minimum share of the more frequent values of a list that are ads, or values of an ad field.
_MIN_SHARE = 0.9
# Fewer values, such as numbers from 1 to 5, may coincide without the same meaning.
_MIN_VALUES = 100
_DECAYS = (0.0, 0.1, 0.4, 1.6)
Ties = Mapping[str, np.ndarray]
"""List name -> the encoded ad-side fields [V, Wa] int32 of its values."""


def find_histories(fitted: encoding.FittedSchema, catalog: reader.Catalog) -> Ties:
    """Finds the query-side lists whose values are ads, or values of an ad-side field.

    The schema says what a history lists. A list is tied if nearly all of the more frequent half of
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
            known = _of_history(fitted, catalog, field, values)
        else:
            known = _of_ads(fitted, catalog, values)
            if known is None:
                known = _of_a_field(fitted, values)
        if known is not None:
            out_of_vocabulary = np.zeros((field.num_oov_buckets, known.shape[1]), np.int32)
            ties[field.name] = np.concatenate([np.zeros_like(known[:1]), known, out_of_vocabulary])
    return ties


def _of_history(
    fitted: encoding.FittedSchema, catalog: reader.Catalog, history: Field, values: Sequence[str]
) -> np.ndarray:
    """Returns the features of the ads that a history lists, or of the values of their field."""
    if history.of == AD:
        return _features_of(catalog, _rows_of(catalog, values))
    fields = fitted.schema.ad_fields
    known = np.zeros((len(values), encoding.width(fields)), np.int32)
    column = next(own.start for field, own in encoding.columns(fields) if field.name == history.of)
    known[:, column] = np.arange(1, len(values) + 1)
    return known


def _of_ads(
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


def _of_a_field(fitted: encoding.FittedSchema, values: Sequence[str]) -> np.ndarray | None:
    """Returns features that are missing except for the field with these values, or None."""
    fields = fitted.schema.ad_fields
    column = 0
    for field in fields:
        vocabulary = fitted.statistics[field.name].vocabulary
        if field.kind == "categorical" and len(vocabulary) >= _MIN_VALUES:
            ids = pc.index_in(pa.array(values), value_set=pa.array(vocabulary))
            ids = ids.fill_null(-1).to_numpy() + 1
            if _nearly_all(ids > 0):
                known = np.zeros((len(values), encoding.width(fields)), np.int32)
                known[:, column] = ids
                return known
        column += field.width
    return None


def _nearly_all(known: np.ndarray) -> bool:
    """Returns whether nearly all of the more frequent half of the values are known."""
    return known[: math.ceil(len(known) / 2)].mean() >= _MIN_SHARE


class HistoryPooling(tf.keras.layers.Layer):
    """Pools a tied list into one embedding, with learned weights by position from its end.

    Args:
        ad_features: [V, Wa] int32, from `find_histories`.
        embed: Maps ad-side fields [V, Wa] to their embeddings [V, Fa, Ea].
    """

    def __init__(self, ad_features: np.ndarray, embed: Callable[[tf.Tensor], tf.Tensor]) -> None:
        super().__init__()
        self._ad_features, self._embed = ad_features, embed

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the weights."""
        length, dim = input_shape[-2:]
        decays = np.array(_DECAYS[: math.gcd(dim, len(_DECAYS))], np.float32)
        self.logits = self.add_weight(
            "logits",
            (length, len(decays)),
            initializer=tf.constant_initializer(-np.arange(length)[:, None] * decays),
        )
        self.map = tf.keras.layers.Dense(dim, use_bias=False)
        super().build(input_shape)

    def call(self, values: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        """Pools the values of lists.

        Args:
            values: [B, L, E] float32, their own embeddings.
            ids: [B, L] int32, the latest last; 0 is padding.

        Returns:
            [B, E] float32, weighted means over the ids that are not 0; over all for an empty list.
        """
        values = self.with_ads(values, ids)
        weights = self._weights(ids)
        heads = weights.shape[-1]
        shape = tf.concat([tf.shape(values)[:-1], [heads, values.shape[-1] // heads]], axis=0)
        pooled = tf.reduce_sum(tf.reshape(values, shape) * weights[..., None], axis=-3)
        return tf.reshape(pooled, tf.concat([tf.shape(values)[:-2], [values.shape[-1]]], axis=0))

    def with_ads(self, values: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        """Adds the mapped embeddings of the ad side to values [B, L, E] of ids [B, L]."""
        distinct, index = tf.unique(tf.reshape(ids, [-1]))
        of_ads = self._embed(tf.gather(self._ad_features, distinct))
        of_ads = self.map(tf.reshape(of_ads, [-1, of_ads.shape[-2] * of_ads.shape[-1]]))
        return values + tf.reshape(tf.gather(of_ads, index), tf.shape(values))

    def _weights(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the weights [B, L, H] of ids [B, L]."""
        present = tf.not_equal(ids, 0)
        empty = tf.logical_not(tf.reduce_any(present, axis=-1, keepdims=True))
        from_end = tf.cumsum(tf.cast(present, tf.int32), axis=-1, exclusive=True, reverse=True)
        logits = tf.gather(self.logits, from_end)
        return tf.nn.softmax(tf.where((present | empty)[..., None], logits, -1e9), axis=-2)
