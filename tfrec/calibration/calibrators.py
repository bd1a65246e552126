"""One calibrator a head, fitted on held-out rows and baked into the ranker's SavedModel.

Click is calibrated by its logit, engagement by its logit given a click, revenue in its two
parts: the logit of being positive, and the amount where it is.

Shapes: L shown ads with known or missing (NaN) labels; R requests.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import tensorflow as tf

from tfrec import heads
from tfrec.calibration import choice, fitting
from tfrec.calibration.curves import IDENTITY, Curve, Platt, curve_from_json

NUM_FOLDS = 5


@dataclasses.dataclass(frozen=True)
class Calibrators:
    """The calibrators of a ranker.

    Attributes:
        click: Of the click logit.
        engagement: Of the logit of engaging after a click.
        revenue: Of the logit of any revenue.
        amount: Of the log-normal's mean, which is of log revenue.
    """

    click: Curve = IDENTITY
    engagement: Curve = IDENTITY
    revenue: Curve = IDENTITY
    amount: Platt = IDENTITY

    def calibrated(self, logits: heads.Logits) -> dict[str, tf.Tensor]:
        """Returns calibrated logits, of the shapes of the ranker's."""
        result = {"click": self.click.tensor(logits["click"])}
        if "engagement" in logits:
            result["engagement"] = self.engagement.tensor(logits["engagement"])
        if "revenue" in logits:
            positive, mean, scale = tf.unstack(logits["revenue"], axis=-1)
            parts = [self.revenue.tensor(positive), self.amount.tensor(mean), scale]
            result["revenue"] = tf.stack(parts, axis=-1)
        return result

    def apply(self, logits: heads.Logits) -> dict[str, tf.Tensor]:
        """Returns the calibrated served values of `heads.probabilities`."""
        return heads.probabilities(self.calibrated(logits))

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values."""
        return {f.name: getattr(self, f.name).to_json() for f in dataclasses.fields(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
            ValueError: It holds no calibrators.
        """
        fields = dict(value)
        if "revenue_factor" in fields:  # as written before revenue had curves
            fields["amount"] = {"offset": math.log(fields.pop("revenue_factor"))}
        curves: dict[str, Any] = {n: curve_from_json(curve) for n, curve in fields.items()}
        try:
            return cls(**curves)
        except TypeError as error:
            raise ValueError(f"Not the calibrators of a ranker: {error}.") from error


def calibrated_values(
    logits: Mapping[str, np.ndarray], calibrators: Calibrators
) -> dict[str, np.ndarray]:
    """Returns the calibrated probabilities and expected revenue [L] of logits."""
    tensors = {head: tf.constant(values) for head, values in logits.items()}
    return {name: value.numpy() for name, value in calibrators.apply(tensors).items()}


def fold_of_rows(list_lengths: np.ndarray) -> np.ndarray:
    """Cuts rows into runs of whole requests, in the log's order, of about equally many rows.

    Runs rather than random rows: neighbours are alike, and what changes over time counts as
    what was not seen.

    Returns:
        [L] the fold of each row, below `NUM_FOLDS`.
    """
    lengths = np.asarray(list_lengths)
    middle = np.cumsum(lengths) - lengths / 2
    return np.repeat((middle * NUM_FOLDS / max(lengths.sum(), 1)).astype(int), lengths)


def fit_calibrators(
    logits: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], folds: np.ndarray
) -> Calibrators:
    """Fits calibrators on held-out rows.

    Args:
        logits: `click` [L], `engagement` [L], `revenue` [L, 3]; those of the heads built.
        labels: `click`, `engagement`, `revenue` [L]; NaN where missing.
        folds: [L] to choose the kind of each curve by cross-validation.

    Raises:
        ValueError: A logit is not finite.
    """

    def choose(head: str, target: np.ndarray, logit: np.ndarray, rows: np.ndarray) -> Any:
        try:
            return choice.choose(target[rows].astype(float), logit[rows], folds[rows])
        except ValueError as error:
            raise ValueError(f"{head}: {error}") from error

    known = {head: ~np.isnan(labels[head]) for head in logits}
    curves = {"click": choose("click", labels["click"], logits["click"], known["click"])}
    if "engagement" in logits:
        clicked = (labels["click"] > 0) & known["engagement"]
        curves["engagement"] = choose(
            "engagement", labels["engagement"], logits["engagement"], clicked
        )
    if "revenue" not in logits:
        return Calibrators(**curves)
    revenue, rows = labels["revenue"], known["revenue"]
    curves["revenue"] = choose("revenue", revenue > 0, logits["revenue"][:, 0], rows)
    paid = rows & (np.where(rows, revenue, 0.0) > 0)
    line = fitting.fit_line(np.log(revenue[paid]), logits["revenue"][paid, 1])
    before = calibrated_values(logits, Calibrators(**curves, amount=line))["expected_revenue"]
    factor = fitting.fit_factor(revenue[rows], before[rows])
    return Calibrators(**curves, amount=Platt(line.scale, line.offset + math.log(factor)))


def cross_fitted_logits(
    logits: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], folds: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns calibrated logits, those of each fold by calibrators fitted on the others."""
    result = {head: np.empty_like(values) for head, values in logits.items()}
    for fold in np.unique(folds):
        held_out = folds == fold
        calibrators = fit_calibrators(
            _taken(logits, ~held_out), _taken(labels, ~held_out), folds[~held_out]
        )
        tensors = {head: tf.constant(values[held_out]) for head, values in logits.items()}
        for head, values in calibrators.calibrated(tensors).items():
            result[head][held_out] = values.numpy()
    return result


def _taken(columns: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[rows] for name, values in columns.items()}
