"""The quality of one head on logged rows: metrics, intervals, and why a metric is missing.

Shapes: N rows with the head's label, R lists, S samples (`metrics.Resamples`).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfrec import metrics

NDCG_AT = 10
NUM_BINS = 15
NDCG = f"ndcg_at_{NDCG_AT}_logged_lists"
PROBABILITY_METRICS = (
    "auc",
    "per_user_auc",
    "normalized_entropy",
    "log_loss",
    "expected_calibration_error",
    "calibration_ratio",
    NDCG,
)
AMOUNT_METRICS = (
    "auc",
    "normalized_entropy_of_zero_part",
    "normalized_gini",
    "calibration_ratio",
    NDCG,
)
_ONE_CLASS = "the rows are all of one class"
_UNDEFINED = np.array([np.nan])


@dataclasses.dataclass(frozen=True)
class HeadRows:
    """Rows with a known label, in log order.

    Attributes:
        labels: [N] 0 or 1, or amounts.
        list_lengths: [R] number of rows of each request, at least 1.
        resamples: Samples of the rows, by user if users are known, else by request.
        by_user: Whether the units of the resamples are users.
    """

    labels: np.ndarray
    list_lengths: np.ndarray
    resamples: metrics.Resamples
    by_user: bool


def of_probability(rows: HeadRows, probabilities: np.ndarray) -> dict[str, Any]:
    """Measures predicted probabilities [N].

    Returns:
        `labelled`, the number of rows; `PROBABILITY_METRICS`, None if the rows do not define one;
        `absent`, why not; `intervals`, 95 % of each; `calibration_curve`.
    """
    if not len(rows.labels):
        return _without_rows(PROBABILITY_METRICS)
    labels, own = rows.labels, rows.resamples
    loss, entropy = entropy_samples(own, labels, probabilities)
    bins = metrics.calibration_bins(probabilities, NUM_BINS)
    per_user = _UNDEFINED
    reason = "the schema names no user_key"
    if rows.by_user:
        per_user = metrics.resampled_per_user_auc(own, labels, probabilities, own.unit)
        reason = "no user has rows of both classes"
    samples = {
        "auc": metrics.resampled_auc(own, labels, probabilities),
        "per_user_auc": per_user,
        "normalized_entropy": entropy,
        "log_loss": loss,
        "expected_calibration_error": metrics.resampled_calibration_error(
            own, labels, probabilities, bins
        ),
        "calibration_ratio": metrics.resampled_ratio(*own.sums(probabilities, labels)),
        NDCG: _ndcg(rows, probabilities),
    }
    report = _report(rows, probabilities, samples, {"per_user_auc": reason})
    error = metrics.biased_interval(samples["expected_calibration_error"])
    if error is not None:
        report["intervals"]["expected_calibration_error"] = error
    return report


def of_amount(
    rows: HeadRows, expected: np.ndarray, positive_probability: np.ndarray
) -> dict[str, Any]:
    """Measures expected amounts [N] and the probability [N] of an amount above 0.

    Returns:
        The values of `of_probability`, with `AMOUNT_METRICS`.
    """
    if not len(rows.labels):
        return _without_rows(AMOUNT_METRICS)
    labels, own = rows.labels, rows.resamples
    _, zero_part_entropy = entropy_samples(own, labels > 0, positive_probability)
    samples = {
        "auc": metrics.resampled_auc(own, labels, expected),
        "normalized_entropy_of_zero_part": zero_part_entropy,
        "normalized_gini": metrics.resampled_normalized_gini(own, labels, expected),
        "calibration_ratio": metrics.resampled_ratio(*own.sums(expected, labels)),
        NDCG: _ndcg(rows, expected),
    }
    reasons = {"normalized_gini": "all rows have the same revenue"}
    return _report(rows, expected, samples, reasons)


def calibration_curve(rows: HeadRows, predicted: np.ndarray) -> list[dict[str, Any]]:
    """Returns the predicted and observed means of `metrics.calibration_bins`.

    `interval` is that of the observed mean.
    """
    bins = metrics.calibration_bins(predicted, NUM_BINS)
    curve = []
    for number in range(int(bins.max()) + 1):
        own = bins == number
        observed = metrics.resampled_ratio(
            *rows.resamples.take(own).sums(rows.labels[own], np.ones(own.sum()))
        )
        curve.append(
            {
                "predicted": float(predicted[own].mean(dtype=np.float64)),
                "observed": metrics.point_estimate(observed),
                "rows": int(own.sum()),
                "interval": metrics.interval(observed),
            }
        )
    return curve


def share_of_achievable(rows: HeadRows, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Returns samples [S] of (AUC − 0.5) / (AUC of the true values − 0.5).

    Both AUCs of a sample are of the same rows, so the difficulty of the rows cancels out.
    """
    own, best = (
        metrics.resampled_auc(rows.resamples, rows.labels, scores) for scores in (predicted, truth)
    )
    return metrics.resampled_ratio(own - 0.5, best - 0.5)


def entropy_samples(
    resamples: metrics.Resamples, labels: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns log loss and normalized entropy [S]."""
    sums = resamples.sums(
        metrics.log_losses(labels, probabilities), labels.astype(np.float64), np.ones(len(labels))
    )
    return metrics.resampled_ratio(sums[0], sums[2]), metrics.resampled_normalized_entropy(*sums)


def _ndcg(rows: HeadRows, scores: np.ndarray) -> np.ndarray:
    return metrics.resampled_ndcg(rows.resamples, rows.labels, scores, rows.list_lengths, NDCG_AT)


def _report(
    rows: HeadRows,
    predicted: np.ndarray,
    samples: Mapping[str, np.ndarray],
    reasons: Mapping[str, str],
) -> dict[str, Any]:
    """Returns the report of metrics from their samples."""
    reasons = {
        "auc": _ONE_CLASS,
        "normalized_entropy": _ONE_CLASS,
        "normalized_entropy_of_zero_part": _ONE_CLASS,
        "calibration_ratio": "nothing was observed, so there is nothing to divide by",
        NDCG: "no list of at least two ads has a positive",
        **reasons,
    }
    values = {name: metrics.point_estimate(own) for name, own in samples.items()}
    return {
        "labelled": len(rows.labels),
        **values,
        "absent": {name: reasons[name] for name, value in values.items() if value is None},
        "intervals": metrics.intervals(samples),
        "calibration_curve": calibration_curve(rows, predicted),
    }


def _without_rows(names: tuple[str, ...]) -> dict[str, Any]:
    reason = "no row of the split has the label"
    return {
        "labelled": 0,
        **dict.fromkeys(names),
        "absent": dict.fromkeys(names, reason),
        "intervals": {},
        "calibration_curve": [],
    }
