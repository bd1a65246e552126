"""What lists of ads bring in the planted world: clicks, engagements and revenue of a request.

The ads stand in slots 0 to 9, where the world clicks less the further down. Expected values
are exact; simulated ones are one draw of the world's outcomes, with the same random numbers
for every list, as a day of traffic would show them.

Shapes: Q requests, S slots.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from tfrec import metrics
from tfrec.config import EvaluationConfig
from tfrec.evaluation import ground_truth

REALIZED_OUTCOMES = ("clicks", "engagements", "revenue")


def measure(
    truth: ground_truth.GroundTruth,
    order: np.ndarray,
    requests: pa.Table,
    lists: Mapping[str, np.ndarray],
    config: EvaluationConfig,
) -> dict[str, Any]:
    """Measures who chose which ads.

    Args:
        truth: The planted truth.
        order: [N] as `ground_truth.catalogue_order`.
        requests: Raw query fields [Q].
        lists: Who chose -> catalogue rows [Q, S], the first in slot 0.
        config: Resamples and the seed.

    Returns:
        For each of `lists`, means over requests: `REALIZED_OUTCOMES`, their `intervals`, and
        `simulated`, the same of one draw.
    """
    report = {}
    for name, rows in lists.items():
        shown = ground_truth.shown(truth, order, requests, rows)
        expected, drawn = _expected(shown), _draw(shown, truth, config.seed)
        found = {
            outcome: metrics.mean_interval(values, config.resamples, config.seed)
            for outcome, values in expected.items()
        }
        report[name] = {
            **{outcome: float(values.mean()) for outcome, values in expected.items()},
            "intervals": {key: own for key, own in found.items() if own is not None},
            "simulated": {outcome: float(values.mean()) for outcome, values in drawn.items()},
        }
    return report


def _expected(shown: ground_truth.Shown) -> dict[str, np.ndarray]:
    """Returns the expected outcomes [Q] of requests."""
    engagement = shown.click * shown.engagement_given_click
    revenue = engagement * shown.revenue_given_engagement
    values = (shown.click, engagement, revenue)
    return {name: own.sum(axis=1) for name, own in zip(REALIZED_OUTCOMES, values, strict=True)}


def _draw(
    shown: ground_truth.Shown, truth: ground_truth.GroundTruth, seed: int
) -> dict[str, np.ndarray]:
    """Draws outcomes [Q] of requests."""
    rng, shape = np.random.default_rng(seed), shown.click.shape
    click = rng.random(shape) < shown.click
    engagement = click & (rng.random(shape) < shown.engagement_given_click)
    sigma = truth.world.config.revenue_sigma
    # A log-normal whose mean is the planted one.
    spread = np.exp(sigma * rng.standard_normal(shape) - sigma**2 / 2)
    revenue = np.where(engagement, shown.revenue_given_engagement * spread, 0.0)
    values = (click, engagement, revenue)
    return {
        name: own.sum(axis=1).astype(float)
        for name, own in zip(REALIZED_OUTCOMES, values, strict=True)
    }
