"""The clicks, engagements and revenue of lists of ads in the synthetic world, per request.

The ads are in positions 0 to 9; users of the world click less the further down. Expected values
are exact. Simulated values are one draw of the world's outcomes, with the same random numbers
for every list, as a day of traffic would show them.

Shapes: Q requests, P positions.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from tfrec import metrics
from tfrec.config import EvaluationConfig
from tfrec.evaluation import ground_truth

REALIZED_OUTCOMES = ("clicks", "engagements", "revenue")
_Outcomes = dict[str, np.ndarray]


def measure(
    truth: ground_truth.GroundTruth,
    order: np.ndarray,
    requests: pa.Table,
    lists: Mapping[str, np.ndarray],
    config: EvaluationConfig,
) -> dict[str, Any]:
    """Measures lists of ads by who chose them.

    Args:
        truth: The ground truth.
        order: [N] from `ground_truth.catalogue_order`.
        requests: Raw query fields [Q].
        lists: Name of the chooser -> catalogue rows [Q, P], the first in position 0.
        config: Resamples and the seed.

    Returns:
        For each chooser, means over requests: `REALIZED_OUTCOMES`, their `intervals`, and
        `simulated`, the same of one draw.
    """
    report = {}
    for name, rows in lists.items():
        shown = ground_truth.shown(truth, order, requests, rows)
        expected, drawn = _expected(shown), _draw(shown, truth, config.seed)
        means = metrics.samples_of_means(config.resamples, config.seed, *expected.values())
        samples = dict(zip(expected, means, strict=True))
        report[name] = {
            **{outcome: metrics.point_estimate(own) for outcome, own in samples.items()},
            "intervals": metrics.intervals(samples),
            "simulated": {outcome: float(values.mean()) for outcome, values in drawn.items()},
        }
    return report


def _expected(shown: ground_truth.Shown) -> _Outcomes:
    """Returns the expected outcomes [Q] of requests."""
    engagement = shown.click * shown.engagement_given_click
    return _summed(shown.click, engagement, engagement * shown.revenue_given_engagement)


def _draw(shown: ground_truth.Shown, truth: ground_truth.GroundTruth, seed: int) -> _Outcomes:
    """Draws outcomes [Q] of requests."""
    rng, shape = np.random.default_rng(seed), shown.click.shape
    click = rng.random(shape) < shown.click
    engagement = click & (rng.random(shape) < shown.engagement_given_click)
    sigma = truth.world.config.revenue_sigma
    # A log-normal factor with mean 1.
    factor = np.exp(sigma * rng.standard_normal(shape) - sigma**2 / 2)
    revenue = np.where(engagement, shown.revenue_given_engagement * factor, 0.0)
    return _summed(click, engagement, revenue)


def _summed(*values: np.ndarray) -> _Outcomes:
    """Sums the values [Q, P] of each outcome over positions."""
    sums = (own.sum(axis=1).astype(float) for own in values)
    return dict(zip(REALIZED_OUTCOMES, sums, strict=True))
