"""Calibrated heads: curves fitted on held-out rows."""

from tfrec.calibration.calibrators import (
    Calibrators,
    calibrated_logits,
    calibrated_values,
    cross_fitted_logits,
    fit_calibrators,
    fold_of_rows,
)

__all__ = [
    "Calibrators",
    "calibrated_logits",
    "calibrated_values",
    "cross_fitted_logits",
    "fit_calibrators",
    "fold_of_rows",
]
