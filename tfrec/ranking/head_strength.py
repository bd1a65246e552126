"""Whether each head of a ranker is known to predict, from its metrics on the validation split.

A head is weak if it is not known to predict better than its base rate, or if its calibration is
off. It is served, but its scores should not decide the order of ads.

The metrics come from `ranker_validation.measure_heads`.
"""

import math
from collections.abc import Mapping
from typing import Any

import pydantic

# Tolerance of predicted / observed around 1, and of the calibration error as a share of the mean
# label.
CALIBRATION_TOLERANCE = 0.1
# How many standard errors, and how many times the calibration error of a calibrated model, chance
# explains.
NUM_ERRORS = 2.0
NUM_CHANCE = 1.5
# The advice names no number above this many times the rows.
_MAX_FACTOR = 1_000


class HeadCounts(pydantic.BaseModel):
    """The validation rows of a head.

    Nothing else is known if their labels are all equal, or if all are of one user or request.
    """

    model_config = pydantic.ConfigDict(frozen=True, use_attribute_docstrings=True)

    labeled: int
    """Number of rows with a known label."""
    positives: int
    """Number of labels above 0."""


class HeadFigures(HeadCounts):
    """The metrics of a head, as `measure_heads` describes them."""

    base_rate: float
    mean_label: float
    normalized_entropy: float
    normalized_entropy_error: float
    calibration_ratio: float
    calibration_ratio_error: float
    expected_calibration_error: float
    expected_calibration_error_of_chance: float

    @property
    def off(self) -> float:
        """Distance of predicted / observed from 1."""
        return abs(self.calibration_ratio - 1)

    @property
    def max_off(self) -> float:
        """Distance that a calibrated model may have."""
        return CALIBRATION_TOLERANCE + NUM_ERRORS * self.calibration_ratio_error

    @property
    def relative_error(self) -> float:
        """Expected calibration error as a share of the mean label."""
        return self.expected_calibration_error / self.mean_label

    @property
    def relative_error_of_chance(self) -> float:
        """Expected calibration error that chance explains, as a share of the mean label."""
        return NUM_CHANCE * self.expected_calibration_error_of_chance / self.mean_label


Figures = Mapping[str, HeadCounts]


def parse_figures(figures: Mapping[str, Mapping[str, Any]]) -> Figures:
    """Reads the JSON values of `measure_heads`, from a training or a manifest.

    Raises:
        ValueError: A metric is missing or of another type.
    """
    return {
        head: (HeadFigures if "normalized_entropy" in values else HeadCounts).model_validate(values)
        for head, values in figures.items()
    }


def weak_heads(figures: Figures) -> dict[str, str]:
    """Returns the weak heads, each with the reason and a remedy."""
    reasons = {head: weakness(counts) for head, counts in figures.items()}
    return {head: reason for head, reason in reasons.items() if reason is not None}


def weakness(figures: HeadCounts) -> str | None:
    """Returns the reason why a head is weak and a remedy, or None if it is not weak."""
    rows = f"{figures.positives:,} of {figures.labeled:,} validation rows are positive"
    if not isinstance(figures, HeadFigures):
        if 0 < figures.positives == figures.labeled:  # Such as revenue that every row has.
            return (
                f'{rows}, so it cannot be compared with a base rate. Set "weights" in the schema '
                "to use it."
            )
        if 0 < figures.positives < figures.labeled:
            rows = "its validation rows are all of one user or request"
        return f"{rows}, so it cannot be evaluated. A larger log would help."
    margin = NUM_ERRORS * figures.normalized_entropy_error
    if figures.normalized_entropy + margin >= 1:
        return (
            "it is not known to predict better than its base rate: its normalized entropy is "
            f"{figures.normalized_entropy:.3f} ± {margin:.3f}, and the base rate has 1 ({rows}). "
            f"{_advice(figures)}"
        )
    if figures.off > figures.max_off:
        return (
            f"it predicts {figures.calibration_ratio:.2f} times what was observed ({rows}). A "
            "larger log, or one that ends nearer to today, would help."
        )
    if figures.relative_error > CALIBRATION_TOLERANCE + figures.relative_error_of_chance:
        return (
            f"its expected calibration error is {figures.relative_error:.0%} of the mean label "
            f"({rows}). A larger log would help."
        )
    return None


def _advice(figures: HeadFigures) -> str:
    """Returns how many positive rows would be enough if the metric stayed the same, as text."""
    fields = "fewer fields or a higher min_count of their values"
    information = 1 - figures.normalized_entropy
    if information <= 0:
        return f"More positive rows would help, or {fields}."
    factor = (NUM_ERRORS * figures.normalized_entropy_error / information) ** 2
    if factor > _MAX_FACTOR:
        return f"Many more positive rows would help, or {fields}."
    needed = math.ceil(figures.positives * factor)
    return f"About {needed:,} positive validation rows would settle this, or {fields} may help."
