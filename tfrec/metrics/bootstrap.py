"""Bootstrap intervals of metrics, computed with weights instead of copied rows.

Rows of one request, or of one user, depend on each other, so whole units are drawn. A resample
gives each unit the number of times that it was drawn, and metrics take these weights. The first
sample is the data itself, with every weight 1: it gives the metric's value, and the others its
interval. Metrics of sums over rows cost one matrix product for all samples.

Shapes: N rows, U units, S samples (the data and its resamples), M sums.

References:
    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, §13 (percentiles), §10 (bias).
    Field and Welsh, Bootstrapping Clustered Data, 2007 (drawing units, not rows).
"""

from collections.abc import Iterator

import numpy as np

from tfrecords import terminal

CONFIDENCE = 0.95
# Maximum number of weights of samples and rows in memory.
_MAX_WEIGHTS = 1 << 22
Interval = list[float]


class Resamples:
    """The data and resamples of its units.

    Args:
        unit: [N] int, the unit of each row, from 0.
        count: Number of resamples, S - 1. Rows of a single unit have no resamples: every draw
            would be the same.
        seed: Seed of the draws; the same units and seed give the same resamples.
    """

    def __init__(self, unit: np.ndarray, count: int, seed: int) -> None:
        self.unit = unit
        self.count = count if bool((unit != unit[:1]).any()) else 0
        self.num_units = int(unit.max()) + 1 if len(unit) else 0
        self._seed = seed
        self._weights: np.ndarray | None = None

    @property
    def weights(self) -> np.ndarray:
        """[S, U] number of times that each unit was drawn, in the smallest integers that do."""
        if self._weights is None:
            self._weights = _drawn(self.num_units, self.count, self._seed)
        return self._weights[: 1 + self.count]

    def take(self, rows: np.ndarray) -> "Resamples":
        """Returns these resamples restricted to some rows [M], given by index."""
        taken = Resamples(self.unit[rows], self.count, self._seed)
        taken.num_units, taken._weights = self.num_units, self.weights
        return taken

    def sums(self, *values: np.ndarray) -> list[np.ndarray]:
        """Returns the sum [S] of each array of values [N] in each sample."""
        by_unit = np.stack(
            [np.bincount(self.unit, weights=v, minlength=self.num_units) for v in values], axis=1
        )  # [U, M]
        return self.sums_of_units(by_unit)

    def sums_of_units(self, by_unit: np.ndarray) -> list[np.ndarray]:
        """Returns the sum [S] of each column of values of units [U, M] in each sample."""
        size = max(_MAX_WEIGHTS // max(self.num_units, 1), 1)
        parts = [
            self.weights[first : first + size].astype(np.float64) @ by_unit
            for first in range(0, len(self.weights), size)
        ]
        return list(np.concatenate(parts).T)

    def row_weights(self, order: np.ndarray) -> Iterator[np.ndarray]:
        """Yields the weights [s, N] float32 of rows in an order, some samples at a time."""
        unit = self.unit[order]
        size = max(_MAX_WEIGHTS // max(len(order), 1), 1)
        for first in terminal.progress_steps(len(self.weights), size, "intervals", "resamples"):
            yield self.weights[first : first + size][:, unit].astype(np.float32)


def point_estimate(samples: np.ndarray) -> float | None:
    """Returns a metric's value of the data, the first of its values [S]; None if undefined."""
    return float(samples[0]) if np.isfinite(samples[0]) else None


def interval(samples: np.ndarray) -> Interval | None:
    """Returns the central 95 % of a metric's values [S], without the first, the data's value.

    None if most resamples have no value, or if all are equal: resamples of 0 of 5 are all 0, but
    another five rows would not be.
    """
    resampled = samples[1:]
    known = resampled[np.isfinite(resampled)]
    if len(known) <= len(resampled) / 2 or np.allclose(known, known[0], rtol=1e-9, atol=1e-12):
        return None
    tail = (1 - CONFIDENCE) / 2
    return [float(bound) for bound in np.quantile(known, (tail, 1 - tail))]


def distance_interval(samples: np.ndarray) -> Interval | None:
    """Returns the values that are as near to a metric's value as 95 % of the resamples are.

    Args:
        samples: [S] the metric's value of the data, and the distance of each resample from it.
    """
    if interval(samples) is None:
        return None
    value, distances = float(samples[0]), samples[1:]
    distance = float(np.quantile(distances[np.isfinite(distances)], CONFIDENCE))
    return [max(value - distance, 0.0), value + distance]


def samples_of_means(count: int, seed: int, *values: np.ndarray) -> list[np.ndarray]:
    """Returns the mean [S] in each sample of each array of values [U], one per unit.

    Args:
        count: Number of resamples.
        seed: Seed of the draws.
        *values: The values.
    """
    resamples = Resamples(np.arange(len(values[0])), count, seed)
    return [total / len(values[0]) for total in resamples.sums(*values)]


def _drawn(num_units: int, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weights = np.ones((1 + count, num_units), np.uint8)
    for resample in range(count if num_units else 0):
        drawn = np.bincount(rng.integers(num_units, size=num_units), minlength=num_units)
        if drawn.max() > np.iinfo(weights.dtype).max:
            weights = weights.astype(np.min_scalar_type(drawn.max()))
        weights[1 + resample] = drawn
    return weights
