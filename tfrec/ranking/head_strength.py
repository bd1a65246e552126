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
# Standard errors, and calibration errors of a calibrated model, that chance explains.
NUM_ERRORS = 2.0
NUM_CHANCE = 1.5
# Advice to collect more than this many times the rows would not help.
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


def weakness(own: HeadCounts) -> str | None:
    """Returns the reason why a head is weak and a remedy, or None if it is not weak."""
    rows = f"{own.positives:,} of {own.labeled:,} validation rows are positive"
    if not isinstance(own, HeadFigures):
        if 0 < own.positives == own.labeled:  # As the revenue of a log in which each row has some.
            return (
                f'{rows}, so it cannot be compared with a base rate. Set "weights" in the schema '
                "to use it."
            )
        if 0 < own.positives < own.labeled:
            rows = "its validation rows are all of one user or request"
        return f"{rows}, so it cannot be evaluated. A larger log would help."
    bound = own.normalized_entropy + NUM_ERRORS * own.normalized_entropy_error
    if bound >= 1:
        return (
            "it is not known to predict better than its base rate: its normalized entropy is "
            f"{own.normalized_entropy:.3f} ± {NUM_ERRORS * own.normalized_entropy_error:.3f}, and "
            f"the base rate has 1 ({rows}). {_what_would_help(own)}"
        )
    if own.off > own.max_off:
        return (
            f"it predicts {own.calibration_ratio:.2f} times what was observed ({rows}). A larger "
            "log, or one that ends nearer to today, would help."
        )
    if own.relative_error > CALIBRATION_TOLERANCE + own.relative_error_of_chance:
        return (
            f"its expected calibration error is {own.relative_error:.0%} of the mean label "
            f"({rows}). A larger log would help."
        )
    return None


def _what_would_help(figures: HeadFigures) -> str:
    """Returns how many positive rows would be enough, if the metric stayed the same, as text."""
    fields = "fewer fields or a higher min_count of their values"
    information = 1 - figures.normalized_entropy
    if information <= 0:
        return f"More positive rows would help, or {fields}."
    factor = (NUM_ERRORS * figures.normalized_entropy_error / information) ** 2
    if factor > _MAX_FACTOR:
        return f"Many more positive rows would help, or {fields}."
    needed = math.ceil(figures.positives * factor)
    return f"About {needed:,} positive validation rows would settle this, or {fields} may help."
