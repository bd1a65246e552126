"""The ranker's quality on logged impressions: each head, its ceiling, and segments.

Shapes: L impressions of the split, R requests, N rows with a head's label.
"""

import dataclasses
from typing import Any

import numpy as np

from tfrec import calibration, layers, metrics, ranking
from tfrec.config import EvaluationConfig
from tfrec.evaluation import curve_points, ground_truth, head_quality, segments
from tfrec.heads import HEADS
from tfrecords import reader

# Bounds the seconds per metric; with more than a million rows fewer resamples suffice, since the
# intervals are narrow.
_MAX_ROWS_DRAWN, _MIN_RESAMPLES = 200_000_000, 20
# The metrics that are single numbers.
METRICS = {*head_quality.PROBABILITY_METRICS, *head_quality.AMOUNT_METRICS}


@dataclasses.dataclass(frozen=True)
class LoggedScores:
    """The ranker's scores of a split.

    Attributes:
        predictions: Logits and labels.
        served: Output of a head -> calibrated values [L].
        positive: Head of an amount -> probability [L] of an amount above 0.
        resamples: Samples of the L rows.
        by_user: Whether users are drawn, not requests.
    """

    predictions: ranking.Predictions
    served: dict[str, np.ndarray]
    positive: dict[str, np.ndarray]
    resamples: metrics.Resamples
    by_user: bool

    def rows(self, head: str) -> tuple[head_quality.HeadRows, np.ndarray, np.ndarray]:
        """Returns the rows with a head's label, their served values [N] and their mask [L]."""
        labels, known, list_lengths = self.predictions.labelled(head)
        rows = head_quality.HeadRows(labels, list_lengths, self.resamples.take(known), self.by_user)
        return rows, self.served[HEADS[head].output][known], known


def predict(
    data_set: reader.DataSet,
    model: ranking.Ranker,
    calibrators: calibration.Calibrators,
    split: str,
    config: EvaluationConfig,
) -> LoggedScores:
    """Scores a split as in serving."""
    predictions = ranking.predict_split(model, data_set, split)
    unit = np.repeat(ranking.owner_of_requests(data_set, split), predictions.list_lengths)
    affordable = max(_MAX_ROWS_DRAWN // max(len(unit), 1), _MIN_RESAMPLES)
    logits = calibration.calibrated_logits(predictions.logits, calibrators)
    positive = {
        head: layers.positive_probability(head, own).numpy()
        for head, own in logits.items()
        if HEADS[head].is_amount
    }
    return LoggedScores(
        predictions,
        ranking.served_values(predictions, calibrators),
        positive,
        metrics.Resamples(unit, min(config.resamples, affordable), config.seed),
        data_set.spec.has_user,
    )


def of_heads(
    logged: LoggedScores, heads: tuple[str, ...], truth: ground_truth.GroundTruth | None = None
) -> dict[str, dict[str, Any]]:
    """Measures heads.

    Returns:
        For each head the values of `head_quality`. With ground truth also `planted`, the metrics
        of the true values on the same rows, and `auc_share_of_achievable`.
    """
    report = {}
    for head in heads:
        rows, served, known = logged.rows(head)
        report[head] = _measure(head, rows, served, logged.positive.get(head), known)
        if truth is None or not len(rows.labels):
            continue
        best = truth.rows[HEADS[head].output][known]
        plain = dataclasses.replace(rows, resamples=metrics.Resamples(rows.resamples.unit, 0, 0))
        # An amount is above 0 if there is an engagement.
        positive = truth.rows[HEADS["engagement"].output]
        ceiling = _measure(head, plain, best, positive, known)
        report[head]["planted"] = {n: v for n, v in ceiling.items() if n in METRICS}
        share = {"auc_share_of_achievable": head_quality.share_of_achievable(rows, served, best)}
        report[head] |= {name: metrics.point_estimate(own) for name, own in share.items()}
        report[head]["intervals"] |= metrics.intervals(share)
    return report


def by_segment(
    logged: LoggedScores,
    heads: tuple[str, ...],
    data_set: reader.DataSet,
    catalogue: reader.Catalogue,
    split: str,
    config: EvaluationConfig,
) -> dict[str, Any]:
    """Measures the probability heads by segment.

    Returns:
        `by`, the names of the segmentations; for each head their segments; `absent`, which
        segmentations are missing and why.
    """
    position = data_set.column(split, "position") if data_set.spec.has_position else None
    fields = segments.check(config.segment_fields, data_set.schema)
    cuts = segments.of_split(data_set, catalogue, logged.predictions.ad_rows, position, fields)
    report: dict[str, Any] = {"by": [cut.name for cut in cuts]}
    for head in heads:
        if not HEADS[head].is_amount:
            rows, served, known = logged.rows(head)
            report[head] = {cut.name: segments.measure(cut, rows, served, known) for cut in cuts}
    absent = {}
    if position is None:
        absent["position"] = "the schema names no position"
    if len(cuts) == 1 + (position is not None):
        absent["ad fields"] = "no ad field has several values with several ads each"
    return {**report, "absent": absent}


def curves_of(logged: LoggedScores, heads: tuple[str, ...]) -> dict[str, Any]:
    """Returns `curve_points` for the report, of each head that has labels."""
    report = {}
    for head in heads:
        rows, served, _ = logged.rows(head)
        if len(rows.labels):
            report[head] = curve_points.of_scores(rows.labels, served, ratios=HEADS[head].is_amount)
    return report


def _measure(
    head: str,
    rows: head_quality.HeadRows,
    predicted: np.ndarray,
    positive: np.ndarray | None,
    known: np.ndarray,
) -> dict[str, Any]:
    if not HEADS[head].is_amount:
        return head_quality.of_probability(rows, predicted)
    assert positive is not None
    return head_quality.of_amount(rows, predicted, positive[known])
