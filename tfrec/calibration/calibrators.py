"""The calibrators of the heads, fitted on held-out rows and part of the ranker's SavedModel.

A probability is calibrated through its logit, a probability after a click through its logit given a
click, and an amount in two parts: the logit of being positive, and the amount if it is.

Shapes: L shown ads with known or missing (NaN) labels; R requests.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import tensorflow as tf

from tfrec import layers
from tfrec.calibration import choice, fitting
from tfrec.calibration.curves import IDENTITY, Curve, Platt, curve_from_json
from tfrec.heads import CLICK, HEADS, HeadKind

NUM_FOLDS = 5


@dataclasses.dataclass(frozen=True)
class Calibrators:
    """The calibrators of a ranker.

    Attributes:
        curves: Head -> curve of the logit of a positive label; of the logit given a click for a
            head after a click. A missing head is not calibrated.
        amounts: Head -> linear map of the log-mean of its amount.
    """

    curves: Mapping[str, Curve] = dataclasses.field(default_factory=dict)
    amounts: Mapping[str, Platt] = dataclasses.field(default_factory=dict)

    def calibrated(self, logits: layers.Logits) -> layers.Logits:
        """Returns calibrated logits, in the shapes of the ranker's."""
        return {head: self._calibrated(head, head_logits) for head, head_logits in logits.items()}

    def _calibrated(self, head: str, logits: tf.Tensor) -> tf.Tensor:
        curve = self.curves.get(head, IDENTITY)
        if not HEADS[head].is_amount:
            return curve.tensor(logits)
        positive, mean, scale = tf.unstack(logits, axis=-1)
        line = self.amounts.get(head, IDENTITY)
        return tf.stack([curve.tensor(positive), line.tensor(mean), scale], axis=-1)

    def apply(self, logits: layers.Logits) -> dict[str, tf.Tensor]:
        """Returns the calibrated `layers.head_outputs`."""
        return layers.head_outputs(self.calibrated(logits))

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values."""
        return {
            field.name: {head: curve.to_json() for head, curve in getattr(self, field.name).items()}
            for field in dataclasses.fields(self)
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Inverts `to_json`.

        Raises:
            ValueError: The value does not contain calibrators.
        """
        parsed: dict[str, Any] = {
            name: {head: curve_from_json(curve) for head, curve in curves.items()}
            for name, curves in value.items()
        }
        try:
            return cls(**parsed)
        except TypeError as error:
            raise ValueError(f"Not the calibrators of a ranker: {error}.") from error


def calibrated_logits(logits: Mapping[str, np.ndarray], calibrators: Calibrators) -> layers.Logits:
    """Returns the calibrated logits of each head."""
    return calibrators.calibrated({head: tf.constant(values) for head, values in logits.items()})


def calibrated_values(
    logits: Mapping[str, np.ndarray], calibrators: Calibrators
) -> dict[str, np.ndarray]:
    """Returns the calibrated `layers.head_outputs` [L] of logits."""
    outputs = layers.head_outputs(calibrated_logits(logits, calibrators))
    return {name: values.numpy() for name, values in outputs.items()}


def fold_of_rows(list_lengths: np.ndarray) -> np.ndarray:
    """Splits rows into runs of whole requests, in the log's order, with about as many rows each.

    Runs are used instead of random rows because neighboring rows are similar, and a fold should
    differ from the others as later rows differ from earlier ones.

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
        logits: Head -> [L], or [L, 3] of an amount.
        labels: Head -> [L]; NaN where missing.
        folds: [L] folds, to choose the kind of each curve by cross-validation.

    Raises:
        ValueError: A logit is not finite.
    """
    clicked = labels[CLICK.label] > 0
    curves: dict[str, Curve] = {}
    amounts: dict[str, Platt] = {}
    for head, head_logits in logits.items():
        rows = ~np.isnan(labels[head])
        if HEADS[head].kind == HeadKind.PROBABILITY_AFTER_CLICK:
            rows &= clicked
        positive = (labels[head][rows] > 0).astype(float)
        try:
            logit = layers.positive_logits(head, head_logits)[rows]
            curves[head] = choice.choose(positive, logit, folds[rows])
        except ValueError as error:
            raise ValueError(f"{head}: {error}") from error
        if HEADS[head].is_amount:
            amounts[head] = _amount_line(head, head_logits[rows], labels[head][rows], curves[head])
    return Calibrators(curves, amounts)


def _amount_line(head: str, logits: np.ndarray, amounts: np.ndarray, curve: Curve) -> Platt:
    """Fits the line of the log-mean, shifted so that expected amounts sum to the observed ones."""
    paid = amounts > 0
    line = fitting.fit_line(np.log(amounts[paid]), logits[paid, 1])
    before = Calibrators({head: curve}, {head: line}).apply({head: tf.constant(logits)})
    factor = fitting.fit_factor(amounts, before[HEADS[head].output].numpy())
    return Platt(line.scale, line.offset + math.log(factor))


def cross_fitted_logits(
    logits: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], folds: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns calibrated logits, in each fold by calibrators fitted on the other folds."""
    result = {head: np.empty_like(values) for head, values in logits.items()}
    for fold in np.unique(folds):
        held_out = folds == fold
        calibrators = fit_calibrators(
            _take(logits, ~held_out), _take(labels, ~held_out), folds[~held_out]
        )
        for head, values in calibrated_logits(_take(logits, held_out), calibrators).items():
            result[head][held_out] = values.numpy()
    return result


def _take(columns: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[rows] for name, values in columns.items()}
