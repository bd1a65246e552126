"""The clicks, engagements and revenue of lists of ads in the synthetic world, per request.

The ads are in positions 0 to 9; users of the world click less the further down. Expected values
are exact. Simulated values are one draw of the world's outcomes, with the same random numbers
for every list, as a day of traffic would show them.

Shapes: Q requests, P positions.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from tfrec import metrics
from tfrec.config import EvaluationConfig
from tfrec.evaluation import ground_truth, report

REALIZED_OUTCOMES = ("clicks", "engagements", "revenue")
_Outcomes = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Shown:
    """The true values of lists of ads in their positions: [Q, P] each.

    Attributes:
        click: Probability of a click.
        engagement_given_click: Probability of an engagement after one.
        revenue_given_engagement: Mean revenue of one.
    """

    click: np.ndarray
    engagement_given_click: np.ndarray
    revenue_given_engagement: np.ndarray


def shown(
    truth: ground_truth.GroundTruth, order: np.ndarray, requests: pa.Table, rows: np.ndarray
) -> Shown:
    """Returns the true values of lists of catalog rows [Q, P], the first in position 0."""
    num_positions = rows.shape[1]
    columns = ground_truth.query_columns(truth.world, requests)
    query = {name: np.repeat(values, num_positions, axis=0) for name, values in columns.items()}
    ads = {name: values[order[rows.ravel()]] for name, values in truth.world.ads.items()}
    position = np.tile(np.arange(num_positions), len(rows))
    world = truth.world
    values = (
        world.click_probability(query, ads, position),
        world.engagement_probability(query, ads),
        world.expected_revenue_given_engagement(query, ads),
    )
    return Shown(*(own.reshape(rows.shape) for own in values))


def measure(
    truth: ground_truth.GroundTruth,
    order: np.ndarray,
    lists: Mapping[str, np.ndarray],
    config: EvaluationConfig,
) -> report.RealizedValue:
    """Measures lists of ads for `truth.sample_requests`, by who chose them.

    Args:
        truth: The ground truth.
        order: [N] from `ground_truth.catalog_order`.
        lists: Name of the chooser -> catalog rows [Q, P], the first in position 0.
        config: Resamples and the seed.
    """
    requests = truth.sample_requests
    choosers = {}
    for name, rows in lists.items():
        values = shown(truth, order, requests, rows)
        expected, drawn = _expected(values), _draw(values, truth, config.seed)
        means = metrics.samples_of_means(config.resamples, config.seed, *expected.values())
        choosers[name] = {
            outcome: report.Outcome.of(own, simulated=float(drawn[outcome].mean()))
            for outcome, own in zip(expected, means, strict=True)
        }
    slots = max(rows.shape[1] for rows in lists.values())
    return report.RealizedValue(requests=len(requests), slots=slots, choosers=choosers)


def _expected(values: Shown) -> _Outcomes:
    """Returns the expected outcomes [Q] of requests."""
    engagement = values.click * values.engagement_given_click
    return _summed(values.click, engagement, engagement * values.revenue_given_engagement)


def _draw(values: Shown, truth: ground_truth.GroundTruth, seed: int) -> _Outcomes:
    """Draws outcomes [Q] of requests."""
    rng, shape = np.random.default_rng(seed), values.click.shape
    click = rng.random(shape) < values.click
    engagement = click & (rng.random(shape) < values.engagement_given_click)
    sigma = truth.world.config.revenue_sigma
    # A log-normal factor with mean 1.
    factor = np.exp(sigma * rng.standard_normal(shape) - sigma**2 / 2)
    revenue = np.where(engagement, values.revenue_given_engagement * factor, 0.0)
    return _summed(click, engagement, revenue)


def _summed(*values: np.ndarray) -> _Outcomes:
    """Sums the values [Q, P] of each outcome over positions."""
    sums = (own.sum(axis=1).astype(float) for own in values)
    return dict(zip(REALIZED_OUTCOMES, sums, strict=True))
