"""Strictly increasing curves from a logit to a calibrated logit, usable in a SavedModel.

Platt        scale · logit + offset
Isotonic     piecewise linear and increasing between knots

A curve never changes the order of two candidates by one head and, up to rounding in float32, never
ties them. It uses operations of an unmodified TensorFlow Serving.

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
    """Scale (above 0) and offset of a logit."""

    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite([self.scale, self.offset]).all() and self.scale > 0):
            raise ValueError(f"{self}: expected a finite offset and a finite scale above 0.")

    def tensor(self, logits: tf.Tensor) -> tf.Tensor:
        """Returns calibrated logits, of any shape, float32."""
        return self.scale * logits + self.offset

    def array(self, logits: np.ndarray) -> np.ndarray:
        """Returns calibrated logits, of any shape, float64; NumPy version of `tensor`."""
        return self.scale * np.asarray(logits, np.float64) + self.offset

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values."""
        return {"kind": "platt", "scale": self.scale, "offset": self.offset}


IDENTITY = Platt()


@dataclasses.dataclass(frozen=True)
class Isotonic:
    """A piecewise-linear curve.

    Attributes:
        knots: Two or more logits, strictly increasing.
        values: The calibrated logit at each knot, strictly increasing.
        lower_slope: Slope below the first knot, above 0.
        upper_slope: Slope above the last knot, above 0.
    """

    knots: tuple[float, ...]
    values: tuple[float, ...]
    lower_slope: float
    upper_slope: float

    def __post_init__(self) -> None:
        slopes = (self.lower_slope, self.upper_slope)
        if len(self.knots) < 2 or len(self.knots) != len(self.values):
            raise ValueError(f"{self}: expected two or more knots, each with a value.")
        if not np.isfinite([*self.knots, *self.values, *slopes]).all() or min(slopes) <= 0:
            raise ValueError(f"{self}: expected finite numbers and slopes above 0.")
        for rising in (self.knots, self.values):
            # Serving uses float32, in which closer knots would be equal.
            if np.any(np.diff(np.array(rising, np.float32)) <= 0):
                raise ValueError(f"{rising}: expected strictly increasing knots and values.")

    def tensor(self, logits: tf.Tensor) -> tf.Tensor:
        """Returns calibrated logits, of any shape, float32."""
        segment = tf.raw_ops.Bucketize(input=logits, boundaries=list(self.knots))
        # Relative to the nearest knot, since sums of large terms lose precision in float32.
        x, y, slope = tf.unstack(tf.gather(tf.constant(self._table, tf.float32), segment), axis=-1)
        return y + slope * (logits - x)

    def array(self, logits: np.ndarray) -> np.ndarray:
        """Returns calibrated logits, of any shape, float64; NumPy version of `tensor`."""
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
        """[knots + 1, 3]: a point and the slope of each segment."""
        x, y = np.array(self.knots), np.array(self.values)
        slopes = [self.lower_slope, *np.diff(y) / np.diff(x), self.upper_slope]
        return np.stack([np.append(x[0], x), np.append(y[0], y), slopes], axis=1)


Curve = Platt | Isotonic


def curve_from_json(value: Mapping[str, Any]) -> Curve:
    """Inverts a curve's `to_json`.

    Raises:
        ValueError: The value is not a curve.
    """
    fields = dict(value)
    kind = fields.pop("kind", None)
    try:
        if kind == "platt":
            return Platt(**fields)
        if kind == "isotonic":
            knots, values = (tuple(fields.pop(name)) for name in ("knots", "values"))
            return Isotonic(knots, values, **fields)
    except (TypeError, KeyError) as error:
        raise ValueError(f"Not a calibration curve ({error}): {dict(value)}.") from error
    raise ValueError(f"The curve has kind {kind!r}; expected platt or isotonic.")
