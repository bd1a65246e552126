"""What is known of a ranker's probabilities before any test: a few figures a head, with errors.

Measured on the validation split, on logits that were calibrated without the rows in question
(`calibration.cross_fitted_logits`). The export gate judges by them. An error is a standard error;
rows of one user, or of one request where users are not known, count as one draw (ADR 11).

Shapes: L shown ads, in the log's order; R requests; N rows of which a label is known.

References:
    He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, 2014, §3
    (normalised entropy).
    Bröcker, Estimating Reliability and Resolution of Probability Forecasts, 2012 (a calibrated
    forecast, too, has an expected calibration error above 0).
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import scipy.special
import tensorflow as tf

from tfrec import layers, metrics
from tfrec.heads import HEADS
from tfrecords import reader, records

NUM_BINS = 15


@dataclasses.dataclass(frozen=True)
class ValidationRows:
    """The rows of a head whose label is known, both kinds among them.

    Attributes:
        labels: [N].
        probability: [N] of a label above 0.
        expected: [N] in units of the label: the probability, or the expected revenue.
        owner: [N] the user or request of each row.
    """

    labels: np.ndarray
    probability: np.ndarray
    expected: np.ndarray
    owner: np.ndarray

    @property
    def losses(self) -> np.ndarray:
        """[N] cross-entropy of the label being above 0."""
        return _losses(self.labels, self.probability)

    @property
    def entropy(self) -> np.ndarray:
        """[N] the same of always predicting the observed rate."""
        return _losses(self.labels, np.full(len(self.labels), np.mean(self.labels > 0)))


def owner_of_requests(data_set: reader.DataSet, split: str) -> np.ndarray:
    """Returns [R] what the rows of each request depend on each other by, numbered from 0.

    That is the user, and the request itself where the log names no users.

    Raises:
        FileNotFoundError, ValueError: As `reader.DataSet.column`.
    """
    if not data_set.spec.has_user:
        return np.arange(data_set.num_requests(split))
    return np.unique(data_set.column(split, records.USER), return_inverse=True)[1]


def measure_heads(
    logits: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], owner: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Measures each head.

    Args:
        logits: Calibrated logits, `click` [L], `engagement` [L], `revenue` [L, 3].
        labels: Of each head [L]; NaN where missing.
        owner: [L] int from 0, the `owner_of_requests` of each row.

    Returns:
        For each head JSON values: `labelled` rows and `positives` among them. Where both kinds
        of rows are there, also `base_rate`, `auc` and `normalized_entropy`, of a label above 0;
        `calibration_ratio`, the sum predicted over the sum observed, `mean_label`, and
        `expected_calibration_error`, in units of the label, with
        `expected_calibration_error_of_chance`, what a calibrated model has on as many rows.
        Of engagement all is in impression space. `*_error` of one of these is its standard error.
    """
    result: dict[str, dict[str, Any]] = {}
    for head in logits:
        known = labels[head][~np.isnan(labels[head])]
        result[head] = {"labelled": len(known), "positives": int(np.sum(known > 0))}
    for head, rows in _rows(logits, labels, owner):
        result[head] |= _figures(rows)
    return result


def differences(
    logits: Mapping[str, np.ndarray],
    others: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    owner: np.ndarray,
) -> dict[str, tuple[float, float]]:
    """Returns by how much one ranker's normalised entropy is above another's on the same rows.

    Args:
        logits: Calibrated logits of the one, as in `measure_heads`.
        others: Of the other.
        labels, owner: As in `measure_heads`.

    Returns:
        For each head that both have, and that can be measured, the difference and its
        standard error, which is far below that of either figure.
    """
    of_others = dict(_rows(others, labels, owner))
    return {
        head: _ratio(rows.losses - of_others[head].losses, rows.entropy, rows.owner)
        for head, rows in _rows(logits, labels, owner)
        if head in of_others
    }


def _rows(
    logits: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], owner: np.ndarray
) -> Iterator[tuple[str, ValidationRows]]:
    """Yields the heads of which rows of both kinds are known."""
    served = layers.head_outputs({head: tf.constant(values) for head, values in logits.items()})
    for head in logits:
        known = ~np.isnan(labels[head])
        if len(np.unique(labels[head][known] > 0)) < 2:
            continue
        values = served[HEADS[head].output].numpy()[known].astype(np.float64)
        probability = values
        if HEADS[head].is_amount:
            positive = layers.positive_logits(head, logits[head])[known]
            probability = scipy.special.expit(positive.astype(np.float64))
        yield (
            head,
            ValidationRows(
                labels[head][known].astype(np.float64), probability, values, owner[known]
            ),
        )


def _figures(rows: ValidationRows) -> dict[str, Any]:
    normalized, normalized_error = _ratio(rows.losses, rows.entropy, rows.owner)
    ratio, ratio_error = _ratio(rows.expected, rows.labels, rows.owner)
    return {
        "base_rate": float(np.mean(rows.labels > 0)),
        "auc": metrics.auc(rows.labels, rows.probability),
        "normalized_entropy": normalized,
        "normalized_entropy_error": normalized_error,
        "calibration_ratio": ratio,
        "calibration_ratio_error": ratio_error,
        "mean_label": float(np.mean(rows.labels)),
        "expected_calibration_error": metrics.expected_calibration_error(
            rows.labels, rows.expected, NUM_BINS
        ),
        "expected_calibration_error_of_chance": _calibration_error_of_chance(rows),
    }


def _losses(labels: np.ndarray, probability: np.ndarray) -> np.ndarray:
    p = np.clip(probability, 1e-12, 1 - 1e-12)
    return -np.where(labels > 0, np.log(p), np.log1p(-p))


def _ratio(above: np.ndarray, below: np.ndarray, owner: np.ndarray) -> tuple[float, float]:
    """Returns the ratio of two sums over rows [N], and its standard error, linearised."""
    total = float(np.sum(below))
    ratio = float(np.sum(above)) / total
    of_owner = np.bincount(owner, above - ratio * below)
    return ratio, float(np.sqrt(np.sum(np.square(of_owner)))) / abs(total)


def _calibration_error_of_chance(rows: ValidationRows) -> float:
    """Returns the calibration error to be expected of a calibrated model.

    The gap of a bin is then about normal around 0, and its mean absolute value is sqrt(2 / pi)
    standard deviations.
    """
    bins = metrics.calibration_bins(rows.expected, NUM_BINS)
    count = np.bincount(bins)
    gap = rows.labels - rows.expected
    around = gap - (np.bincount(bins, gap) / count)[bins]
    spread = np.bincount(bins, np.square(around)) / count
    return float(np.sum(np.sqrt(2 / np.pi * spread * count)) / len(bins))
