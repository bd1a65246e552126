"""Calibrators fitted on the validation split, small enough to live inside a SavedModel.

Platt scaling p = sigmoid(a * logit + b) for probabilities, a factor for revenue.

References:
    Platt, Probabilistic Outputs for Support Vector Machines, 1999.
"""

import dataclasses

import numpy as np

# Pull towards "already calibrated", worth this many examples: tiny splits stay sane.
_PRIOR_STRENGTH = 10.0
_SMALLEST_SCALE = 0.05


@dataclasses.dataclass(frozen=True)
class Platt:
    """Scale and offset of a logit."""

    scale: float = 1.0
    offset: float = 0.0


IDENTITY = Platt()


def fit_platt(labels: np.ndarray, logits: np.ndarray, iterations: int = 50) -> Platt:
    """Fits Platt scaling by Newton's method with a weak prior on the identity.

    Args:
        labels: [N] 0 or 1.
        logits: [N] finite.

    Returns:
        The calibrator; the identity if there are no examples.
    """
    if not len(labels):
        return Platt()
    x = np.stack([np.asarray(logits, np.float64), np.ones(len(labels))], axis=1)
    identity = np.array([1.0, 0.0])
    weights = identity.copy()
    for _ in range(iterations):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -60, 60)))
        gradient = x.T @ (p - labels) + _PRIOR_STRENGTH * (weights - identity)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + _PRIOR_STRENGTH * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        weights -= np.clip(step, -1.0, 1.0)
        if np.abs(step).max() < 1e-9:
            break
    if weights[0] < _SMALLEST_SCALE:
        # A negative scale would turn the ranking round: without signal only the level is fitted.
        return Platt(_SMALLEST_SCALE, _fit_offset(labels, _SMALLEST_SCALE * x[:, 0]))
    return Platt(float(weights[0]), float(weights[1]))


def _fit_offset(labels: np.ndarray, logits: np.ndarray) -> float:
    """Finds the offset at which the mean probability is the (slightly shrunk) observed rate."""
    wanted = (float(labels.sum()) + 0.5) / (len(labels) + 1.0)
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        if np.mean(1 / (1 + np.exp(-(logits + middle)))) < wanted:
            low = middle
        else:
            high = middle
    return middle


def fit_scale(observed: np.ndarray, predicted: np.ndarray) -> float:
    """Returns the factor that makes predicted sums equal observed sums, shrunk towards 1.

    Args:
        observed: [N] non-negative.
        predicted: [N] non-negative.
    """
    positives = int((observed > 0).sum())
    if not positives or not predicted.sum():
        return 1.0
    factor = float(observed.sum() / predicted.sum())
    shrink = positives / (positives + _PRIOR_STRENGTH)
    return float(np.exp(shrink * np.log(factor)))
