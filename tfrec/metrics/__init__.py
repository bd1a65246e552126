"""Metrics in NumPy, with bootstrap intervals."""

from tfrec.metrics.bootstrap import (
    CONFIDENCE,
    Resamples,
    distance_interval,
    interval,
    point_estimate,
    samples_of_means,
)
from tfrec.metrics.definitions import (
    auc,
    calibration_bins,
    expected_calibration_error,
    gini,
    log_loss,
    log_losses,
    ndcg_of_lists,
    normalized_entropy,
    percentile_ranks,
    share_of_achievable,
)
from tfrec.metrics.resampled import (
    resampled_auc,
    resampled_calibration_error,
    resampled_ndcg,
    resampled_normalized_entropy,
    resampled_normalized_gini,
    resampled_per_user_auc,
    resampled_ratio,
)

__all__ = [
    "CONFIDENCE",
    "Resamples",
    "auc",
    "calibration_bins",
    "distance_interval",
    "expected_calibration_error",
    "gini",
    "interval",
    "log_loss",
    "log_losses",
    "ndcg_of_lists",
    "normalized_entropy",
    "percentile_ranks",
    "point_estimate",
    "resampled_auc",
    "resampled_calibration_error",
    "resampled_ndcg",
    "resampled_normalized_entropy",
    "resampled_normalized_gini",
    "resampled_per_user_auc",
    "resampled_ratio",
    "samples_of_means",
    "share_of_achievable",
]
