"""Scores of click probabilities, and intervals of the difference between two models.

Shapes: L rows in log order, S samples: the data and its resamples.
"""

import numpy as np

from serving import cli  # noqa: F401  (imported first: it selects Keras 2 and quiets TensorFlow)
from tfrec import metrics


def scores(labels: np.ndarray, estimates: np.ndarray) -> dict[str, float | None]:
    """Returns the scores of probabilities [L]; None where the labels do not allow one."""
    return {
        "auc": metrics.auc(labels, estimates),
        "normalized_entropy": metrics.normalized_entropy(labels, estimates),
        "log_loss": metrics.log_loss(labels, estimates),
        "ece": metrics.expected_calibration_error(labels, estimates),
    }


def resampled(
    resamples: metrics.Resamples, labels: np.ndarray, estimates: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns `auc` and `normalized_entropy` [S] of probabilities [L]; NaN if undefined.

    Scores of the same resamples are paired, so their differences have narrow intervals.
    """
    losses = metrics.log_losses(labels, estimates)
    sums = resamples.sums(losses, labels, np.ones(len(labels)))
    return {
        "auc": metrics.resampled_auc(resamples, labels, estimates),
        "normalized_entropy": metrics.resampled_normalized_entropy(*sums),
    }


def difference(
    ours: dict[str, np.ndarray], other: dict[str, np.ndarray]
) -> dict[str, metrics.Interval | None]:
    """Returns the interval of ours minus the other for each metric of [S] samples."""
    return {name: metrics.interval(values - other[name]) for name, values in ours.items()}
