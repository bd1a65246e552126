"""Scores of the values of a head, and intervals of the difference between two models.

A probability has `auc`, `normalized_entropy`, `log_loss` and `ece`. An amount has `auc` (of any
amount above 0), `normalized_gini` and `calibration_ratio` (predicted / observed), as in an
evaluation.

Shapes: L rows in log order, S samples: the data and its resamples.
"""

import numpy as np

from serving import cli  # noqa: F401  (imported first: it selects Keras 2 and quiets TensorFlow)
from tfrec import metrics

Estimates = dict[str, np.ndarray]
"""Head -> values [L] of an impression: probabilities, or expected amounts."""


def scores(labels: np.ndarray, estimates: np.ndarray, is_amount: bool) -> dict[str, float | None]:
    """Returns the scores of estimates [L]; None where the labels do not allow one."""
    data = metrics.Resamples(np.zeros(len(labels), int), 0, 0)
    sampled = resampled(data, labels, estimates, is_amount)
    result = {name: metrics.point_estimate(values) for name, values in sampled.items()}
    if is_amount:
        ratio = metrics.resampled_ratio(*data.sums(estimates, labels))
        return {**result, "calibration_ratio": metrics.point_estimate(ratio)}
    return {
        **result,
        "log_loss": metrics.log_loss(labels, estimates),
        "ece": metrics.expected_calibration_error(labels, estimates),
    }


def resampled(
    resamples: metrics.Resamples, labels: np.ndarray, estimates: np.ndarray, is_amount: bool
) -> dict[str, np.ndarray]:
    """Returns the AUC [S] of estimates [L], and the second score; NaN if undefined.

    Scores of the same resamples are paired, so their differences have narrow intervals.
    """
    auc = metrics.resampled_auc(resamples, labels, estimates)
    if is_amount:
        gini = metrics.resampled_normalized_gini(resamples, labels, estimates)
        return {"auc": auc, "normalized_gini": gini}
    losses = metrics.log_losses(labels, estimates)
    sums = resamples.sums(losses, labels, np.ones(len(labels)))
    return {"auc": auc, "normalized_entropy": metrics.resampled_normalized_entropy(*sums)}


def difference(
    ours: dict[str, np.ndarray], other: dict[str, np.ndarray]
) -> dict[str, metrics.Interval | None]:
    """Returns the interval of ours minus the other for each metric of [S] samples."""
    return {name: metrics.interval(values - other[name]) for name, values in ours.items()}
