"""Where the value of the best possible ten ads is lost, by the ground truth.

The value of a list is the sum over its ads of the true utility in the first position: the
weighted sum of click probability, engagement probability and expected revenue. Each stage is
charged with the difference to the best that was still possible:

    tower        best ten of all ads              − best ten of its exact 500
    index        best ten of the exact 500        − best ten of the index's 500
    filters      best ten of the index's 500      − best ten of those that filters leave
    ranker       best ten of those                − its ten, by recalibrated scores
    calibration  its ten, by recalibrated scores  − its ten, by served scores

so the losses add up to the loss of the system. Recalibrated scores are the rising function of
each head's scores that fits the true values of the candidates best. They keep each head's order
and change only how heads are weighed; with one head they change nothing. A loss may be negative:
an index, filters or a badly calibrated head can be lucky.

Shapes: Q requests, N ads, K candidates, S samples.

References:
    Zadrozny and Elkan, Transforming Classifier Scores into Accurate Multiclass Probability
    Estimates, 2002 (isotonic recalibration).
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.optimize

from tfrec import metrics
from tfrec.config import EvaluationConfig
from tfrec.evaluation import candidates

FUNNEL_STAGES = ("tower", "index", "filters", "ranker", "calibration")
Values = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class TrueValues:
    """The true values of the ads of requests.

    Attributes:
        best: Name of a utility -> [Q] value of the best ten of all ads.
        tower, index, filtered: Head -> [Q, K] true values of the candidates.
    """

    best: Values
    tower: Values
    index: Values
    filtered: Values


def measure(
    truth: TrueValues,
    scores: Values,
    utilities: Mapping[str, Mapping[str, float]],
    config: EvaluationConfig,
) -> dict[str, Any]:
    """Attributes the loss to stages, for each utility.

    Args:
        truth: The true values.
        scores: Head -> [Q, K] served values of the candidates that filters leave.
        utilities: Name -> weight of each head.
        config: Resamples and their seed.

    Returns:
        For each utility, means over requests: `best_possible`, `lost` by `FUNNEL_STAGES`,
        `returned`, `share_returned`, their `intervals` and `weights`; and
        `ndcg_at_10_retrieved_lists` of each head and utility.
    """
    recalibrated = {head: recalibrate(own, truth.filtered[head]) for head, own in scores.items()}
    report = {
        name: _attribute(name, weights, truth, scores, recalibrated, config)
        for name, weights in utilities.items()
    }
    ndcg = {head: _ndcg(truth.filtered[head], own, config) for head, own in scores.items()}
    for name, weights in utilities.items():
        if len(weights) > 1:
            values, own = (candidates.utility(weights, v) for v in (truth.filtered, scores))
            ndcg[name] = _ndcg(values, own, config)
    return {**report, "ndcg_at_10_retrieved_lists": ndcg}


def recalibrate(scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the rising function of scores that fits values best.

    The function is the isotonic regression, interpolated between the means of its steps so that
    the order inside a step is kept.

    Args:
        scores: Any shape.
        values: The same shape.
    """
    if not scores.size:
        return scores
    order = np.argsort(scores, axis=None, kind="stable")
    x, y = scores.ravel()[order], values.ravel()[order]
    fitted = scipy.optimize.isotonic_regression(y)
    starts = fitted.blocks[:-1]
    means = np.add.reduceat(x, starts) / np.diff(fitted.blocks)
    return np.interp(scores, means, fitted.x[starts])


def sum_of_ten(values: np.ndarray) -> np.ndarray:
    """Returns the sum [Q] of the ten greatest of values [Q, K]."""
    count = min(candidates.LIST_LENGTH, values.shape[1])
    if not count:
        return np.zeros(len(values))
    return np.partition(values, -count, axis=1)[:, -count:].sum(axis=1)


def _attribute(
    name: str,
    weights: Mapping[str, float],
    truth: TrueValues,
    scores: Values,
    recalibrated: Values,
    config: EvaluationConfig,
) -> dict[str, Any]:
    tower, index, filtered = (
        candidates.utility(weights, own) for own in (truth.tower, truth.index, truth.filtered)
    )  # [Q, K]
    served, fair = (candidates.utility(weights, own) for own in (scores, recalibrated))
    by_fair, by_served = (
        candidates.best_ten(filtered, *keys).sum(axis=1) for keys in ((fair, served), (served,))
    )
    left = [truth.best[name], *map(sum_of_ten, (tower, index, filtered)), by_fair, by_served]
    best, returned = left[0], left[-1]
    lost = dict(zip(FUNNEL_STAGES, (a - b for a, b in itertools.pairwise(left)), strict=True))
    means = metrics.samples_of_means(config.resamples, config.seed, best, returned, *lost.values())
    samples = dict(zip(("best_possible", "returned", *lost), means, strict=True))
    samples["share_returned"] = metrics.resampled_ratio(
        samples["returned"], samples["best_possible"]
    )
    values = {key: metrics.point_estimate(own) for key, own in samples.items()}
    named = {f"lost_{key}" if key in lost else key: own for key, own in samples.items()}
    return {
        "weights": dict(weights),
        "best_possible": values["best_possible"],
        "lost": {stage: values[stage] for stage in FUNNEL_STAGES},
        "returned": values["returned"],
        "share_returned": values["share_returned"],
        "intervals": metrics.intervals(named),
    }


def _ndcg(values: np.ndarray, scores: np.ndarray, config: EvaluationConfig) -> dict[str, Any]:
    lengths = np.full(len(values), values.shape[1])
    own = metrics.ndcg_of_lists(values.ravel(), scores.ravel(), lengths, candidates.LIST_LENGTH)
    own = own[~np.isnan(own)]
    if not len(own):
        return {"value": None, "absent": "no list has two candidates", "interval": None}
    (samples,) = metrics.samples_of_means(config.resamples, config.seed, own)
    return {"value": metrics.point_estimate(samples), "interval": metrics.interval(samples)}
