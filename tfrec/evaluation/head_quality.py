"""The quality of one head on logged rows: each metric, its interval, and why one is missing.

Shapes: N rows with the head's label, R lists, U bootstrap units.
"""

import dataclasses
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
REVENUE_METRICS = (
    "auc",
    "normalized_entropy_of_zero_part",
    "normalized_gini",
    "calibration_ratio",
    NDCG,
)
_ONE_CLASS = "the rows are all of one class"


@dataclasses.dataclass(frozen=True)
class HeadRows:
    """Rows whose label is known, in log order.

    Attributes:
        labels: [N], 0 or 1, or revenue.
        list_lengths: [R] rows of each request, none of them 0.
        resamples: Of the rows, by user where users are known, else by request.
        by_user: Whether the units of the resamples are users.
    """

    labels: np.ndarray
    list_lengths: np.ndarray
    resamples: metrics.Resamples
    by_user: bool

    @property
    def list_of_row(self) -> np.ndarray:
        """[N] which list each row is of."""
        return np.repeat(np.arange(len(self.list_lengths)), self.list_lengths)


def of_probability(rows: HeadRows, probabilities: np.ndarray) -> dict[str, Any]:
    """Measures predicted probabilities [N].

    Returns:
        `labelled`; `PROBABILITY_METRICS`, None where the rows do not allow one; `absent`: why
        not; `intervals`: 95 % of each; `calibration_curve`.
    """
    labels = rows.labels
    report: dict[str, Any] = {"labelled": len(labels)}
    if not len(labels):
        return _without_rows(report, PROBABILITY_METRICS)
    user = rows.resamples.unit if rows.by_user else None
    report |= {
        "auc": metrics.auc(labels, probabilities),
        "per_user_auc": None if user is None else metrics.per_user_auc(labels, probabilities, user),
        "normalized_entropy": metrics.normalized_entropy(labels, probabilities),
        "log_loss": metrics.log_loss(labels, probabilities),
        "expected_calibration_error": metrics.expected_calibration_error(
            labels, probabilities, NUM_BINS
        ),
        "calibration_ratio": metrics.calibration_ratio(labels, probabilities),
        NDCG: metrics.ndcg_at_k(labels, probabilities, rows.list_lengths, NDCG_AT),
    }
    no_user = "the schema names no user_key" if user is None else "no user has rows of both classes"
    report["absent"] = _absent(report, {"per_user_auc": no_user})
    report["intervals"] = _probability_intervals(report, rows, probabilities)
    report["calibration_curve"] = calibration_curve(rows, probabilities)
    return report


def of_revenue(
    rows: HeadRows, expected: np.ndarray, positive_probability: np.ndarray
) -> dict[str, Any]:
    """Measures expected revenue [N] and the probability [N] that it is not zero.

    Returns:
        As `of_probability`, with `REVENUE_METRICS`.
    """
    labels = rows.labels
    report: dict[str, Any] = {"labelled": len(labels)}
    if not len(labels):
        return _without_rows(report, REVENUE_METRICS)
    report |= {
        "auc": metrics.auc(labels > 0, expected),
        "normalized_entropy_of_zero_part": metrics.normalized_entropy(
            labels > 0, positive_probability
        ),
        "normalized_gini": metrics.normalized_gini(labels, expected),
        "calibration_ratio": metrics.calibration_ratio(labels, expected),
        NDCG: metrics.ndcg_at_k(labels, expected, rows.list_lengths, NDCG_AT),
    }
    same = "all rows have the same revenue"
    report["absent"] = _absent(report, {"normalized_gini": same})
    own = rows.resamples
    ndcg = _ndcg_replicates(rows, expected)
    report["intervals"] = _kept(
        report,
        {
            "auc": metrics.resampled_auc(own, labels > 0, expected),
            "normalized_entropy_of_zero_part": _entropy_replicates(
                own, labels > 0, positive_probability
            )[1],
            "normalized_gini": metrics.resampled_normalized_gini(own, labels, expected),
            "calibration_ratio": metrics.resampled_ratio(*own.sums(expected, labels)),
            NDCG: ndcg,
        },
    )
    report["calibration_curve"] = calibration_curve(rows, expected)
    return report


