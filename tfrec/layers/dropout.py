"""Dropout of inputs and of ids.

The random state of `Dropout` is part of checkpoints, so that training resumes exactly; the state of
`tf.keras.layers.Dropout` is not saved.

Id dropout: training replaces some ids with out-of-vocabulary ids.

For users and ads that training never saw, a model depends on what it has learned about
out-of-vocabulary (OOV) ids; rare values, which share these ids, teach it little. So training
replaces with an OOV id

- the id of a user, or of an ad with other fields, with a small probability; and half of the ids of
  ads with a vector, because the id would otherwise make the vector redundant;
- the value of every categorical field that is OOV far more often in the held-out rows than in the
  training rows, with the probability that makes up for the difference. In a log split by time most
  later users may be new; a model trained only on known users relies on ids that it will not see.
  If the training rows have enough rare values, nothing more is hidden: a row with a hidden id
  teaches nothing about that id.

Shapes: B queries or ads, W columns of ids.

References:
    Volkovs, Yu and Poutanen, DropoutNet: Addressing Cold Start in Recommender Systems, 2017.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfrec.layers import replicas
from tfrecords import encoding, reader
from tfrecords.schema import Field, Schema

_SEED = 1
# Number of held-out OOV rows that one training OOV row offsets.
_OFFSET = 4.0
_MIN_RATE_WITH_VECTORS = 0.5


class Generator(tf.random.Generator):
    """A generator whose state is the same on all replicas, so that one checkpoint holds it.

    The state advances by the number of values drawn, and shares of a batch differ in size. So
    each of several replicas takes its own seed from it, and draws from the seed.
    """

    def uniform(self, shape: Any, *args: Any, **kwargs: Any) -> tf.Tensor:
        """Draws numbers, different ones on each replica; see `tf.random.Generator`."""
        if not replicas.several_replicas():
            return super().uniform(shape, *args, **kwargs)
        seed = self.make_seeds()[:, 0]
        return tf.random.stateless_uniform(shape, seed, *args, **kwargs)

    def same_integers(self, count: int, limit: int) -> tf.Tensor:
        """Returns [count] int32 below `limit`, the same on all replicas as on one."""
        if not replicas.several_replicas():
            return self.uniform([count], 0, limit, tf.int32)
        return tf.raw_ops.StatelessRandomUniformIntV2(
            shape=[count], minval=0, maxval=limit, **self._same_on_all(count)
        )

    def same_uniform(self, count: tf.Tensor) -> tf.Tensor:
        """Returns [count] float32 in [0, 1), the same on all replicas as on one."""
        if not replicas.several_replicas():
            return self.uniform(count[None])
        return tf.raw_ops.StatelessRandomUniformV2(shape=count[None], **self._same_on_all(count))

    def _same_on_all(self, count: tf.Tensor | int) -> dict[str, Any]:
        """Moves the state on by `count`; returns the key and the counter that it had."""
        state = self.skip(count)
        key, counter = (tf.bitcast(part, tf.uint64) for part in (state[2:3], state[:2]))
        return {"key": key, "counter": counter, "alg": self.algorithm}


def new_generator() -> Generator:
    """Returns a generator seeded by `tf.keras.utils.set_random_seed`.

    As an attribute of a layer, a model or a `tf.Module` it is part of checkpoints.
    """
    return Generator.from_seed(random.randint(1, 10**9))


class Dropout(tf.keras.layers.Layer):
    """Sets a share of the inputs, in [0, 1), to zero in training, and scales up the others."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self._rate = rate
        self._generator = new_generator()

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns x of any shape, with dropout in training."""
        if not training or not self._rate:
            return x
        return tf.nn.experimental.general_dropout(
            x, rate=self._rate, uniform_sampler=self._generator.uniform
        )


class IdDropout(tf.Module):
    """Replaces ids of both sides by out-of-vocabulary ids in training.

    Args:
        fitted: The fitted schema.
        rate: Probability of replacing the id of a user, or of an ad with other fields; at least one
            half for an ad with vectors. 0: nothing is replaced.

    Attributes:
        rates: Field name -> probability of replacing its id; 0 for other fields.
    """

    def __init__(self, fitted: encoding.FittedSchema, rate: float) -> None:
        super().__init__()
        self._fitted, self._is_on = fitted, rate > 0
        self._generator = new_generator()
        self.rates = dict.fromkeys(_ids(fitted.schema), rate)
        ads = fitted.schema.ad_fields
        if self._is_on and any(field.is_vector for field in ads):
            for name in self.rates.keys() & {field.name for field in ads}:
                self.rates[name] = max(rate, _MIN_RATE_WITH_VECTORS)

    def raise_rates(self, oov_rates: Mapping[str, float]) -> None:
        """Raises the rates of fields to `oov_rates`; call before training starts."""
        for name, rate in oov_rates.items() if self._is_on else ():
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
        # One draw per row: a new user also has a new city and a new browser.
        replaced = self._generator.uniform(shape[:-1])[..., None] < rates
        bucket = tf.cast(self._generator.uniform(shape) * num_oov, tf.int32)
        # A missing value stays missing: it is not an unknown one.
        return tf.where(replaced & (ids != 0), first_oov + bucket, ids)


def oov_rates(data_set: reader.DataSet) -> dict[str, float]:
    """Returns the replacement rates that make up for OOV values in the held-out rows.

    Args:
        data_set: The data set; a few hundred thousand training and validation rows are read.

    Returns:
        Field name -> (u - s) / (1 - s), where u is the OOV share of the held-out values and s is
        four times the share of the training values, without missing ones; only fields with u above
        s.
    """
    if not data_set.num_rows("validation"):
        return {}
    splits = [next(iter(data_set.windows(split, _SEED))) for split in ("train", "validation")]
    schema, rates = data_set.schema, {}
    for side, fields in (("query", schema.query_fields), ("ad", schema.ad_fields)):
        ids_of_splits = [rows[side].numpy() for rows in splits]
        for field, column in _categorical(fields):
            first_oov, _ = _oov(data_set.fitted, field)
            k, u = (_oov_share(ids[:, column], first_oov) for ids in ids_of_splits)
            offset = _OFFSET * k
            if u > offset:
                rates[field.name] = float((u - offset) / (1.0 - offset))
    return rates


def _oov_share(ids: np.ndarray, first_oov: int) -> float:
    """Returns the OOV share of the ids [L] that are not missing."""
    present = ids[ids > 0]
    return float(np.mean(present >= first_oov)) if len(present) else 0.0


def _ids(schema: Schema) -> list[str]:
    """Returns the fields that are the user's id, and the ad's id if the ad has other fields."""
    columns = [(schema.query_fields, schema.user_key)]
    if len(schema.ad_key) == 1 and len(schema.ad_fields) > 1:
        columns.append((schema.ad_fields, schema.ad_key[0]))
    return [
        field.name
        for fields, column in columns
        for field, _ in _categorical(fields)
        if field.source == column
    ]


def _categorical(fields: Sequence[Field]) -> Iterator[tuple[Field, int]]:
    """Yields the categorical fields of a side, each with its column."""
    for field, columns in encoding.columns(fields):
        if field.kind == "categorical":
            yield field, columns.start


def _oov(fitted: encoding.FittedSchema, field: Field) -> tuple[int, int]:
    """Returns a field's first OOV id, and the number of OOV ids."""
    return fitted.cardinality(field) - field.num_oov_buckets, field.num_oov_buckets
