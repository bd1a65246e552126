"""Click rates of pairs of values, such as a user and a brand, or a page and an ad.

Users open the same apps again, and like a few of hundreds of brands. If pairs have few rows,
embeddings learn little beyond the effects of both values. The pair's own numbers of clicks and rows
are direct evidence. In training, they leave out the row itself. For users, a history is better: it
is up to date, and has times.

Shapes: N rows, P pairs of values that occur, Wq and Wa columns of the query and the ad side,
K features of a regression.

References:
    Micci-Barreca, A Preprocessing Scheme for High-Cardinality Categorical Attributes, 2001
    (shrunken rates as features; here leave-one-out).
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple, Self, TypeAlias

import numpy as np
import scipy.special
import tensorflow as tf

from tfrec.heads import CLICK
from tfrec.layers.comparisons.values import FieldPair, columns_of
from tfrecords import encoding, reader
from tfrecords.schema import AD, Field

# A log with more rows teaches embeddings enough. The rows are read into memory, and the model holds
# 16 bytes for each pair of values.
_MAX_ROWS = 2_000_000
# To choose pairs of fields: number of the last training rows that are counted, and number of the
# last training rows and validation rows that regressions read.
_MAX_TRAINING_ROWS, _MAX_REGRESSION_ROWS = 500_000, 50_000
# Prior strength, in rows, of a pair of values and of a single value.
_PAIR_STRENGTH, _VALUE_STRENGTH = 3.0, 20.0
# Fields with more rows per pair of values, including pairs that never occur, are left to the
# embeddings.
_MAX_ROWS_OF_PAIR = 100
# Rates are used if they lower the held-out log loss by this share and this many standard errors:
# smaller gains are those of fields that the ranker learns by itself.
_MIN_GAIN, _MIN_ERRORS, _MAX_PAIRS = 0.015, 4.0, 4
# As many as in the batches of an evaluation: their pipelines are built once.
_REQUESTS_PER_BATCH = 2_048
_STEPS, _UNKNOWN = 8, -1
# Of training and of held-out rows, [N, K] each.
_Features: TypeAlias = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class LabeledRows:
    """Rows with a known label.

    Attributes:
        query: [N, Wq] int32.
        ad: [N, Wa] int32.
        labels: [N] float32.
    """

    query: np.ndarray
    ad: np.ndarray
    labels: np.ndarray

    @classmethod
    def read(
        cls,
        data_set: reader.DataSet,
        split: str,
        max_rows: int,
        label: str = CLICK.label,
        clicked: bool = False,
    ) -> Self:
        """Reads at least `max_rows` of the split's last rows with the label, or all.

        Args:
            data_set: The data set.
            split: The split.
            max_rows: Bounds time and memory.
            label: The label.
            clicked: Whether only clicked rows are read.
        """
        parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        num_rows = 0
        for batch in data_set.batches(split, _REQUESTS_PER_BATCH):
            labels = batch[label].numpy()
            kept = batch["mask"].numpy() & ~np.isnan(labels)
            if clicked:
                kept &= batch[CLICK.label].numpy() == 1
            request, index = np.nonzero(kept)
            rows = batch["query"].numpy()[request], batch["ad"].numpy()[request, index]
            parts.append((*rows, labels[request, index]))
            num_rows += len(request)
            while num_rows - len(parts[0][2]) >= max_rows:
                num_rows -= len(parts.pop(0)[2])
        return cls(*map(np.concatenate, zip(*parts, strict=True)))

    def last(self, max_rows: int) -> Self:
        """Returns the last rows."""
        return type(self)(*(array[-max_rows:] for array in vars(self).values()))


class PairRates:
    """Clicks and rows of pairs of values of two fields; out-of-vocabulary values have none.

    Args:
        fitted: The fitted schema.
        fields: Categorical fields, one of each side.
        rows: The training rows.

    Attributes:
        fields: The fields.
    """

    def __init__(self, fitted: encoding.FittedSchema, fields: FieldPair, rows: LabeledRows) -> None:
        self.fields = fields
        self._columns = [columns.start for columns in columns_of(fitted, *fields)]
        known = [len(fitted.statistics[field.name].vocabulary) for field in fields]
        rate = np.clip(rows.labels.mean(), 1e-4, 1 - 1e-4)
        values = self.values(rows.query, rows.ad)
        numbers = _numbers(known, np.int64(fitted.cardinality(fields[1])), *values)
        distinct, index = np.unique(numbers, return_inverse=True)
        # Larger than all others, so that an index is always found.
        distinct = np.append(distinct, np.iinfo(np.int64).max)
        with tf.init_scope():
            self.tables = _Tables(
                tf.constant(known),
                tf.constant(np.log(rate / (1 - rate)), tf.float32),
                tf.constant(distinct, tf.int64),
                _counts(index, rows.labels, len(distinct)),
                *(
                    _counts(np.asarray(ids), rows.labels, fitted.cardinality(field))
                    for ids, field in zip(values, fields, strict=True)
                ),
            )

    def __call__(
        self, query: tf.Tensor, ad: tf.Tensor, clicks: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Returns features [..., 3] of pairs of values.

        For n clicks, these are log(1 + n), min(n, 1), and how far the pair's log odds are above
        those expected of both values.

        Args:
            query: [..., Wq] int32; its leading dimensions broadcast against the ad's.
            ad: [..., Wa] int32.
            clicks: [...] labels of training rows, which are left out; None: other rows.
        """
        return _with_expected(self.tables, *self.values(query, ad), clicks)[1]

    def values(self, query: tf.Tensor, ad: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the ids [...] of the two fields."""
        return query[..., self._columns[0]], ad[..., self._columns[1]]


class _Tables(NamedTuple):
    """Clicks and rows of the values of two fields, and of their pairs.

    Attributes:
        known: [2] int32 largest ids of known values.
        logit: Log odds of a click.
        pairs: [P + 1] int64 sorted numbers of pairs.
        pair_counts, query_counts, ad_counts: [P + 1, 2], [Vq, 2] and [Va, 2] float32 clicks and
            rows.
    """

    known: tf.Tensor
    logit: tf.Tensor
    pairs: tf.Tensor
    pair_counts: tf.Tensor
    query_counts: tf.Tensor
    ad_counts: tf.Tensor


def _with_expected(
    tables: _Tables, query_ids: tf.Tensor, ad_ids: tf.Tensor, clicks: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the log odds expected of both values [...], and the features of `PairRates`.

    `query_ids` and `ad_ids` are the ids [...] of the values.
    """
    keys = _numbers(tables.known, tf.shape(tables.ad_counts, tf.int64)[0], query_ids, ad_ids)
    index = tf.reshape(tf.searchsorted(tables.pairs, tf.reshape(keys, [-1])), tf.shape(keys))
    is_found = tf.equal(tf.gather(tables.pairs, index), keys) & (keys != _UNKNOWN)
    pair = tf.where(is_found[..., None], tf.gather(tables.pair_counts, index), 0.0)
    values = [tf.gather(tables.query_counts, query_ids), tf.gather(tables.ad_counts, ad_ids)]
    if clicks is not None:
        is_known = ~tf.math.is_nan(clicks)
        row_counts = tf.stack([tf.where(is_known, clicks, 0.0), tf.cast(is_known, tf.float32)], -1)
        pair, *values = (tf.nn.relu(counts - row_counts) for counts in (pair, *values))
    expected = tables.logit
    for counts in values:
        expected += _log_odds(counts, tables.logit, _VALUE_STRENGTH) - tables.logit
    above = _log_odds(pair, expected, _PAIR_STRENGTH) - expected
    number = pair[..., 0]
    features = [tf.math.log1p(number), tf.minimum(number, 1.0), above]
    return expected, tf.stack(features, axis=-1)


# All pairs of fields share one graph. Rows outside the training split have NaN labels.
_traced_with_expected = tf.function(
    _with_expected,
    input_signature=[
        _Tables(
            tf.TensorSpec([2], tf.int32),
            tf.TensorSpec([], tf.float32),
            tf.TensorSpec([None], tf.int64),
            *[tf.TensorSpec([None, 2], tf.float32)] * 3,
        ),
        tf.TensorSpec([None], tf.int32),
        tf.TensorSpec([None], tf.int32),
        tf.TensorSpec([None], tf.float32),
    ],
    autograph=False,
)


def _numbers(
    known: tf.Tensor | Sequence[int], num_ads: tf.Tensor, query_ids: tf.Tensor, ad_ids: tf.Tensor
) -> tf.Tensor:
    """Returns a number of each pair of ids, [...] int64.

    Args:
        known: See `_Tables`.
        num_ads: Number of ids of the ad's field.
        query_ids, ad_ids: Ids [...].
    """
    is_known = (query_ids > 0) & (query_ids <= known[0])
    is_known &= (ad_ids > 0) & (ad_ids <= known[1])
    number = tf.cast(query_ids, tf.int64) * num_ads + tf.cast(ad_ids, tf.int64)
    return tf.where(is_known, number, np.int64(_UNKNOWN))


@functools.lru_cache(maxsize=1)  # The trials of a study have the same data set.
def find_pair_rates(data_set: reader.DataSet) -> list[FieldPair]:
    """Finds the pairs of fields whose rates predict clicks better than both values on their own.

    They are chosen one after the other: each must improve the validation loss of a logistic
    regression that is fitted on training rows and reads the rates of the pairs before it. This
    excludes rates that do not generalize: in a log with times, the other rows of a pair may come
    after the row, or be of the same minute.

    Args:
        data_set: The data set. Users are left out if it has a history of ads; the pair of user and
            ad also if users clicked none of their sampled negatives.
    """
    schema = data_set.schema
    if not data_set.label_count("validation", "click") or data_set.num_rows("train") > _MAX_ROWS:
        return []
    with_history = any(field.of == AD for field in schema.histories)
    num_rows = min(data_set.label_count("train", CLICK.label), _MAX_TRAINING_ROWS)
    pairs = [
        (query_field, ad_field)
        for query_field in _categorical(schema.query_fields)
        for ad_field in _categorical(schema.ad_fields)
        if num_rows < _MAX_ROWS_OF_PAIR * _num_pairs(data_set.fitted, query_field, ad_field)
        and (
            query_field.source != schema.user_key
            or not (
                with_history
                or (schema.ad_key == (ad_field.source,) and data_set.negatives_are_new_to_users)
            )
        )
    ]
    if not pairs:
        return []
    training = LabeledRows.read(data_set, "train", _MAX_TRAINING_ROWS)
    held_out = LabeledRows.read(data_set, "validation", _MAX_REGRESSION_ROWS)
    last = training.last(_MAX_REGRESSION_ROWS)
    labels = last.labels, held_out.labels
    query, ad = map(np.concatenate, ((last.query, held_out.query), (last.ad, held_out.ad)))
    clicks = np.append(last.labels, np.full_like(held_out.labels, np.nan))
    candidates: dict[FieldPair, _Features] = {}
    for pair in pairs:
        features = _features(PairRates(data_set.fitted, pair, training), query, ad, clicks)
        candidates[pair] = features[: len(last.labels)], features[len(last.labels) :]
    chosen: list[FieldPair] = []
    known: _Features = (np.empty((len(labels[0]), 0)), np.empty((len(labels[1]), 0)))
    while candidates and len(chosen) < _MAX_PAIRS:
        gains = {pair: _gain(known, features, labels) for pair, features in candidates.items()}
        best = max(gains, key=lambda pair: gains[pair])
        if gains[best] < _MIN_GAIN:
            break
        chosen.append(best)
        known = _joined(known, candidates.pop(best))
    return chosen


def pair_rates_of(data_set: reader.DataSet, pairs: Sequence[FieldPair]) -> list[PairRates]:
    """Returns the rates of pairs of fields in the training rows of a data set."""
    if not pairs:
        return []
    rows = LabeledRows.read(data_set, "train", _MAX_ROWS)
    return [PairRates(data_set.fitted, pair, rows) for pair in pairs]


def _categorical(fields: Sequence[Field]) -> list[Field]:
    return [field for field in fields if field.kind == "categorical"]


def _num_pairs(fitted: encoding.FittedSchema, *fields: Field) -> int:
    """Returns the number of all pairs of values, whether they occur or not."""
    return math.prod(max(1, len(fitted.statistics[field.name].vocabulary)) for field in fields)


def _features(
    rates: PairRates, query: np.ndarray, ad: np.ndarray, clicks: np.ndarray
) -> np.ndarray:
    """Returns the log odds expected of both values, then the features of the pair, [N, 1 + F]."""
    return np.column_stack(_traced_with_expected(rates.tables, *rates.values(query, ad), clicks))


def _joined(known: _Features, added: _Features) -> _Features:
    training, held_out = (np.hstack(sides) for sides in zip(known, added, strict=True))
    return training, held_out


def _gain(known: _Features, added: _Features, labels: tuple[np.ndarray, np.ndarray]) -> float:
    """Returns the share of the held-out log loss that a pair saves; 0 if it may be chance."""
    expected = _joined(known, (added[0][:, :1], added[1][:, :1]))
    without, with_pair = (
        _held_out_losses(features, labels) for features in (expected, _joined(known, added))
    )
    saved = without - with_pair
    if saved.mean() < _MIN_ERRORS * saved.std() / math.sqrt(len(saved)):
        return 0.0
    return float(saved.mean() / without.mean())


def _held_out_losses(features: _Features, labels: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Returns losses [N] of held-out rows by a logistic regression of training rows."""
    training, held_out = (np.hstack([matrix, np.ones((len(matrix), 1))]) for matrix in features)
    weights = np.zeros(training.shape[1])
    for _ in range(_STEPS):  # Newton's method
        p = scipy.special.expit(training @ weights)
        curvature = training.T @ (training * (p * (1 - p))[:, None])
        curvature += np.eye(len(weights))
        weights -= np.linalg.solve(curvature, training.T @ (p - labels[0]) + weights)
    logits = held_out @ weights
    return np.logaddexp(0.0, logits) - labels[1] * logits


def _log_odds(counts: tf.Tensor, expected: tf.Tensor | float, strength: float) -> tf.Tensor:
    """Returns the log odds of clicks and rows [..., 2], shrunk toward the expected log odds."""
    clicks = counts[..., 0] + strength * tf.sigmoid(expected)
    non_clicks = counts[..., 1] - counts[..., 0] + strength * tf.sigmoid(-expected)
    return tf.math.log(clicks / non_clicks)


def _counts(values: np.ndarray, clicks: np.ndarray, size: int) -> tf.Tensor:
    """Returns the clicks and rows of each value, [size, 2] float32."""
    numbers = [np.bincount(values, weights, size) for weights in (clicks, None)]
    return tf.constant(np.stack(numbers, axis=-1), tf.float32)
