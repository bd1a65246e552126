"""Measures trained models on the test split, and compares them with the ground truth.

Every metric names its corpus: ranker metrics are over logged impressions and logged lists,
retrieval metrics over the whole catalog. With the ground truth of the synthetic world, each has
a ceiling, the same metric of the true probabilities on the same rows.

Shapes: L impressions of the split, N ads, Q requests, K candidates.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.sparse

from tfrec import calibration, metrics, ranking, retrieval
from tfrec.config import EvaluationConfig
from tfrec.evaluation import (
    candidates,
    funnel,
    ground_truth,
    logged_quality,
    report,
    retrieval_comparison,
    segments,
)
from tfrec.evaluation.ground_truth import SPLIT
from tfrec.heads import CLICK, HEADS
from tfrecords import reader
from tfrecords.schema import NUM_CANDIDATES

UTILITY = "utility"
OpenIndex = Callable[[np.ndarray], candidates.CandidateIndex]


@dataclasses.dataclass(frozen=True)
class Models:
    """The trained stages.

    Attributes:
        two_tower: Stage one.
        ranker: Stage two; None: ads stay in retrieval order.
        calibrators: Calibrators of the ranker's heads.
        judged: Weights and weaknesses of the heads; None: all have weight 1, and none is weak.
    """

    two_tower: retrieval.RetrievalModel
    ranker: ranking.RankingModel | None = None
    calibrators: calibration.Calibrators = dataclasses.field(
        default_factory=calibration.Calibrators
    )
    judged: ranking.JudgedHeads | None = None

    @property
    def heads(self) -> ranking.JudgedHeads:
        """Weights and weaknesses of the heads."""
        present = () if self.ranker is None else tuple(self.ranker.heads)
        return self.judged or ranking.JudgedHeads.equal(present)


def evaluate(
    data_set: reader.DataSet,
    models: Models,
    truth_log: pathlib.Path | None = None,
    config: EvaluationConfig | None = None,
    open_index: OpenIndex | None = None,
) -> report.EvaluationReport:
    """Measures both stages.

    Args:
        data_set: The converted log.
        models: The trained stages.
        truth_log: Directory of the synthetic log that was converted; None: no ground truth.
        config: Resamples and segments; None: the defaults.
        open_index: Returns the index that serves ad embeddings [N, D]; None: exact search.

    Raises:
        FileNotFoundError, ValueError: The ground truth is missing or belongs to another log, or the
            config names segments that the log does not have.
    """
    config = config or EvaluationConfig()
    segments.check_segments(config.segment_fields, data_set.schema)
    truth = ground_truth.load_ground_truth(truth_log, data_set) if truth_log is not None else None
    judged = models.heads
    ranker, curves, shown = {}, {}, {}
    by_segment = report.SegmentQuality(by=[], heads={}, absent={})
    num_resamples = config.resamples
    if models.ranker is not None:
        logged = logged_quality.predict(data_set, models.ranker, models.calibrators, config)
        num_resamples = logged.resamples.count
        ranker = logged_quality.measure_heads(logged, truth)
        by_segment = logged_quality.by_segment(logged, data_set, config)
        curves = logged_quality.curves_of(logged)
        shown = logged_quality.order_of_shown_ads(logged, data_set, models.two_tower)
    retrieved = retrieval_comparison.evaluate_retrieval(
        data_set, models.two_tower, truth, config=config
    )
    return report.EvaluationReport(
        split=SPLIT,
        impressions=data_set.num_rows(SPLIT),
        absent_heads=[head for head in HEADS if ranker and head not in ranker],
        unnamed_heads=[head for head in HEADS if head not in data_set.spec.labels],
        weak_heads=dict(judged.weak),
        weights=dict(judged.weights),
        weights_source=judged.source,
        without_ranker=ranking.without_ranker(data_set) if models.ranker is None else None,
        intervals=report.IntervalMethod(
            confidence=metrics.CONFIDENCE,
            resamples=num_resamples,
            units="users" if data_set.spec.has_user else "requests",
        ),
        ranker=ranker,
        segments=by_segment,
        curves=curves,
        order_of_shown_ads=shown,
        retrieval=retrieved,
        funnel=evaluate_whole_system(data_set, models, truth, open_index, config),
    )


def evaluate_whole_system(
    data_set: reader.DataSet,
    models: Models,
    truth: ground_truth.GroundTruth | None,
    open_index: OpenIndex | None,
    config: EvaluationConfig,
) -> report.ValueFunnel | report.ClickFunnel:
    """Measures the system from request to ten ads, by ground truth or else by held-out clicks.

    Without a ranker it is measured by clicks.

    Args:
        data_set: The converted log.
        models: The trained stages.
        truth: The ground truth, if known.
        open_index: Returns the index that serves ad embeddings [N, D]; None: exact search.
        config: Resamples and segments.
    """
    ads = retrieval.embed_in_batches(
        models.two_tower.ad_tower, np.asarray(data_set.catalog().features)
    )
    index = None if open_index is None else open_index(ads)
    setting: dict[str, Any] = {
        "candidates": min(NUM_CANDIDATES, len(ads)),
        "ads": len(ads),
        "index": "exact search" if index is None else index.name,
        "filters": None if index is None else index.filters,
    }

    def scored(
        queries: np.ndarray,
        weights: Mapping[str, float] | None = None,
        seen: scipy.sparse.csr_array | None = None,
    ) -> candidates.ScoredCandidates:
        embedded = models.two_tower.embed_queries(queries, weights)
        found = candidates.find(embedded, ads, index, seen)
        if models.ranker is None:
            return candidates.ScoredCandidates(found, {}, {})
        used = models.heads.weights if weights is None else weights
        return candidates.score(data_set, models.ranker, models.calibrators, used, queries, found)

    if truth is not None and models.ranker is not None:
        return _by_ground_truth(data_set, models, scored, truth, config, setting)
    clicks, seen = retrieval_comparison.read_clicks_on_unseen_ads(
        data_set, len(ads), funnel.MAX_CLICKS
    )
    setting["leaves_out_seen"] = seen is not None
    if not len(clicks.ad_rows):
        return report.ClickFunnel(clicks=0, absent="the split has no clicks", **setting)
    scored_clicks = scored(clicks.query, seen=seen)
    return funnel.measure_clicks(data_set, scored_clicks, clicks, seen, config, **setting)


def _by_ground_truth(
    data_set: reader.DataSet,
    models: Models,
    score: Callable[[np.ndarray, Mapping[str, float]], candidates.ScoredCandidates],
    truth: ground_truth.GroundTruth,
    config: EvaluationConfig,
    setting: dict[str, Any],
) -> report.ValueFunnel:
    """Measures the system on `truth.sample_requests`."""
    assert models.ranker is not None
    catalog = data_set.catalog()
    queries = truth.sample_queries
    order = ground_truth.catalog_order(truth, catalog)
    weights = {head: models.heads.weights[head] for head in models.ranker.heads}
    utilities = {UTILITY: weights, CLICK.label: {CLICK.label: 1.0}}
    some = funnel.requests_over_all_ads(len(queries), len(catalog))
    if len(some):
        all_scores = candidates.score_all_ads(
            data_set, models.ranker, models.calibrators, weights, queries[some]
        )
    popular = retrieval.most_clicked(data_set, catalog, min(candidates.LIST_LENGTH, len(catalog)))
    measured: dict[str, report.UtilityFunnel] = {}
    ndcg: dict[str, report.Estimate] = {}
    for name, utility in utilities.items():
        # The retrieved ads depend on the weights.
        scored = score(queries, utility)
        values = funnel.true_values(truth, order, scored.found, popular, utility)
        over_all_ads = None
        if len(some):
            over_all_ads = funnel.value_over_all_ads(truth, order, some, all_scores, utility)
        measured[name] = funnel.measure_value(values, scored.scores, utility, config, over_all_ads)
        if name == UTILITY:
            ndcg = funnel.measure_ndcg(values, scored.scores, name, utility, config)
    return report.ValueFunnel(
        requests=len(queries), utilities=measured, ndcg_at_10_retrieved_lists=ndcg, **setting
    )
