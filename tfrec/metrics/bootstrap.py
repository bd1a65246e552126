"""Bootstrap intervals of metrics, by weights in place of copies.

Rows of one request, or of one user, depend on each other, so whole units are drawn: a resample
gives each unit the number of times it was drawn, and metrics take these weights. Metrics of sums
over rows cost one matrix product for all resamples.

Shapes: N rows, U units, S resamples, M sums.

References:
    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, §13 (percentiles), §10 (bias).
    Field and Welsh, Bootstrapping Clustered Data, 2007 (drawing units, not rows).
"""

from collections.abc import Iterator

import numpy as np

from tfrecords import terminal

CONFIDENCE = 0.95
# Of resamples times rows, at once.
_WEIGHTS_AT_ONCE = 1 << 22
_FEWEST_UNITS = 2
Interval = list[float]


class Resamples:
    """Resamples of the units of some rows.

    Args:
        unit: [N] int, which unit each row is of; units are numbered from 0.
        count: S. Rows of one unit have none: whichever were drawn, a metric would be the same.
        seed: Of the draws; the same units and seed give the same resamples.
    """

    def __init__(self, unit: np.ndarray, count: int, seed: int) -> None:
        self.unit = unit
        self.count = count if bool((unit != unit[:1]).any()) else 0
        self.num_units = int(unit.max()) + 1 if len(unit) else 0
        self._seed = seed
        self._weights: np.ndarray | None = None

    @property
    def weights(self) -> np.ndarray:
        """[S, U] how often each unit was drawn: bytes, or wider integers where these do not do."""
        if self._weights is None:
            self._weights = _drawn(self.num_units, self.count, self._seed)
        return self._weights

    def take(self, rows: np.ndarray) -> "Resamples":
        """Returns the same resamples, of some of the rows only."""
        taken = Resamples(self.unit[rows], self.count, self._seed)
        taken.num_units, taken._weights = self.num_units, self.weights
        return taken

    def sums(self, *values: np.ndarray) -> list[np.ndarray]:
        """Returns the sum [S] of each of some values [N] in each resample."""
        by_unit = np.stack(
            [np.bincount(self.unit, weights=v, minlength=self.num_units) for v in values], axis=1
        )  # [U, M]
        return self.sums_of_units(by_unit)

    def sums_of_units(self, by_unit: np.ndarray) -> list[np.ndarray]:
        """Returns the sum [S] of each column of values of units [U, M] in each resample."""
        size = max(_WEIGHTS_AT_ONCE // max(self.num_units, 1), 1)
        parts = [np.empty((0, by_unit.shape[1]))]
        for first in range(0, self.count, size):
            parts.append(self.weights[first : first + size].astype(np.float64) @ by_unit)
        return list(np.concatenate(parts).T)

    def row_weights(self, order: np.ndarray) -> Iterator[np.ndarray]:
        """Yields the weights [s, N] float32 of rows in an order, some resamples at a time."""
        unit = self.unit[order]
        size = max(_WEIGHTS_AT_ONCE // max(len(order), 1), 1)
        for first in terminal.progress_steps(self.count, size, "intervals", "resamples"):
            yield self.weights[first : first + size][:, unit].astype(np.float32)


def metric_interval(replicates: np.ndarray) -> Interval | None:
    """Returns the middle 95 % of a metric's values [S]; None where most resamples have none."""
    known = replicates[np.isfinite(replicates)]
    if len(known) <= len(replicates) / 2:
        return None
    tail = (1 - CONFIDENCE) / 2
    return [float(bound) for bound in np.quantile(known, (tail, 1 - tail))]


def biased_metric_interval(value: float, replicates: np.ndarray) -> Interval | None:
    """Returns the interval of a metric that noise makes greater, such as a calibration error.

    A resample is noisier than the data, as the data are noisier than the truth, so that
    percentiles would lie too high twice; they are mirrored at the value ("basic" bootstrap),
    and end at 0.
    """
    percentiles = metric_interval(replicates)
    if percentiles is None:
        return None
    low, high = percentiles
    return [max(2 * value - high, 0.0), max(2 * value - low, 0.0)]


def mean_interval(values: np.ndarray, count: int, seed: int) -> Interval | None:
    """Returns the interval of a mean of values [U], one of each unit; None of fewer than two."""
    if len(values) < _FEWEST_UNITS:
        return None
    resamples = Resamples(np.arange(len(values)), count, seed)
    (total,) = resamples.sums(values)
    return metric_interval(total / len(values))


def _drawn(num_units: int, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weights = np.empty((count, num_units), np.uint8)
    for resample in range(count if num_units else 0):
        drawn = np.bincount(rng.integers(num_units, size=num_units), minlength=num_units)
        if drawn.max() > np.iinfo(weights.dtype).max:
            weights = weights.astype(np.min_scalar_type(drawn.max()))
        weights[resample] = drawn
    return weights
