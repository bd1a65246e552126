"""The whole system on requests of the test split, compared with the ground truth.

Shapes: Q requests, N ads, K candidates.
"""

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfrec import calibration, ranking, retrieval
from tfrec.config import EvaluationConfig
from tfrec.evaluation import candidates, funnel, ground_truth, realized
from tfrec.heads import CLICK
from tfrecords import reader

UTILITY = "utility"
_MAX_SCORES = 1 << 22


@dataclasses.dataclass(frozen=True)
class _TrueOptimum:
    """The true values of some requests with all ads, reduced to what the report needs.

    Attributes:
        values: True values for the funnel.
        rows: Name of a utility -> [Q, 10] catalogue rows of the best ads.
        popular, random: [Q] true mean click probability of the popular ads, and of all ads.
    """

    values: funnel.TrueValues
    rows: dict[str, np.ndarray]
    popular: np.ndarray
    random: np.ndarray


def measure_whole_system(
    data_set: reader.DataSet,
    model: ranking.Ranker,
    calibrators: calibration.Calibrators,
    found: candidates.Candidates,
    truth: ground_truth.GroundTruth,
    config: EvaluationConfig,
) -> dict[str, Any]:
    """Measures the system on `truth.sample_requests`.

    Args:
        data_set: The converted log.
        model: The ranker.
        calibrators: The ranker's calibrators.
        found: The candidates of these requests.
        truth: The ground truth.
        config: Resamples and the seed.

    Returns:
        `funnel`: `funnel.measure` of the utility with the default weights and of clicks alone;
        `realised`: `realized.measure` of the system and of other choosers; `ten_ads`: mean true
        click probability of the ten ads of each chooser.
    """
    catalogue = data_set.catalogue()
    utilities = {UTILITY: candidates.default_weights(model), CLICK.label: {CLICK.label: 1.0}}
    order = ground_truth.catalogue_order(truth, catalogue)
    popular = retrieval.most_clicked(data_set, catalogue, candidates.LIST_LENGTH)
    optimum = _optimum(truth, order, found, utilities, popular)
    features = np.asarray(catalogue.features)
    queries = truth.encode(data_set, truth.sample_requests)
    keep_rate = data_set.schema.negative_keep_rate
    scores = candidates.score(model, calibrators, queries, features, found.filtered, keep_rate)
    num_requests, count = len(queries), min(candidates.LIST_LENGTH, len(catalogue))
    rng = np.random.default_rng(config.seed)
    drawn = [rng.choice(len(catalogue), count, replace=False) for _ in range(num_requests)]
    utility = candidates.utility(utilities[UTILITY], scores)
    lists = {
        "system": candidates.best_ten(found.filtered, utility),
        "optimum": optimum.rows[UTILITY],
        "retrieval_alone": found.filtered[:, : candidates.LIST_LENGTH],
        "popularity": np.broadcast_to(popular, (num_requests, count)),
        "random": np.array(drawn),
    }
    measured = funnel.measure(optimum.values, scores, utilities, config)
    return {
        "funnel": {"truth": "planted", "requests": num_requests, **measured},
        "realised": {
            "requests": num_requests,
            "slots": count,
            "choosers": realized.measure(truth, order, truth.sample_requests, lists, config),
        },
        "ten_ads": _ten_ads(optimum, measured[CLICK.label], count),
    }


def _ten_ads(optimum: _TrueOptimum, clicks: dict[str, Any], count: int) -> dict[str, float]:
    """Mean true click probability, in the first position, of ten ads chosen by clicks."""
    retrieved = optimum.values.filtered[CLICK.label]
    return {
        "requests": len(retrieved),
        "best_possible": clicks["best_possible"] / count,
        "best_of_the_candidates": float(funnel.sum_of_ten(retrieved).mean()) / count,
        "retrieval_then_ranker": clicks["returned"] / count,
        "retrieval_alone": float(retrieved[:, :count].sum(axis=1).mean()) / count,
        "popularity": float(optimum.popular.mean()),
        "random": float(optimum.random.mean()),
    }


def _optimum(
    truth: ground_truth.GroundTruth,
    order: np.ndarray,
    found: candidates.Candidates,
    utilities: Mapping[str, Mapping[str, float]],
    popular: np.ndarray,
) -> _TrueOptimum:
    """Computes the true values of all ads, for some requests at a time."""
    parts: dict[str, dict[str, list[np.ndarray]]] = collections.defaultdict(
        lambda: collections.defaultdict(list)
    )
    requests = truth.sample_requests
    for rows in retrieval.query_chunks(len(requests), len(order), _MAX_SCORES):
        chunk = requests.slice(rows.start, rows.stop - rows.start)
        values = ground_truth.value_matrices(truth, order, chunk)  # [q, N]
        for name, weights in utilities.items():
            utility = candidates.utility(weights, values)
            best = _best_rows(utility)
            parts["rows"][name].append(best)
            parts["best"][name].append(np.take_along_axis(utility, best, axis=1).sum(axis=1))
        for stage in ("tower", "index", "filtered"):
            own = getattr(found, stage)[rows]
            for head, matrix in values.items():
                parts[stage][head].append(np.take_along_axis(matrix, own, axis=1))
        clicks = values[CLICK.label]
        parts["mean"]["popular"].append(clicks[:, popular].mean(axis=1))
        parts["mean"]["random"].append(clicks.mean(axis=1))
    joined = {
        kind: {name: np.concatenate(arrays) for name, arrays in own.items()}
        for kind, own in parts.items()
    }
    true_values = funnel.TrueValues(
        joined["best"], joined["tower"], joined["index"], joined["filtered"]
    )
    return _TrueOptimum(true_values, joined["rows"], **joined["mean"])


def _best_rows(values: np.ndarray) -> np.ndarray:
    """Returns the rows [q, at most 10] of the greatest values [q, N], greatest first."""
    count = min(candidates.LIST_LENGTH, values.shape[1])
    rows = np.argpartition(-values, count - 1, axis=1)[:, :count]
    return np.take_along_axis(rows, np.argsort(-np.take_along_axis(values, rows, 1), axis=1), 1)
