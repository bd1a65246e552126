"""Strictly increasing curves from a logit to a calibrated logit, as a SavedModel holds them.

Platt        scale · logit + offset
Isotonic     piecewise linear between knots, in steps that always rise

A curve never turns two candidates of one head round, nor ties them but for what float32 rounds
away. It is applied in operations that a stock TensorFlow Serving has.

References:
    Platt, Probabilistic Outputs for Support Vector Machines, 1999.
    Zadrozny and Elkan, Transforming Classifier Scores into Accurate Multiclass Probability
    Estimates, 2002 (isotonic regression; here with knots in place of steps).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Platt:
    """Scale, above 0, and offset of a logit."""

    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite([self.scale, self.offset]).all() and self.scale > 0):
            raise ValueError(f"Expected a finite offset and a finite scale above 0, got {self}.")

    def tensor(self, logits: tf.Tensor) -> tf.Tensor:
        """Returns calibrated logits, of any shape, float32."""
        return self.scale * logits + self.offset

    def array(self, logits: np.ndarray) -> np.ndarray:
        """Returns the same in float64."""
        return self.scale * np.asarray(logits, np.float64) + self.offset

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values."""
        return {"kind": "platt", "scale": self.scale, "offset": self.offset}


IDENTITY = Platt()


@dataclasses.dataclass(frozen=True)
class Isotonic:
    """A piecewise-linear curve.

    Attributes:
        knots: Two or more logits, strictly rising.
        values: The calibrated logit at each, strictly rising.
        lower_slope: Of the curve below the first knot, above 0.
        upper_slope: Of the curve above the last knot, above 0.
    """

    knots: tuple[float, ...]
    values: tuple[float, ...]
    lower_slope: float
    upper_slope: float

    def __post_init__(self) -> None:
        slopes = (self.lower_slope, self.upper_slope)
        if len(self.knots) < 2 or len(self.knots) != len(self.values):
            raise ValueError(f"Expected two or more knots, each with a value, got {self}.")
        if not np.isfinite([*self.knots, *self.values, *slopes]).all() or min(slopes) <= 0:
            raise ValueError(f"Expected finite numbers and slopes above 0, got {self}.")
        for rising in (self.knots, self.values):
            # What is served is float32: closer together, two knots would be one.
            if np.any(np.diff(np.array(rising, np.float32)) <= 0):
                raise ValueError(f"Expected strictly rising knots and values, got {rising}.")

    def tensor(self, logits: tf.Tensor) -> tf.Tensor:
        """Returns calibrated logits, of any shape, float32."""
        segment = tf.raw_ops.Bucketize(input=logits, boundaries=list(self.knots))
        # From the nearest knot on: sums of far-off terms would cost float32 its last digits.
        x, y, slope = tf.unstack(tf.gather(tf.constant(self._table, tf.float32), segment), axis=-1)
        return y + slope * (logits - x)

    def array(self, logits: np.ndarray) -> np.ndarray:
        """Returns the same in float64."""
        logits = np.asarray(logits, np.float64)
        x, y, slope = np.moveaxis(
            self._table[np.searchsorted(self.knots, logits, side="right")], -1, 0
        )
        return y + slope * (logits - x)

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values."""
        return {
            "kind": "isotonic",
            "knots": list(self.knots),
            "values": list(self.values),
            "lower_slope": self.lower_slope,
            "upper_slope": self.upper_slope,
        }

    @property
    def _table(self) -> np.ndarray:
        """[knots + 1, 3]: of each segment, a point on it and its slope."""
        x, y = np.array(self.knots), np.array(self.values)
        slopes = [self.lower_slope, *np.diff(y) / np.diff(x), self.upper_slope]
        return np.stack([np.append(x[0], x), np.append(y[0], y), slopes], axis=1)


Curve = Platt | Isotonic


def curve_from_json(value: Mapping[str, Any]) -> Curve:
    """The inverse of a curve's `to_json`; without a kind it is Platt.

    Raises:
        ValueError: It is no curve.
    """
    fields = dict(value)
    kind = fields.pop("kind", "platt")
    try:
        if kind == "platt":
            return Platt(**fields)
        if kind == "isotonic":
            knots, values = (tuple(fields.pop(name)) for name in ("knots", "values"))
            return Isotonic(knots, values, **fields)
    except (TypeError, KeyError) as error:
        raise ValueError(f"Not a calibration curve ({error}): {dict(value)}.") from error
    raise ValueError(f"Expected a curve of kind platt or isotonic, got {kind!r}.")
