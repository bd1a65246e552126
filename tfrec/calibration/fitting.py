"""Fits calibration curves on held-out rows.

All fits are shrunk, so that few rows change little: Platt scaling toward the identity, the
isotonic curve toward Platt scaling, the factor of amounts toward 1.

Shapes: N rows; K bins, one per knot.

References:
    Platt, Probabilistic Outputs for Support Vector Machines, 1999.
    Zadrozny and Elkan, Transforming Classifier Scores into Accurate Multiclass Probability
    Estimates, 2002.
    Kish, Survey Sampling, 1965 (the effective number of unequal values).
"""

import dataclasses

import numpy as np
import scipy.optimize
import scipy.special

from tfrec.calibration import curves

# Weight of the prior, "already calibrated", in examples.
_PRIOR_STRENGTH = 10.0
# Maximum number of steps of Newton's method.
_MAX_STEPS = 50
_MIN_SCALE = 0.05
_MIN_GAP = 1e-3


@dataclasses.dataclass(frozen=True)
class HeldOutLogits:
    """Labels [N] 0 or 1, logits [N], and weights [N]: the number of rows that each represents."""

    labels: np.ndarray
    logits: np.ndarray
    weights: np.ndarray

    @classmethod
    def unweighted(cls, labels: np.ndarray, logits: np.ndarray) -> "HeldOutLogits":
        """Returns rows of weight 1.

        Raises:
            ValueError: A logit is not finite.
        """
        finite = np.isfinite(logits)
        if not finite.all():
            raise ValueError(
                f"{np.sum(~finite):,} of {len(logits):,} logits are not finite; expected none. The "
                "training diverged: lower the learning rates, and train again."
            )
        return cls(
            np.asarray(labels, np.float64), np.asarray(logits, np.float64), np.ones(len(logits))
        )

    def take(self, rows: np.ndarray) -> "HeldOutLogits":
        """Returns some of the rows."""
        return HeldOutLogits(self.labels[rows], self.logits[rows], self.weights[rows])


def information_of(rows: HeldOutLogits, z: np.ndarray) -> np.ndarray:
    """Returns weight · p (1 − p) [N] of rows with calibrated logits z [N]."""
    p = scipy.special.expit(z)
    return rows.weights * p * (1 - p)


def fit_platt(rows: HeldOutLogits) -> curves.Platt:
    """Fits Platt scaling by Newton's method with a weak prior on the identity."""
    if not len(rows.labels):
        return curves.Platt()
    x = np.stack([rows.logits, np.ones(len(rows.labels))], axis=1)
    identity = np.array([1.0, 0.0])
    weights = identity.copy()
    for _ in range(_MAX_STEPS):
        z = x @ weights
        surplus = rows.weights * (scipy.special.expit(z) - rows.labels)
        gradient = x.T @ surplus + _PRIOR_STRENGTH * (weights - identity)
        hessian = (x * information_of(rows, z)[:, None]).T @ x + _PRIOR_STRENGTH * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        weights -= np.clip(step, -1.0, 1.0)
        if np.abs(step).max() < 1e-9:
            break
    if weights[0] < _MIN_SCALE:
        # A negative scale would reverse the ranking. Without signal only the offset is fitted.
        return curves.Platt(_MIN_SCALE, _offset(rows))
    return curves.Platt(float(weights[0]), float(weights[1]))


def _offset(rows: HeldOutLogits) -> float:
    """Finds the offset that makes the mean probability the (slightly shrunk) observed rate."""
    total, z = rows.weights.sum(), _MIN_SCALE * rows.logits
    target = (rows.weights @ rows.labels + 0.5) / (total + 1.0)

    def surplus(offset: float) -> float:
        return float(rows.weights @ scipy.special.expit(z + offset) / total - target)

    # With these offsets, all probabilities are 0 or all are 1, apart from rounding.
    return float(scipy.optimize.brentq(surplus, -z.max() - 40.0, -z.min() + 40.0))


