"""Measures trained models on the test split, and compares them with the ground truth.

Every metric names its corpus: ranker metrics are over logged impressions and logged lists,
retrieval metrics over the whole catalogue. With the ground truth of the synthetic world, each has
a ceiling, the same metric of the true probabilities on the same rows.

Shapes: L impressions of the split, N ads, Q requests, K candidates.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from tfrec import calibration, metrics, ranking, retrieval
from tfrec.config import EvaluationConfig
from tfrec.evaluation import (
    candidates,
    click_funnel,
    ground_truth,
    logged_quality,
    retrieval_comparison,
    segments,
)
from tfrec.evaluation.system_funnel import measure_whole_system
from tfrec.heads import HEADS
from tfrecords import reader
from tfrecords.schema import NUM_CANDIDATES

SPLIT = retrieval_comparison.SPLIT
OpenIndex = Callable[[np.ndarray], candidates.CandidateIndex]


@dataclasses.dataclass(frozen=True)
class Models:
    """The two trained stages."""

    two_tower: retrieval.TwoTower
    ranker: ranking.Ranker
    calibrators: calibration.Calibrators


def evaluate(
    data_set: reader.DataSet,
    models: Models,
    truth_log: pathlib.Path | None = None,
    config: EvaluationConfig | None = None,
    open_index: OpenIndex | None = None,
) -> dict[str, Any]:
    """Measures both stages.

    Args:
        data_set: The converted log.
        models: The trained stages.
        truth_log: Directory of the synthetic log that was converted; None: no ground truth.
        config: Resamples and segments; None: the defaults.
        open_index: Returns the index that serves ad embeddings [N, D]; None: exact search.

    Returns:
        JSON values: `ranker` (a dict per head), `segments`, `curves`, `retrieval`, `funnel`, and
        with ground truth `realised` and `ten_ads`. A metric that the split does not define, such
        as AUC without clicks, is None, and `absent` next to it says why.
    """
    config = config or EvaluationConfig()
    segments.check(config.segment_fields, data_set.schema)
    truth = ground_truth.load_ground_truth(truth_log, data_set) if truth_log is not None else None
    heads = models.ranker.heads
    both = (models.ranker, models.calibrators)
    logged = logged_quality.predict(data_set, *both, SPLIT, config)
    catalogue = data_set.catalogue()
    report: dict[str, Any] = {
        "split": SPLIT,
        "impressions": data_set.num_rows(SPLIT),
        "absent_heads": [h for h in HEADS if h not in heads],
        "intervals_are": {
            "confidence": metrics.CONFIDENCE,
            "resamples": logged.resamples.count,
            "of": "users" if logged.by_user else "requests",
        },
        "ranker": logged_quality.of_heads(logged, heads, truth),
        "segments": logged_quality.by_segment(logged, heads, data_set, catalogue, SPLIT, config),
        "curves": logged_quality.curves_of(logged, heads),
        "retrieval": retrieval_comparison.evaluate_retrieval(data_set, models.two_tower, truth),
    }
    return {**report, **evaluate_whole_system(data_set, models, truth, open_index, config)}


def evaluate_whole_system(
    data_set: reader.DataSet,
    models: Models,
    truth: ground_truth.GroundTruth | None,
    open_index: OpenIndex | None,
    config: EvaluationConfig,
) -> dict[str, Any]:
    """Measures the system from request to ten ads, by ground truth or else by held-out clicks.

    Args:
        data_set, models, open_index, config: See `evaluate`.
        truth: The ground truth, if known.

    Returns:
        `funnel`, and with ground truth `realised` and `ten_ads`.
    """
    features = np.asarray(data_set.catalogue().features)
    ads = retrieval.embed_in_batches(models.two_tower.ad_tower, features)
    index = None if open_index is None else open_index(ads)

    def found(queries: np.ndarray) -> candidates.Candidates:
        embedded = retrieval.embed_in_batches(models.two_tower.query_tower, queries)
        return candidates.find(embedded, ads, index)

    both = (models.ranker, models.calibrators)
    if truth is not None:
        of_truth = found(truth.encode(data_set, truth.sample_requests))
        report = measure_whole_system(data_set, *both, of_truth, truth, config)
    else:
        clicks = retrieval.read_clicks(data_set, SPLIT, click_funnel.MAX_CLICKS)
        report = {"funnel": dict(click_funnel.NO_CLICKS)}
        if len(clicks.ad_rows):
            of_clicks = found(clicks.query)
            report["funnel"] = click_funnel.measure(data_set, *both, clicks, of_clicks, config)
    report["funnel"] |= {
        "candidates": min(NUM_CANDIDATES, len(ads)),
        "ads": len(ads),
        "index": "exact search" if index is None else index.name,
        "filters": None if index is None else index.filters,
    }
    return report
