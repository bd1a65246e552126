"""Histories: lists on the query side whose values are ads, such as what the user clicked last.

A list whose values are ads of the catalogue, or values of an ad-side field, is tied to the ad
side: what a value is embedded as is a row of its own and, by a learnt matrix, what the ad side
makes of it. So a history speaks the ads' language: an ad that is rare in histories is known from
its clicks, and one that is rare altogether from its other fields.
Such a list has an order, its last value being the latest, and is pooled by weights of
the place from its end, which are learnt: several weightings, each of a part of the embedding,
begin as decays from none (the user's taste) to fast (the last value alone).

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

# A list is tied where so many of its more frequent values are ads, or values of an ad field.
_LEAST_SHARED = 0.9
# Of fewer values, such as numbers from 1 to 5, the same may mean something else.
_LEAST_VALUES = 100
_DECAYS = (0.0, 0.1, 0.4, 1.6)


Ties = Mapping[str, np.ndarray]


def find_histories(fitted: encoding.FittedSchema, catalogue: reader.Catalogue) -> Ties:
    """Finds the query-side lists whose values are ads, or values of an ad-side field.

    A list is tied where nearly all of the more frequent half of its values are ads of the
    catalogue, else where they are values of one ad-side categorical field that has many. The
    rarer half does not count: of a field, it may be below the minimum count.

    Returns:
        By the list's name, what is known of each of its values on the ad side: [V, Wa] int32
        encoded ad-side fields, 0 (missing) where nothing is.
    """
    ties = {}
    for field in fitted.schema.query_fields:
        values = fitted.statistics[field.name].vocabulary
        if field.kind != "categorical_list" or not values:
            continue
        known = _of_ads(fitted, catalogue, values)
        if known is None:
            known = _of_a_field(fitted, values)
        if known is not None:
            strangers = np.zeros((field.num_oov_buckets, known.shape[1]), np.int32)
            ties[field.name] = np.concatenate([np.zeros_like(known[:1]), known, strangers])
    return ties


def _of_ads(
    fitted: encoding.FittedSchema, catalogue: reader.Catalogue, values: Sequence[str]
) -> np.ndarray | None:
    """Returns the features of the ads that the values are the ids of, or None."""
    if len(fitted.schema.ad_key) != 1:
        return None
    rows = pc.index_in(pa.array(values), value_set=catalogue.ad_ids.combine_chunks())
    rows = rows.fill_null(-1).to_numpy()
    if not _nearly_all(rows >= 0):
        return None
    return np.where(rows[:, None] < 0, 0, np.asarray(catalogue.features)[rows])


def _of_a_field(fitted: encoding.FittedSchema, values: Sequence[str]) -> np.ndarray | None:
    """Returns features of which only the field that the values are of is known, or None."""
    fields = fitted.schema.ad_fields
    column = 0
    for field in fields:
        vocabulary = fitted.statistics[field.name].vocabulary
        if field.kind == "categorical" and len(vocabulary) >= _LEAST_VALUES:
            ids = pc.index_in(pa.array(values), value_set=pa.array(vocabulary))
            ids = ids.fill_null(-1).to_numpy() + 1
            if _nearly_all(ids > 0):
                known = np.zeros((len(values), encoding.width(fields)), np.int32)
                known[:, column] = ids
                return known
        column += field.width
    return None


def _nearly_all(known: np.ndarray) -> bool:
    """Whether nearly all of the more frequent half of the values are known."""
    return known[: math.ceil(len(known) / 2)].mean() >= _LEAST_SHARED


class HistoryPooling(tf.keras.layers.Layer):
    """Makes one embedding of a tied list, by learnt weights of the places from its end.

    Args:
        ad_features: [V, Wa] int32, of `find_histories`.
        embed: Maps ad-side fields [V, Wa] to what the ad side makes of them [V, Fa, Ea].
    """

    def __init__(self, ad_features: np.ndarray, embed: Callable[[tf.Tensor], tf.Tensor]) -> None:
        super().__init__()
        self._ad_features, self._embed = ad_features, embed

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the weights; called by Keras."""
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
            ids: [B, L] int32, the latest last; 0 fills up.

        Returns:
            [B, E] float32, weighted means over the ids that are not 0; over all if all are.
        """
        values = self.with_ads(values, ids)
        weights = self._weights(ids)
        heads = weights.shape[-1]
        shape = tf.concat([tf.shape(values)[:-1], [heads, values.shape[-1] // heads]], axis=0)
        pooled = tf.reduce_sum(tf.reshape(values, shape) * weights[..., None], axis=-3)
        return tf.reshape(pooled, tf.concat([tf.shape(values)[:-2], [values.shape[-1]]], axis=0))

    def with_ads(self, values: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        """Adds to values [B, L, E] of ids [B, L] what the ad side makes of them."""
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