def fit_isotonic(rows: HeldOutLogits, num_knots: int) -> curves.Curve:
    """Fits a strictly increasing piecewise-linear curve.

    Rows are split by logit into bins of equal information. Each bin gives a knot, its mean logit,
    whose value is shifted by the offset that makes the bin's probabilities sum to its labels;
    isotonic regression then makes the values increase. The first and the last bin, which are wide,
    have their own Platt scaling, whose slope continues beyond the knots.

    Args:
        rows: The rows to fit.
        num_knots: Maximum number of bins; rows with equal logits share a bin.

    Returns:
        The curve; Platt scaling if the logits give fewer than two bins.
    """
    platt = fit_platt(rows)
    z = platt.array(rows.logits)
    information = information_of(rows, z)
    bins = _bins(z, information, num_knots)
    count = int(bins.max(initial=0)) + 1
    weight = np.bincount(bins, information, count)
    center = np.bincount(bins, information * z, count) / np.maximum(weight, 1e-300)
    moved = center + _offsets(rows, z, bins, count)
    kept = _apart(platt, center, np.flatnonzero(weight > 0))
    if len(kept) < 2:
        return platt
    slopes = []
    for end in (kept[0], kept[-1]):
        line = fit_platt(dataclasses.replace(rows, logits=z).take(bins == end))
        moved[end] = line.scale * center[end] + line.offset
        slopes.append(line.scale * platt.scale)
    center, moved, weight = center[kept], moved[kept], weight[kept]
    # Relative to a small slope, so that values that isotonic regression equalizes still increase.
    rising = scipy.optimize.isotonic_regression(moved - _MIN_SCALE * center, weights=weight).x
    values = rising + _MIN_SCALE * center
    knots = tuple(((center - platt.offset) / platt.scale).tolist())
    curve = curves.Isotonic(knots, tuple(values.tolist()), *slopes)
    offset = _offsets(rows, curve.array(rows.logits), np.zeros(len(z), int), 1)
    return dataclasses.replace(curve, values=tuple((values + offset).tolist()))


def _apart(platt: curves.Platt, center: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """Drops bins whose knots are too close to the previous one in float32."""
    kept: list[int] = []
    for index in bins:
        gap = _MIN_GAP * max(1.0, platt.scale, abs(center[index]))
        if not kept or center[index] - center[kept[-1]] > gap:
            kept.append(int(index))
    return np.array(kept, int)


def _bins(z: np.ndarray, information: np.ndarray, num_bins: int) -> np.ndarray:
    """Splits rows by logit into bins [N] of about equal information."""
    order = np.argsort(z, kind="stable")
    total = np.cumsum(information[order])
    targets = total[-1] * np.arange(1, num_bins) / num_bins
    edges = np.unique(z[order][np.searchsorted(total, targets)])
    return np.searchsorted(edges, z, side="right")


def _offsets(rows: HeldOutLogits, z: np.ndarray, bins: np.ndarray, count: int) -> np.ndarray:
    """Finds the offset [K], shrunk to 0, that makes a bin's probabilities sum to its labels."""
    observed = np.bincount(bins, rows.weights * rows.labels, count)
    offsets = np.zeros(count)
    for _ in range(50):
        moved = z + offsets[bins]
        predicted = np.bincount(bins, rows.weights * scipy.special.expit(moved), count)
        information = np.bincount(bins, information_of(rows, moved), count)
        gradient = predicted - observed + _PRIOR_STRENGTH * offsets
        step = gradient / (information + _PRIOR_STRENGTH)
        offsets -= np.clip(step, -1.0, 1.0)
        if np.abs(step).max() < 1e-9:
            break
    return offsets


def fit_line(targets: np.ndarray, values: np.ndarray) -> curves.Platt:
    """Fits targets = scale · values + offset by least squares, shrunk toward the identity.

    Args:
        targets: [N] finite.
        values: [N] finite.
    """
    if not len(values):
        return curves.Platt()
    # Centered, so that slope and offset are independent.
    center = float(np.mean(values, dtype=np.float64))
    x, y = np.asarray(values, np.float64) - center, np.asarray(targets, np.float64) - center
    slope = float((x @ y + _PRIOR_STRENGTH) / (x @ x + _PRIOR_STRENGTH))
    slope = max(slope, _MIN_SCALE)
    offset = float(y.sum() / (len(y) + _PRIOR_STRENGTH))
    return curves.Platt(slope, center + offset - slope * center)


def fit_factor(observed: np.ndarray, predicted: np.ndarray) -> float:
    """Returns the factor that makes predicted sums equal observed sums, shrunk toward 1.

    Args:
        observed: [N] non-negative; a few dominant amounts count as few rows.
        predicted: [N] non-negative.
    """
    total, squares = float(observed.sum()), float(np.square(observed, dtype=np.float64).sum())
    if not total or not predicted.sum():
        return 1.0
    effective = total**2 / squares
    shrink = effective / (effective + _PRIOR_STRENGTH)
    return float(np.exp(shrink * np.log(total / float(predicted.sum()))))
