"""Id dropout: in training some values are made strangers.

What a model has learnt of ids that are out of vocabulary decides what it makes of users and ads
that training never saw. Rare values alone, which share these ids, teach it little. So a value is
replaced by one that is out of vocabulary, and the other fields have to tell what it would have:

- the id of a user, or of an ad that has other fields, with a small probability;
- of every categorical field that is out of vocabulary far more often in the held-out rows than in
  the training rows, with the probability that makes up for it. In a log split by time most users of
  tomorrow may be new ones; a model trained on old ones alone leans on ids it will not have. Where
  training rows have rare values enough, these teach it that, and nothing more is hidden: a row
  whose id is hidden teaches nothing of that id.

Shapes: B queries or ads, W columns of ids.

References:
    Volkovs, Yu and Poutanen, DropoutNet: Addressing Cold Start in Recommender Systems, 2017.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfrecords import encoding, reader
from tfrecords.schema import Field, Schema

_SEED = 1
# So many strangers of the held-out rows are spared by each one of the training rows.
_SPARED = 4.0


class IdDropout:
    """Replaces ids of both sides.

    Args:
        fitted: The fitted schema.
        rate: Probability that the id of a user, or of an ad that has other fields, is replaced;
            0: nothing is ever replaced.

    Attributes:
        rates: Probability that a field's value is replaced, by the field's name; of others, 0.
    """

    def __init__(self, fitted: encoding.FittedSchema, rate: float) -> None:
        self._fitted, self._is_on = fitted, rate > 0
        self.rates = dict.fromkeys(_ids(fitted.schema), rate)

    def expect(self, strangers: Mapping[str, float]) -> None:
        """Raises the rates of fields to those of `oov_rates`; before the first training."""
        for name, rate in strangers.items() if self._is_on else ():
            self.rates[name] = max(rate, self.rates.get(name, 0.0))

    def query(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns query ids [..., W] int32, some of them replaced."""
        return self._replaced(ids, self._fitted.schema.query_fields)

    def ad(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns ad ids [..., W] int32, some of them replaced."""
        return self._replaced(ids, self._fitted.schema.ad_fields)

    def _replaced(self, ids: tf.Tensor, fields: Sequence[Field]) -> tf.Tensor:
        width = encoding.width(fields)
        rates, first_oov = np.zeros(width, np.float32), np.zeros(width, np.int32)
        num_oov = np.ones(width, np.float32)
        for field, column in _categorical(fields):
            rates[column] = self.rates.get(field.name, 0.0)
            first_oov[column], num_oov[column] = _oov(self._fitted, field)
        if not rates.any():
            return ids
        shape = tf.shape(ids)
        # One draw a row: a new user comes from a new place, in a new browser.
        replaced = tf.random.uniform(shape[:-1])[..., None] < rates
        bucket = tf.cast(tf.random.uniform(shape) * num_oov, tf.int32)
        return tf.where(replaced, first_oov + bucket, ids)


def oov_rates(data_set: reader.DataSet) -> dict[str, float]:
    """Returns how often each field is replaced for what held-out rows have in strangers.

    Args:
        data_set: Of its training and its validation rows some hundred thousand are looked at.

    Returns:
        By the field's name, (u - s) / (1 - s) where a share u of the held-out rows is out of
        vocabulary, and s is four times that of the training rows; without the fields for which u
        is not above s.
    """
    if not data_set.num_rows("validation"):
        return {}
    known = next(iter(data_set.windows("train", _SEED)))
    held_out = next(iter(data_set.windows("validation", _SEED)))
    schema, rates = data_set.schema, {}
    for side, fields in (("query", schema.query_fields), ("ad", schema.ad_fields)):
        for field, column in _categorical(fields):
            first_oov, _ = _oov(data_set.fitted, field)
            k, u = (np.mean(rows[side][:, column] >= first_oov) for rows in (known, held_out))
            spared = _SPARED * k
            if u > spared:
                rates[field.name] = float((u - spared) / (1.0 - spared))
    return rates


def _ids(schema: Schema) -> list[str]:
    """Returns the fields that are the user's id, and the ad's: if it is one column of several."""
    columns = [(schema.query_fields, schema.user_key)]
    if len(schema.ad_key) == 1 and len(schema.ad_fields) > 1:
        columns.append((schema.ad_fields, schema.ad_key[0]))
    return [
        field.name
        for fields, column in columns
        for field, _ in _categorical(fields)
        if field.source == column
    ]


def _categorical(
    fields: Sequence[Field],
) -> Iterator[tuple[Field, int]]:
    """Yields the categorical fields of a side, each with its column."""
    for field, own in encoding.columns(fields):
        if field.kind == "categorical":
            yield field, own.start


def _oov(fitted: encoding.FittedSchema, field: Field) -> tuple[int, int]:
    """Returns a field's first id that is out of vocabulary, and the number of them."""
    return fitted.cardinality(field) - field.num_oov_buckets, field.num_oov_buckets
