"""Measures trained models on the test split, beside what the planted truth reaches.

Every figure names its corpus: ranker metrics are over logged impressions and logged lists,
retrieval metrics over the whole catalogue. With the synthetic world's truth, each stands
beside its ceiling, the same metric of the true probabilities on the same rows.

Shapes: L impressions of the split, N ads, Q requests, K candidates.
"""

import collections
import dataclasses
import pathlib
from typing import Any

import numpy as np

from tfrec import calibrators as calibrators_lib
from tfrec import (
    metrics,
    planted,
    ranker,
    ranker_training,
    retrieval,
    retrieval_comparison,
)
from tfrecords import reader

SPLIT = retrieval_comparison.SPLIT
NUM_CANDIDATES = retrieval_comparison.NUM_CANDIDATES
_SCORES_AT_ONCE = 1 << 22
_SERVED = {
    "click": "click_probability",
    "engagement": "engagement_probability",
    "revenue": "expected_revenue",
}


@dataclasses.dataclass(frozen=True)
class Models:
    """The two trained stages."""

    two_tower: retrieval.TwoTower
    ranker: ranker.Ranker
    calibrators: calibrators_lib.Calibrators


def evaluate(
    data_set: reader.DataSet, models: Models, truth_log: pathlib.Path | None = None
) -> dict[str, Any]:
    """Measures both stages.

    Args:
        data_set: The converted log.
        models: The trained stages.
        truth_log: Directory of the synthetic log that the data set was converted from.

    Returns:
        JSON values: `ranker` (a dict a head), `retrieval`, and with truth `ten_ads`. A metric
        that the split does not allow, such as AUC without clicks, is None; a head of which
        the split has no labels has no metrics.
    """
    truth = planted.load(truth_log, data_set) if truth_log is not None else None
    report: dict[str, Any] = {
        "split": SPLIT,
        "impressions": data_set.num_rows(SPLIT),
        "absent_heads": [h for h in _SERVED if h not in models.ranker.heads],
        "ranker": _evaluate_ranker(data_set, models, truth),
        "retrieval": retrieval_comparison.evaluate(data_set, models.two_tower, truth),
    }
    if truth is not None:
        report["ten_ads"] = _evaluate_ten_ads(data_set, models, truth)
    return report


def _evaluate_ranker(
    data_set: reader.DataSet, models: Models, truth: planted.Truth | None
) -> dict[str, Any]:
    predictions = ranker_training.predict(models.ranker, data_set, SPLIT)
    served = ranker_training.served_values(predictions, models.calibrators)
    report: dict[str, dict[str, Any]] = {}
    for head in models.ranker.heads:
        labels, known, list_lengths = predictions.labelled(head)
        if not len(labels):
            report[head] = {"labelled": 0}
            continue
        measure = _revenue_metrics if head == "revenue" else _probability_metrics
        report[head] = dict(measure(labels, served[_SERVED[head]][known], list_lengths))
        if truth is None:
            continue
        ceiling = measure(labels, truth.rows[_SERVED[head]][known], list_lengths)
        report[head]["planted"] = ceiling
        report[head]["auc_share_of_achievable"] = metrics.share_of_achievable(
            report[head]["auc"], 0.5, ceiling["auc"]
        )
    return report


def _probability_metrics(
    labels: np.ndarray, probabilities: np.ndarray, list_lengths: np.ndarray
) -> dict[str, float | None]:
    return {
        "labelled": len(labels),
        "auc": metrics.auc(labels, probabilities),
        "normalized_entropy": metrics.normalized_entropy(labels, probabilities),
        "log_loss": metrics.log_loss(labels, probabilities),
        "expected_calibration_error": metrics.expected_calibration_error(labels, probabilities),
        "calibration_ratio": metrics.calibration_ratio(labels, probabilities),
        "ndcg_at_10_logged_lists": metrics.ndcg_at_k(labels, probabilities, list_lengths, 10),
    }


def _revenue_metrics(
    labels: np.ndarray, expected: np.ndarray, list_lengths: np.ndarray
) -> dict[str, float | None]:
    return {
        "labelled": len(labels),
        "auc": metrics.auc(labels > 0, expected),
        "normalized_gini": metrics.normalized_gini(labels, expected),
        "calibration_ratio": metrics.calibration_ratio(labels, expected),
        "ndcg_at_10_logged_lists": metrics.ndcg_at_k(labels, expected, list_lengths, 10),
    }


def _evaluate_ten_ads(
    data_set: reader.DataSet, models: Models, truth: planted.Truth
) -> dict[str, float]:
    """Mean planted click probability of ten ads a request, by who chose them."""
    catalogue = data_set.catalogue()
    ads = retrieval.embed_in_batches(models.two_tower.ad_tower, np.asarray(catalogue.features))
    requests = truth.sample_requests
    encoded = truth.encode(data_set, requests)  # [Q, Fq]
    embedded = retrieval.embed_in_batches(models.two_tower.query_tower, encoded)
    order = planted.catalogue_order(truth, catalogue)
    popular = np.argsort(-catalogue.clicks, kind="stable")[:10]
    sums: collections.Counter[str] = collections.Counter()
    for rows in retrieval.query_chunks(len(requests), len(catalogue), _SCORES_AT_ONCE):
        # Of the Q requests of a chunk.
        queries = requests.slice(rows.start, rows.stop - rows.start)
        probability = planted.click_matrix(truth, order, queries)  # [Q, N]
        candidates = retrieval.exact_top_k(embedded[rows], ads, NUM_CANDIDATES)  # [Q, K]
        ranked = _ranked(models.ranker, encoded[rows], np.asarray(catalogue.features), candidates)
        among_candidates = np.take_along_axis(probability, candidates, axis=1)
        means = {
            "best_possible": _largest_ten(probability).mean(axis=1),
            "best_of_the_candidates": _largest_ten(among_candidates).mean(axis=1),
            "retrieval_then_ranker": np.take_along_axis(probability, ranked, axis=1).mean(axis=1),
            "retrieval_alone": among_candidates[:, :10].mean(axis=1),
            "popularity": probability[:, popular].mean(axis=1),
            "random": probability.mean(axis=1),
        }
        sums.update({name: float(values.sum()) for name, values in means.items()})
    return {"requests": len(requests), **{name: s / len(requests) for name, s in sums.items()}}


def _ranked(
    model: ranker.Ranker, encoded: np.ndarray, features: np.ndarray, candidates: np.ndarray
) -> np.ndarray:
    """Returns the ten of the candidates [Q, K] that the ranker puts first: [Q, 10]."""
    scores = np.concatenate(
        [
            model.score(encoded[i : i + 8], features[candidates[i : i + 8]])["click"]
            for i in range(0, len(encoded), 8)
        ]
    )
    return np.take_along_axis(candidates, np.argsort(-scores, axis=1)[:, :10], axis=1)


def _largest_ten(values: np.ndarray) -> np.ndarray:
    count = min(10, values.shape[1])
    return np.partition(values, -count, axis=1)[:, -count:]