def calibration_curve(rows: HeadRows, predicted: np.ndarray) -> list[dict[str, Any]]:
    """Returns mean predicted and observed of the bins of `metrics.calibration_bins`.

    The interval is that of the observed mean.
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
                "observed": float(rows.labels[own].mean(dtype=np.float64)),
                "rows": int(own.sum()),
                "interval": metrics.metric_interval(observed),
            }
        )
    return curve


def share_of_achievable(
    rows: HeadRows, predicted: np.ndarray, planted: np.ndarray
) -> tuple[float | None, metrics.Interval | None]:
    """Returns (AUC − 0.5) / (AUC of the planted values − 0.5) and its interval.

    Both AUCs of a resample are of the same rows, so that what is hard in them cancels out.
    """
    positive = rows.labels > 0
    own, best = (metrics.auc(positive, scores) for scores in (predicted, planted))
    share = metrics.share_of_achievable(own, 0.5, best)
    if share is None:
        return None, None
    replicates = [metrics.resampled_auc(rows.resamples, positive, s) for s in (predicted, planted)]
    return share, metrics.metric_interval(
        metrics.resampled_ratio(replicates[0] - 0.5, replicates[1] - 0.5)
    )


def _probability_intervals(
    report: dict[str, Any], rows: HeadRows, probabilities: np.ndarray
) -> dict[str, metrics.Interval]:
    labels, own = rows.labels, rows.resamples
    loss, entropy = _entropy_replicates(own, labels, probabilities)
    replicates = {
        "auc": metrics.resampled_auc(own, labels, probabilities),
        "normalized_entropy": entropy,
        "log_loss": loss,
        "calibration_ratio": metrics.resampled_ratio(*own.sums(probabilities, labels)),
        NDCG: _ndcg_replicates(rows, probabilities),
    }
    if rows.by_user:
        replicates["per_user_auc"] = metrics.resampled_per_user_auc(
            own, labels, probabilities, own.unit
        )
    kept = _kept(report, replicates)
    bins = metrics.calibration_bins(probabilities, NUM_BINS)
    error = metrics.biased_metric_interval(
        report["expected_calibration_error"],
        metrics.resampled_calibration_error(own, labels, probabilities, bins),
    )
    return kept if error is None else {**kept, "expected_calibration_error": error}


def _entropy_replicates(
    resamples: metrics.Resamples, labels: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns log loss and normalised entropy [S]."""
    sums = resamples.sums(
        metrics.log_losses(labels, probabilities), labels.astype(np.float64), np.ones(len(labels))
    )
    return metrics.resampled_ratio(sums[0], sums[2]), metrics.resampled_normalized_entropy(*sums)


def _ndcg_replicates(rows: HeadRows, scores: np.ndarray) -> np.ndarray:
    values = metrics.ndcg_of_lists(rows.labels, scores, rows.list_lengths, NDCG_AT)
    first = np.cumsum(rows.list_lengths) - rows.list_lengths
    counted = ~np.isnan(values)
    of_lists = rows.resamples.take(first[counted])  # a list is wholly of one unit
    return metrics.resampled_ratio(*of_lists.sums(values[counted], np.ones(counted.sum())))


def _kept(report: dict[str, Any], replicates: dict[str, np.ndarray]) -> dict[str, metrics.Interval]:
    """Returns the intervals of the metrics that there are."""
    found = {
        name: metrics.metric_interval(values)
        for name, values in replicates.items()
        if report[name] is not None
    }
    return {name: own for name, own in found.items() if own is not None}


def _without_rows(report: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    reason = "no row of the split has the label"
    return {
        **report,
        **dict.fromkeys(names),
        "absent": dict.fromkeys(names, reason),
        "intervals": {},
        "calibration_curve": [],
    }


def _absent(report: dict[str, Any], own: dict[str, str]) -> dict[str, str]:
    """Says why each metric that is None is."""
    reasons = {
        "auc": _ONE_CLASS,
        "normalized_entropy": _ONE_CLASS,
        "normalized_entropy_of_zero_part": _ONE_CLASS,
        "calibration_ratio": "nothing was observed, so there is nothing to divide by",
        NDCG: "no list of at least two ads has a positive",
        **own,
    }
    return {name: reasons[name] for name, value in report.items() if value is None}
