"""Scores of click probabilities, and intervals of the difference between two models.

Shapes: L rows in log order, U units, S samples.

References:
    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, §13 (percentile interval).
    Field and Welsh, Bootstrapping Clustered Data, 2007 (drawing units, not rows).
"""

from typing import Any

import numpy as np

from serving import cli  # noqa: F401  (first: it settles Keras and quiets TensorFlow)
from tfrec import metrics

_SMALLEST_PROBABILITY = 1e-12
_LEVEL = 0.95


def scores(labels: np.ndarray, estimates: np.ndarray) -> dict[str, float | None]:
    """Returns what is reported of probabilities [L]; None where the labels do not allow it."""
    return {
        "auc": metrics.auc(labels, estimates),
        "normalized_entropy": metrics.normalized_entropy(labels, estimates),
        "log_loss": metrics.log_loss(labels, estimates),
        "ece": metrics.expected_calibration_error(labels, estimates),
    }


class Bootstrap:
    """Scores models on the same resampled units, so that their differences are paired.

    Args:
        labels: [L] 0 or 1.
        unit: [L] the user of each row, or its request where users are not known.
        samples: S.
        seed: Of the resampling.
    """

    def __init__(self, labels: np.ndarray, unit: np.ndarray, samples: int, seed: int) -> None:
        self._labels = labels.astype(np.float64)
        self._unit = np.unique(unit, return_inverse=True)[1]
        self._samples, self._seed = samples, seed

    def of(self, estimates: np.ndarray) -> dict[str, np.ndarray]:
        """Returns `auc` and `normalized_entropy` [S] of probabilities [L]; NaN if undefined."""
        rng = np.random.default_rng(self._seed)  # the same samples for every model
        num_units = int(self._unit.max()) + 1
        order = np.argsort(estimates, kind="stable")
        labels, ranked = self._labels[order], estimates[order]
        last_of_ties = np.flatnonzero(np.append(np.diff(ranked) > 0, True))
        p = np.clip(ranked, _SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY)
        losses = -(labels * np.log(p) + (1 - labels) * np.log1p(-p))
        unit = self._unit[order]
        found = []
        for _ in range(self._samples):
            drawn = rng.integers(0, num_units, num_units)
            weights = np.bincount(drawn, minlength=num_units)[unit].astype(np.float64)
            auc = _weighted_auc(labels, weights, last_of_ties)
            found.append((auc, _weighted_entropy(labels, weights, losses)))
        return dict(zip(("auc", "normalized_entropy"), np.array(found).T, strict=True))


def difference(ours: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns the interval [low, high] of ours minus the other for each metric of [S] samples."""
    result = {}
    for name, values in ours.items():
        gaps = values - other[name]
        gaps = gaps[~np.isnan(gaps)]
        tail = 50 * (1 - _LEVEL)
        result[name] = (
            [float(v) for v in np.percentile(gaps, (tail, 100 - tail))] if len(gaps) else None
        )
    return result


def _weighted_auc(labels: np.ndarray, weights: np.ndarray, last_of_ties: np.ndarray) -> float:
    """AUC of rows in rising order of score; ties count half."""
    positive = np.cumsum(weights * labels)[last_of_ties]
    negative = np.cumsum(weights * (1 - labels))[last_of_ties]
    if not positive[-1] or not negative[-1]:
        return float("nan")
    before = np.append(0, negative[:-1])
    gained = np.diff(positive, prepend=0)
    return float((gained * (before + negative) / 2).sum() / (positive[-1] * negative[-1]))


def _weighted_entropy(labels: np.ndarray, weights: np.ndarray, losses: np.ndarray) -> float:
    """Log loss over that of the observed rate."""
    total = weights.sum()
    rate = float(weights @ labels / total)
    if rate in (0.0, 1.0):
        return float("nan")
    return float(weights @ losses / total) / -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
