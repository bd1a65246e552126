"""Metrics of a ranker's heads on the validation split, with standard errors.

The logits of each row are calibrated without the row (`calibration.cross_fitted_logits`). The
export gate uses these metrics. Rows of one user, or of one request if users are not known, count as
one draw (ADR 11).

Shapes: L shown ads, in the log's order; R requests; N rows with a known label.

References:
    He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, 2014, §2
    (normalized entropy).
    Bröcker, Estimating Reliability and Resolution of Probability Forecasts, 2012 (a calibrated
    forecast has an expected calibration error above 0, too).
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import scipy.special
import tensorflow as tf

from tfrec import layers, metrics
from tfrec.heads import HEADS
from tfrecords import reader, records


@dataclasses.dataclass(frozen=True)
class ValidationRows:
    """The rows with a known label of a head, some of them positive and some not.

    Attributes:
        labels: [N].
        probability: [N] probability of a label above 0.
        expected: [N] expected label: the probability, or the expected amount.
        owner: [N] user or request of each row.
    """

    labels: np.ndarray
    probability: np.ndarray
    expected: np.ndarray
    owner: np.ndarray

    @property
    def losses(self) -> np.ndarray:
        """[N] cross-entropy of labels above 0."""
        return metrics.log_losses(self.labels > 0, self.probability)

    @property
    def entropy(self) -> np.ndarray:
        """[N] cross-entropy of always predicting the observed rate."""
        rate = np.mean(self.labels > 0)
        return metrics.log_losses(self.labels > 0, np.full(len(self.labels), rate))


def owner_of_requests(data_set: reader.DataSet, split: str) -> np.ndarray:
    """Returns [R] the unit of independence of each request, numbered from 0.

    This is the user, or the request itself if the log has no users.

    Raises:
        FileNotFoundError, ValueError: See `reader.DataSet.column`.
    """
    if not data_set.spec.has_user:
        return np.arange(data_set.num_requests(split))
    return np.unique(data_set.column(split, records.USER), return_inverse=True)[1]


def measure_heads(
    logits: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], owner: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Measures each head.

    Args:
        logits: Head -> calibrated logits [L], or [L, 3] of an amount.
        labels: Head -> [L]; NaN where missing.
        owner: [L] int from 0, the `owner_of_requests` of each row.

    Returns:
        For each head JSON values: `labeled` rows and `positives` among them. If some rows are
        positive and some not, and they have several owners, also `base_rate`, `auc` and
        `normalized_entropy` of labels above 0; `calibration_ratio`, the sum predicted over the sum
        observed, `mean_label`, and `expected_calibration_error`, in units of the label, with
        `expected_calibration_error_of_chance`, the error of a calibrated model on as many rows.
        Probabilities are per impression. `*_error` is the standard error of a metric.
    """
    result: dict[str, dict[str, Any]] = {}
    for head in logits:
        known = labels[head][~np.isnan(labels[head])]
        result[head] = {"labeled": len(known), "positives": int(np.sum(known > 0))}
    for head, rows in _rows(logits, labels, owner):
        result[head] |= _figures(rows)
    return result


def _rows(
    logits: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], owner: np.ndarray
) -> Iterator[tuple[str, ValidationRows]]:
    """Yields the heads with positive and other known rows, of several owners."""
    served = layers.head_outputs({head: tf.constant(values) for head, values in logits.items()})
    for head in logits:
        known = ~np.isnan(labels[head])
        # The standard errors of a single owner would be 0.
        if min(len(np.unique(column)) for column in (labels[head][known] > 0, owner[known])) < 2:
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
            rows.labels, rows.expected
        ),
        "expected_calibration_error_of_chance": _calibration_error_of_chance(rows),
    }


def _ratio(above: np.ndarray, below: np.ndarray, owner: np.ndarray) -> tuple[float, float]:
    """Returns the ratio of two sums over rows [N] of two or more owners and its standard error.

    The error is the linearized one of clusters (Cochran, Sampling Techniques, 1977).
    """
    total = float(np.sum(below))
    ratio = float(np.sum(above)) / total
    owner_sums = np.bincount(owner, above - ratio * below)
    count = len(np.unique(owner))
    variance = count / (count - 1) * float(np.sum(np.square(owner_sums)))
    return ratio, math.sqrt(variance) / abs(total)


def _calibration_error_of_chance(rows: ValidationRows) -> float:
    """Returns the expected calibration error of a calibrated model.

    Its gap in a bin is about normal around 0, with a mean absolute value of sqrt(2 / pi) standard
    deviations.
    """
    bins = metrics.calibration_bins(rows.expected)
    count = np.bincount(bins)
    gap = rows.labels - rows.expected
    around = gap - (np.bincount(bins, gap) / count)[bins]
    spread = np.bincount(bins, np.square(around)) / count
    return float(np.sum(np.sqrt(2 / np.pi * spread * count)) / len(bins))
