"""Chooses the kind of a calibration curve by cross-validation on held-out rows.

Shapes: N rows.
"""

import numpy as np

from tfrec.calibration import curves, fitting

# The numbers of knots to try, and the information, the sum of p (1 − p), that each knot requires.
NUM_KNOTS = (8, 16, 32)
_INFORMATION_PER_KNOT = 25.0
# Rows of one label and fold with nearly the same logit are grouped, which saves time.
_MAX_GROUPS = 1_000


def choose(labels: np.ndarray, logits: np.ndarray, folds: np.ndarray) -> curves.Curve:
    """Fits Platt scaling, or an isotonic curve if that is better on other rows.

    The isotonic curve is chosen if its cross-validated log loss is lower by more than the
    standard error of the difference.

    Args:
        labels: [N] 0 or 1.
        logits: [N] finite.
        folds: [N] integers; the same for rows that must stay together.

    Raises:
        ValueError: A logit is not finite.
    """
    rows, folds = _grouped(fitting.HeldOutLogits.unweighted(labels, logits), folds)
    platt = fitting.fit_platt(rows)
    information = float(np.sum(fitting.information_of(rows, platt.array(rows.logits))))
    allowed = [k for k in NUM_KNOTS if k * _INFORMATION_PER_KNOT <= information]
    if not allowed or len(np.unique(folds)) < 2:
        return platt
    losses = {k: _held_out_losses(rows, folds, k) for k in (0, *allowed)}
    best = min(allowed, key=lambda k: float(rows.weights @ losses[k]))
    improvement, total = losses[0] - losses[best], rows.weights.sum()
    mean = rows.weights @ improvement / total
    error = np.sqrt(rows.weights @ np.square(improvement - mean)) / total
    return fitting.fit_isotonic(rows, best) if mean > error else platt


def _grouped(
    rows: fitting.HeldOutLogits, folds: np.ndarray
) -> tuple[fitting.HeldOutLogits, np.ndarray]:
    """Groups rows of weight 1 into at most `_MAX_GROUPS` per fold and label; also returns folds."""
    groups, owners = [], []
    for fold in np.unique(folds):
        for label in (0.0, 1.0):
            z = np.sort(rows.logits[(folds == fold) & (rows.labels == label)])
            # Groups of nearly equal size, no more than rows.
            count = min(len(z), _MAX_GROUPS)
            first = np.arange(count) * len(z) // max(count, 1)
            weights = np.diff(first, append=len(z))
            groups.append((np.full(count, label), np.add.reduceat(z, first) / weights, weights))
            owners.append(np.full(count, fold))
    if not groups:
        return rows, folds
    labels, logits, weights = (np.concatenate(column) for column in zip(*groups, strict=True))
    return fitting.HeldOutLogits(labels, logits, weights), np.concatenate(owners)


def _held_out_losses(rows: fitting.HeldOutLogits, folds: np.ndarray, num_knots: int) -> np.ndarray:
    """Returns each row's log loss [N] under the curve fitted on the other folds.

    With 0 knots, the curve is Platt scaling.
    """
    losses = np.empty(len(rows.labels))
    for fold in np.unique(folds):
        held_out = folds == fold
        rest = rows.take(~held_out)
        curve = fitting.fit_isotonic(rest, num_knots) if num_knots else fitting.fit_platt(rest)
        z = curve.array(rows.logits[held_out])
        losses[held_out] = np.logaddexp(0.0, z) - rows.labels[held_out] * z
    return losses
