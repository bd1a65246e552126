"""The quality of one head on logged rows: metrics, intervals, and why a metric is missing.

A probability has `auc`, `per_user_auc`, `normalized_entropy`, `log_loss`,
`expected_calibration_error`, `calibration_ratio` (predicted / observed) and
`ndcg_at_10_logged_lists`. An amount has `auc` (of labels above 0, ordered by their probability),
`normalized_entropy_of_zero_part`, `normalized_gini`, `calibration_ratio` and
`ndcg_at_10_logged_lists`. With ground truth, each also has `auc_share_of_achievable`.

Shapes: N rows with the head's label, R lists, S samples (`metrics.Resamples`).
"""

import dataclasses

import numpy as np

from tfrec import metrics
from tfrec.evaluation import report
from tfrec.heads import Head

NDCG_AT = 10
NDCG = f"ndcg_at_{NDCG_AT}_logged_lists"
_ONE_CLASS = "the rows are all of one class"
_REASONS = {
    "auc": _ONE_CLASS,
    "normalized_entropy": _ONE_CLASS,
    "normalized_entropy_of_zero_part": _ONE_CLASS,
    "auc_share_of_achievable": "the AUC of the ground truth is undefined or 0.5",
    "calibration_ratio": "nothing was observed, so there is nothing to divide by",
    "normalized_gini": "all rows have the same amount",
    NDCG: "no list of two or more ads has a positive row",
}


@dataclasses.dataclass(frozen=True)
class HeadRows:
    """Rows with a known label, in log order.

    Attributes:
        labels: [N] 0 or 1, or amounts.
        list_lengths: [R] number of rows of each request, at least 1.
        resamples: Samples of the rows, by user if users are known, else by request.
        no_per_user_auc: Why the per-user AUC cannot be measured. None: the units of the resamples
            are users.
    """

    labels: np.ndarray
    list_lengths: np.ndarray
    resamples: metrics.Resamples
    no_per_user_auc: str | None


@dataclasses.dataclass(frozen=True)
class HeadScores:
    """Predicted or true values of rows.

    Attributes:
        values: [N] probabilities of a positive label, or expected amounts.
        positive: [N] probabilities of a label above 0.
    """

    values: np.ndarray
    positive: np.ndarray


def measure(
    head: Head, rows: HeadRows, predicted: HeadScores, truth: HeadScores | None = None
) -> report.HeadQuality:
    """Measures the predictions of a head, if there are rows. True values give the ceilings."""
    if not len(rows.labels):
        return report.HeadQuality(labeled=0, metrics={}, calibration_curve=[])
    rows = _with_usable_draws(rows)
    samples = head_samples(head, rows, predicted)
    ceilings: dict[str, float | None] = {}
    if truth is not None:
        ceilings = {
            name: metrics.point_estimate(values)
            for name, values in head_samples(head, _without_draws(rows), truth).items()
        }
        # Both AUCs of a sample use the same rows, so the difficulty of the rows cancels out.
        best = metrics.resampled_auc(rows.resamples, rows.labels, truth.positive)
        samples["auc_share_of_achievable"] = metrics.resampled_ratio(
            samples["auc"] - 0.5, best - 0.5
        )
    return report.HeadQuality(
        labeled=len(rows.labels),
        metrics={
            name: report.Estimate.of(
                values,
                metrics.distance_interval
                if name == "expected_calibration_error"
                else metrics.interval,
                absent=_reason(name, rows),
                ground_truth=ceilings.get(name),
            )
            for name, values in samples.items()
        },
        calibration_curve=calibration_curve(rows, predicted.values),
    )


