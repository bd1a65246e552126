"""Where the ranker's heads start: at the rates of the log.

A head that starts at even odds spends its first steps on finding the level, and what sees the
same rows, such as the slots' biases and common values of fields, takes a part of it that it
must give back; a small log ends before.

Shapes: L rows.

References:
    Karpathy, A Recipe for Training Neural Networks, 2019 ("init well").
"""

import math
from collections.abc import Mapping

import numpy as np

from tfrec import heads


def of(labels: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """Returns the biases by which heads without weights predict the means of some rows.

    Args:
        labels: `click`, `engagement`, `revenue` [L]; NaN where missing.
    """
    clicks = labels["click"]
    levels = {"click": [_logit(clicks)]}
    if "engagement" in labels:
        levels["engagement"] = [_logit(labels["engagement"][clicks == 1])]
    if "revenue" in labels:
        revenue = labels["revenue"][~np.isnan(labels["revenue"])]
        amounts = np.log(revenue[revenue > 0].astype(np.float64))
        mean, deviation = (amounts.mean(), amounts.std()) if len(amounts) else (0.0, 1.0)
        levels["revenue"] = [_logit(revenue > 0), float(mean), heads.raw_scale(float(deviation))]
    return levels


def _logit(labels: np.ndarray) -> float:
    """Returns the log odds of known labels, shrunk so that they are finite."""
    known = labels[~np.isnan(labels)] if labels.dtype != bool else labels
    positive = float(np.sum(known, dtype=np.float64))
    return math.log((positive + 0.5) / (len(known) - positive + 0.5))
