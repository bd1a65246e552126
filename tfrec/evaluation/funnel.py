"""Where the value of the best possible ten ads is lost, with the planted truth.

The value of a list is the sum over its ads of the planted utility in the first slot: the
weighted sum of click probability, engagement probability and expected revenue. Each stage is
charged with what it takes from the best that was still possible:

    tower        best ten of all ads              − best ten of its exact 500
    index        best ten of the exact 500        − best ten of the index's 500
    filters      best ten of the index's 500      − best ten of those that filters leave
    ranker       best ten of what is left         − its ten, by recalibrated scores
    calibration  its ten, by recalibrated scores  − its ten, as they are served

so that the losses add up to what the system loses. Recalibrated: every head's scores replaced
by the rising function of them that fits the planted values of the candidates best. It keeps
each head's own order, and what it changes is only how heads are weighed against each other;
with one head it changes nothing. A loss may be negative: an index, filters or a badly
calibrated head can be lucky.

Shapes: Q requests, N ads, K candidates, H heads.

References:
    Zadrozny and Elkan, Transforming Classifier Scores into Accurate Multiclass Probability
    Estimates, 2002 (isotonic recalibration).
"""

import dataclasses
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
class Lists:
    """What the truth says of requests.

    Attributes:
        best: Name of a utility -> [Q] value of the best ten of all ads.
        tower, index, filtered: Head -> [Q, K] planted values of the candidates.
    """

    best: Values
    tower: Values
    index: Values
    filtered: Values


def measure(
    lists: Lists,
    scores: Values,
    utilities: Mapping[str, Mapping[str, float]],
    config: EvaluationConfig,
) -> dict[str, Any]:
    """Attributes the loss, once for each utility.

    Args:
        lists: The planted values.
        scores: Head -> [Q, K] served values of the candidates that filters leave.
        utilities: Name -> weight of each head.
        config: Resamples and their seed.

    Returns:
        For each utility, means over requests: `best_possible`, `lost` by `FUNNEL_STAGES`,
        `returned`, `share_returned`, their `intervals` and `weights`; and
        `ndcg_at_10_retrieved_lists` of each head and utility.
    """
    recalibrated = {head: recalibrate(own, lists.filtered[head]) for head, own in scores.items()}
    report = {
        name: _attribute(name, weights, lists, scores, recalibrated, config)
        for name, weights in utilities.items()
    }
    ndcg = {head: _ndcg(lists.filtered[head], own, config) for head, own in scores.items()}
    for name, weights in utilities.items():
        if len(weights) > 1:
            values, own = (candidates.utility(weights, v) for v in (lists.filtered, scores))
            ndcg[name] = _ndcg(values, own, config)
    return {**report, "ndcg_at_10_retrieved_lists": ndcg}


def recalibrate(scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns scores replaced by the rising function of them that fits values best.

    The function is the isotonic regression, joined by straight lines between the means of its
    steps so that the order inside a step is kept.

    Args:
        scores: Any shape.
        values: Alike.
    """
    if not scores.size:
        return scores
    order = np.argsort(scores, axis=None, kind="stable")
    x, y = scores.ravel()[order], values.ravel()[order]
    fitted = scipy.optimize.isotonic_regression(y)
    starts = fitted.blocks[:-1]
    size = np.diff(fitted.blocks)
    places = np.add.reduceat(x, starts) / size
    return np.interp(scores, places, fitted.x[starts])


def sum_of_ten(values: np.ndarray) -> np.ndarray:
    """Returns the sum [Q] of the ten greatest of values [Q, K]."""
    count = min(candidates.LIST_LENGTH, values.shape[1])
    if not count:
        return np.zeros(len(values))
    return np.partition(values, -count, axis=1)[:, -count:].sum(axis=1)


def _attribute(
    name: str,
    weights: Mapping[str, float],
    lists: Lists,
    scores: Values,
    recalibrated: Values,
    config: EvaluationConfig,
) -> dict[str, Any]:
    tower, index, filtered = (
        candidates.utility(weights, own) for own in (lists.tower, lists.index, lists.filtered)
    )  # [Q, K]
    served, fair = (candidates.utility(weights, own) for own in (scores, recalibrated))
    by_fair, by_served = (
        np.take_along_axis(filtered, columns, axis=1).sum(axis=1)
        for columns in (candidates.first_ten(fair, served), candidates.first_ten(served))
    )
    left = [
        lists.best[name],
        *(sum_of_ten(v) for v in (tower, index, filtered)),
        by_fair,
        by_served,
    ]
    lost = {s: left[i] - left[i + 1] for i, s in enumerate(FUNNEL_STAGES)}
    best, returned = left[0], left[-1]
    found = {
        "best_possible": _interval(best, config),
        "returned": _interval(returned, config),
        "share_returned": _share_interval(returned, best, config),
        **{f"lost_{stage}": _interval(values, config) for stage, values in lost.items()},
    }
    return {
        "weights": dict(weights),
        "best_possible": float(best.mean()),
        "lost": {stage: float(values.mean()) for stage, values in lost.items()},
        "returned": float(returned.mean()),
        "share_returned": float(returned.sum() / best.sum()) if best.any() else None,
        "intervals": {key: own for key, own in found.items() if own is not None},
    }


def _ndcg(values: np.ndarray, scores: np.ndarray, config: EvaluationConfig) -> dict[str, Any]:
    lengths = np.full(len(values), values.shape[1])
    own = metrics.ndcg_of_lists(values.ravel(), scores.ravel(), lengths, candidates.LIST_LENGTH)
    own = own[~np.isnan(own)]
    if not len(own):
        return {"value": None, "absent": "no list has two candidates", "interval": None}
    return {"value": float(own.mean()), "interval": _interval(own, config)}


def _interval(values: np.ndarray, config: EvaluationConfig) -> metrics.Interval | None:
    return metrics.mean_interval(values, config.resamples, config.seed)


def _share_interval(
    returned: np.ndarray, best: np.ndarray, config: EvaluationConfig
) -> metrics.Interval | None:
    resamples = metrics.Resamples(np.arange(len(best)), config.resamples, config.seed)
    return metrics.metric_interval(metrics.resampled_ratio(*resamples.sums(returned, best)))
