"""One calibrator a head, fitted on held-out rows and baked into the ranker's SavedModel.

Shapes: L shown ads with known or missing (NaN) labels.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import tensorflow as tf

from tfrec import calibration, ranker


@dataclasses.dataclass(frozen=True)
class Calibrators:
    """One calibrator a head; engagement is calibrated given a click."""

    click: calibration.Platt = calibration.IDENTITY
    engagement: calibration.Platt = calibration.IDENTITY
    revenue_factor: float = 1.0

    def apply(self, logits: ranker.Logits) -> dict[str, tf.Tensor]:
        """Returns the calibrated served values of `ranker.probabilities`."""
        scaled = dict(logits)
        scaled["click"] = self.click.scale * logits["click"] + self.click.offset
        if "engagement" in logits:
            scaled["engagement"] = (
                self.engagement.scale * logits["engagement"] + self.engagement.offset
            )
        served = ranker.probabilities(scaled)
        if "expected_revenue" in served:
            served["expected_revenue"] *= self.revenue_factor
        return served

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(
            calibration.Platt(**value["click"]),
            calibration.Platt(**value["engagement"]),
            value["revenue_factor"],
        )


def served_values(
    logits: Mapping[str, np.ndarray], calibrators: Calibrators
) -> dict[str, np.ndarray]:
    """Returns the calibrated probabilities and expected revenue [L] of logits."""
    tensors = {head: tf.constant(values) for head, values in logits.items()}
    return {name: value.numpy() for name, value in calibrators.apply(tensors).items()}


def fit(logits: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]) -> Calibrators:
    """Fits calibrators on held-out rows.

    Args:
        logits: `click` [L], `engagement` [L], `revenue` [L, 3]; those of the heads built.
        labels: `click`, `engagement`, `revenue` [L]; NaN where missing.
    """
    known = {head: ~np.isnan(values) for head, values in labels.items()}
    click = calibration.fit_platt(labels["click"][known["click"]], logits["click"][known["click"]])
    engagement = calibration.Platt()
    if "engagement" in logits:
        clicked = (labels["click"] > 0) & known["engagement"]
        engagement = calibration.fit_platt(
            labels["engagement"][clicked], logits["engagement"][clicked]
        )
    factor = 1.0
    if "revenue" in logits:
        raw = served_values(logits, Calibrators())["expected_revenue"]
        factor = calibration.fit_scale(labels["revenue"][known["revenue"]], raw[known["revenue"]])
    return Calibrators(click, engagement, factor)