def calibration_curve(rows: HeadRows, predicted: np.ndarray) -> list[report.CalibrationBin]:
    """Returns the predicted and observed means of `metrics.calibration_bins`."""
    bins = metrics.calibration_bins(predicted)
    curve = []
    for number in range(int(bins.max()) + 1):
        in_bin = bins == number
        observed = metrics.resampled_ratio(
            *rows.resamples.take(in_bin).sums(rows.labels[in_bin], np.ones(in_bin.sum()))
        )
        curve.append(
            report.CalibrationBin(
                predicted=float(predicted[in_bin].mean(dtype=np.float64)),
                observed=report.Estimate.of(observed),
                rows=int(in_bin.sum()),
            )
        )
    return curve


def entropy_samples(
    resamples: metrics.Resamples, labels: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns log loss and normalized entropy [S]."""
    sums = resamples.sums(
        metrics.log_losses(labels, probabilities), labels.astype(np.float64), np.ones(len(labels))
    )
    return metrics.resampled_ratio(sums[0], sums[2]), metrics.resampled_normalized_entropy(*sums)


def order_samples(rows: HeadRows, values: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the values [S] of the metrics that depend on the order by `values` [N] alone."""
    labels, resamples = rows.labels, rows.resamples
    per_user = np.array([np.nan])
    if rows.no_per_user_auc is None:
        per_user = metrics.resampled_per_user_auc(resamples, labels, values, resamples.unit)
    return {
        "auc": metrics.resampled_auc(resamples, labels, values),
        "per_user_auc": per_user,
        NDCG: _ndcg_samples(rows, values),
    }


def _ndcg_samples(rows: HeadRows, values: np.ndarray) -> np.ndarray:
    return metrics.resampled_ndcg(rows.resamples, rows.labels, values, rows.list_lengths, NDCG_AT)


def order(rows: HeadRows, values: np.ndarray) -> dict[str, report.Estimate]:
    """Measures the order by `values` [N]."""
    rows = _with_usable_draws(rows)
    return {
        name: report.Estimate.of(samples, absent=_reason(name, rows))
        for name, samples in order_samples(rows, values).items()
    }


def head_samples(head: Head, rows: HeadRows, scores: HeadScores) -> dict[str, np.ndarray]:
    """Returns the values [S] of each metric in each sample; NaN where it is undefined."""
    labels, resamples, values = rows.labels, rows.resamples, scores.values
    ratio = metrics.resampled_ratio(*resamples.sums(values, labels))
    loss, entropy = entropy_samples(resamples, labels > 0, scores.positive)
    if head.is_amount:
        return {
            # The best order of the rows above 0 is by the probability of being above 0.
            "auc": metrics.resampled_auc(resamples, labels, scores.positive),
            "normalized_entropy_of_zero_part": entropy,
            "normalized_gini": metrics.resampled_normalized_gini(resamples, labels, values),
            "calibration_ratio": ratio,
            NDCG: _ndcg_samples(rows, values),
        }
    bins = metrics.calibration_bins(values)
    by_order = order_samples(rows, values)
    return {
        "auc": by_order["auc"],
        "per_user_auc": by_order["per_user_auc"],
        "normalized_entropy": entropy,
        "log_loss": loss,
        "expected_calibration_error": metrics.resampled_calibration_error(
            resamples, labels, values, bins
        ),
        "calibration_ratio": ratio,
        NDCG: by_order[NDCG],
    }


def _with_usable_draws(rows: HeadRows) -> HeadRows:
    """Returns the rows, without resamples if these do not show how metrics vary.

    If all positive rows are of one unit, each resample has either these rows or none.
    """
    num_units = len(np.unique(rows.resamples.unit[rows.labels > 0]))
    return rows if num_units > 1 else _without_draws(rows)


def _without_draws(rows: HeadRows) -> HeadRows:
    return dataclasses.replace(rows, resamples=metrics.Resamples(rows.resamples.unit, 0, 0))


def _reason(name: str, rows: HeadRows) -> str | None:
    """Returns why a metric is missing if it is."""
    if name == "per_user_auc":
        return rows.no_per_user_auc or "no user has rows of both classes"
    return _REASONS.get(name)
