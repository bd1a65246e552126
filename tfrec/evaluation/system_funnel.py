"""The whole system on requests of the test split, beside what the planted truth allows.

Shapes: Q requests, N ads, K candidates.
"""

import collections
import dataclasses
from typing import Any

import numpy as np

from tfrec import calibration, ranking, retrieval
from tfrec.config import EvaluationConfig
from tfrec.evaluation import candidates, funnel, ground_truth, realized
from tfrecords import reader

UTILITY, CLICK = "utility", "click"
_SCORES_AT_ONCE = 1 << 22


@dataclasses.dataclass(frozen=True)
class _World:
    """The truth of some requests with all ads, reduced to what is needed.

    Attributes:
        lists: For the funnel.
        optimum: Name of a utility -> [Q, 10] catalogue rows of the best ads.
        popular, random: [Q] planted click probability of a chosen ad, on the mean.
    """

    lists: funnel.Lists
    optimum: dict[str, np.ndarray]
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
        calibrators: Its calibrators.
        found: The candidates of these requests.
        truth: The planted truth.
        config: Resamples and the seed.

    Returns:
        `funnel`: what `funnel.measure` gives of the utility with every weight 1 and of clicks
        alone; `realised`: what `realized.measure` gives of the system and of other choosers;
        `ten_ads`: mean planted click probability of ten ads, by who chose them, by clicks.
    """
    catalogue = data_set.catalogue()
    utilities = {UTILITY: dict.fromkeys(model.heads, 1.0), CLICK: {"click": 1.0}}
    order = ground_truth.catalogue_order(truth, catalogue)
    popular = retrieval.most_clicked(data_set, catalogue, candidates.LIST_LENGTH)
    world = _read_world(truth, order, found, utilities, popular)
    features = np.asarray(catalogue.features)
    queries = truth.encode(data_set, truth.sample_requests)
    keep_rate = data_set.schema.negative_keep_rate
    scores = candidates.score(model, calibrators, queries, features, found.filtered, keep_rate)
    ten = {
        name: np.take_along_axis(
            found.filtered, candidates.first_ten(candidates.utility(weights, scores)), axis=1
        )
        for name, weights in utilities.items()
    }
    num_requests = len(queries)
    rng = np.random.default_rng(config.seed)
    count = min(candidates.LIST_LENGTH, len(catalogue))
    drawn = [rng.choice(len(catalogue), count, replace=False) for _ in range(num_requests)]
    lists = {
        "system": ten[UTILITY],
        "optimum": world.optimum[UTILITY],
        "retrieval_alone": found.filtered[:, : candidates.LIST_LENGTH],
        "popularity": np.broadcast_to(popular, (num_requests, count)),
        "random": np.array(drawn),
    }
    measured = funnel.measure(world.lists, scores, utilities, config)
    return {
        "funnel": {"truth": "planted", "requests": num_requests, **measured},
        "realised": {
            "requests": num_requests,
            "slots": count,
            "choosers": realized.measure(truth, order, truth.sample_requests, lists, config),
        },
        "ten_ads": _ten_ads(world, measured[CLICK], count),
    }


def _ten_ads(world: _World, clicks: dict[str, Any], count: int) -> dict[str, float]:
    """Mean planted click probability, in the first slot, of ten ads chosen by clicks."""
    retrieved = world.lists.filtered["click"]
    return {
        "requests": len(retrieved),
        "best_possible": clicks["best_possible"] / count,
        "best_of_the_candidates": float(funnel.sum_of_ten(retrieved).mean()) / count,
        "retrieval_then_ranker": clicks["returned"] / count,
        "retrieval_alone": float(retrieved[:, :count].sum(axis=1).mean()) / count,
        "popularity": float(world.popular.mean()),
        "random": float(world.random.mean()),
    }


def _read_world(
    truth: ground_truth.GroundTruth,
    order: np.ndarray,
    found: candidates.Candidates,
    utilities: dict[str, dict[str, float]],
    popular: np.ndarray,
) -> _World:
    """Reads the truth of all ads, some requests at a time."""
    parts: dict[str, dict[str, list[np.ndarray]]] = collections.defaultdict(
        lambda: collections.defaultdict(list)
    )
    requests = truth.sample_requests
    for rows in retrieval.query_chunks(len(requests), len(order), _SCORES_AT_ONCE):
        chunk = requests.slice(rows.start, rows.stop - rows.start)
        values = ground_truth.value_matrices(truth, order, chunk)  # [q, N]
        for name, weights in utilities.items():
            utility = candidates.utility(weights, values)
            best = _best_rows(utility)
            parts["optimum"][name].append(best)
            parts["best"][name].append(np.take_along_axis(utility, best, axis=1).sum(axis=1))
        for stage in ("tower", "index", "filtered"):
            own = getattr(found, stage)[rows]
            for head, matrix in values.items():
                parts[stage][head].append(np.take_along_axis(matrix, own, axis=1))
        parts["click"]["popular"].append(values["click"][:, popular].mean(axis=1))
        parts["click"]["random"].append(values["click"].mean(axis=1))
    joined = {
        kind: {name: np.concatenate(arrays) for name, arrays in own.items()}
        for kind, own in parts.items()
    }
    lists = funnel.Lists(joined["best"], joined["tower"], joined["index"], joined["filtered"])
    return _World(lists, joined["optimum"], joined["click"]["popular"], joined["click"]["random"])


def _best_rows(values: np.ndarray) -> np.ndarray:
    """Returns the rows [q, at most 10] of the greatest values [q, N], greatest first."""
    count = min(candidates.LIST_LENGTH, values.shape[1])
    rows = np.argpartition(-values, count - 1, axis=1)[:, :count]
    return np.take_along_axis(rows, np.argsort(-np.take_along_axis(values, rows, 1), axis=1), 1)
