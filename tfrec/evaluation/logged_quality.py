"""The ranker's quality on logged impressions: every head, its ceiling, and by segment.

Shapes: L impressions of the split, R requests, N rows with a head's label.
"""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from tfrec import calibration, metrics, ranking
from tfrec.config import EvaluationConfig
from tfrec.evaluation import curve_points, ground_truth, head_quality, segments
from tfrec.heads import HEADS
from tfrecords import reader

# Seconds a metric; beyond a million rows fewer resamples do, as the intervals are narrow.
_ROWS_DRAWN, _FEWEST_RESAMPLES = 200_000_000, 20
# The plain numbers of a head.
METRICS = {*head_quality.PROBABILITY_METRICS, *head_quality.REVENUE_METRICS}


@dataclasses.dataclass(frozen=True)
class Logged:
    """The ranker's scores of a split.

    Attributes:
        predictions: Logits and labels.
        served: Calibrated values [L] by the name they are served under.
        positive_probability: [L] that the revenue is not zero; None without such a head.
        resamples: Of the L rows.
        by_user: Whether users are drawn, not requests.
    """

    predictions: ranking.Predictions
    served: dict[str, np.ndarray]
    positive_probability: np.ndarray | None
    resamples: metrics.Resamples
    by_user: bool

    def rows(self, head: str) -> tuple[head_quality.HeadRows, np.ndarray]:
        """Returns the rows with a head's label, and the mask [L] of these."""
        labels, known, list_lengths = self.predictions.labelled(head)
        rows = head_quality.HeadRows(labels, list_lengths, self.resamples.take(known), self.by_user)
        return rows, known


def predict(
    data_set: reader.DataSet,
    model: ranking.Ranker,
    calibrators: calibration.Calibrators,
    split: str,
    config: EvaluationConfig,
) -> Logged:
    """Scores a split as it is served."""
    predictions = ranking.predict_split(model, data_set, split)
    unit = ranking.owner_of_requests(data_set, split)
    of_rows = np.repeat(unit, predictions.list_lengths)
    affordable = max(_ROWS_DRAWN // max(len(of_rows), 1), _FEWEST_RESAMPLES)
    positive = None
    if "revenue" in predictions.logits:
        logits = {h: tf.constant(values) for h, values in predictions.logits.items()}
        positive = tf.sigmoid(calibrators.calibrated(logits)["revenue"][:, 0]).numpy()
    return Logged(
        predictions,
        ranking.served_values(predictions, calibrators),
        positive,
        metrics.Resamples(of_rows, min(config.resamples, affordable), config.seed),
        data_set.spec.has_user,
    )


def of_heads(
    logged: Logged, heads: tuple[str, ...], truth: ground_truth.GroundTruth | None = None
) -> dict[str, dict[str, Any]]:
    """Measures heads, each beside what the planted truth reaches on the same rows.

    Returns:
        For each head the values of `head_quality`, with truth also `planted`, the metrics of
        the true values, and `auc_share_of_achievable`.
    """
    report = {}
    for head in heads:
        rows, known = logged.rows(head)
        own = logged.served[HEADS[head].output][known]
        report[head] = _measure(head, rows, own, logged)
        if truth is None or not len(rows.labels):
            continue
        best = truth.rows[HEADS[head].output][known]
        plain = dataclasses.replace(rows, resamples=metrics.Resamples(rows.resamples.unit, 0, 0))
        ceiling = _measure(head, plain, best, logged, truth.rows["engagement_probability"])
        report[head]["planted"] = {n: v for n, v in ceiling.items() if n in METRICS}
        share, interval = head_quality.share_of_achievable(rows, own, best)
        report[head]["auc_share_of_achievable"] = share
        if interval is not None:
            report[head]["intervals"]["auc_share_of_achievable"] = interval
    return report


def by_segment(
    logged: Logged,
    heads: tuple[str, ...],
    data_set: reader.DataSet,
    catalogue: reader.Catalogue,
    split: str,
    config: EvaluationConfig,
) -> dict[str, Any]:
    """Measures the probability heads by segment.

    Returns:
        `by`: what tells the segments apart; a dict of segments a head; `absent`: what could
        not be told apart, and why.
    """
    position = data_set.column(split, "position") if data_set.spec.has_position else None
    fields = segments.check(config.segment_fields, data_set.schema)
    cuts = segments.of_split(data_set, catalogue, logged.predictions.ad_rows, position, fields)
    measured: dict[str, tuple[head_quality.HeadRows, np.ndarray, np.ndarray]] = {}
    for head in heads:
        if head != "revenue":
            rows, known = logged.rows(head)
            measured[head] = (rows, logged.served[HEADS[head].output][known], known)
    report: dict[str, Any] = {"by": [cut.name for cut in cuts], **segments.of_heads(cuts, measured)}
    absent = {}
    if position is None:
        absent["position"] = "the schema names no position"
    if len(cuts) == 1 + (position is not None):
        absent["ad fields"] = "no ad field has several values with several ads each"
    return {**report, "absent": absent}


def curves_of(logged: Logged, heads: tuple[str, ...]) -> dict[str, Any]:
    """Returns what the report draws of each head that has labels; see `curves`."""
    report = {}
    for head in heads:
        rows, known = logged.rows(head)
        if len(rows.labels):
            own = logged.served[HEADS[head].output][known]
            report[head] = curve_points.of_scores(rows.labels, own, ratios=head == "revenue")
    return report


def _measure(
    head: str,
    rows: head_quality.HeadRows,
    predicted: np.ndarray,
    logged: Logged,
    positive: np.ndarray | None = None,
) -> dict[str, Any]:
    if head != "revenue":
        return head_quality.of_probability(rows, predicted)
    known = logged.predictions.labelled(head)[1]
    positive = logged.positive_probability if positive is None else positive
    assert positive is not None
    return head_quality.of_revenue(rows, predicted, positive[known])
