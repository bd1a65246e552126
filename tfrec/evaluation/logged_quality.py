"""The ranker's quality on logged impressions: each head, its ceiling, and segments.

Shapes: L impressions of the split, R requests, N rows with a head's label.
"""

import dataclasses

import numpy as np

from tfrec import calibration, layers, metrics, ranking, retrieval
from tfrec.config import EvaluationConfig
from tfrec.evaluation import curve_points, ground_truth, head_quality, report, segments
from tfrec.evaluation.ground_truth import SPLIT
from tfrec.heads import CLICK, ENGAGEMENT, HEADS
from tfrecords import reader

# Bounds the seconds per metric; with more than a million rows fewer resamples suffice, since the
# intervals are narrow.
_MAX_ROWS_DRAWN, _MIN_RESAMPLES = 200_000_000, 20


@dataclasses.dataclass(frozen=True)
class LoggedScores:
    """The ranker's scores of the test split.

    Attributes:
        predictions: Logits and labels.
        served: Head -> calibrated values of the L rows.
        resamples: Samples of the L rows.
        no_per_user_auc: See `head_quality.HeadRows`.
    """

    predictions: ranking.Predictions
    served: dict[str, head_quality.HeadScores]
    resamples: metrics.Resamples
    no_per_user_auc: str | None

    def rows(self, head: str) -> tuple[head_quality.HeadRows, head_quality.HeadScores, np.ndarray]:
        """Returns the rows with a head's label, their served values [N] and their mask [L]."""
        labels, known, list_lengths = self.predictions.labeled(head)
        rows = head_quality.HeadRows(
            labels, list_lengths, self.resamples.take(known), self.no_per_user_auc
        )
        return rows, _take(self.served[head], known), known


def predict(
    data_set: reader.DataSet,
    model: ranking.RankingModel,
    calibrators: calibration.Calibrators,
    config: EvaluationConfig,
) -> LoggedScores:
    """Scores the test split as in serving."""
    predictions = ranking.predict_split(model, data_set, SPLIT)
    unit = np.repeat(ranking.owner_of_requests(data_set, SPLIT), predictions.list_lengths)
    affordable = max(_MAX_ROWS_DRAWN // max(len(unit), 1), _MIN_RESAMPLES)
    logits = calibration.calibrated_logits(predictions.logits, calibrators)
    served = layers.head_outputs(logits)
    scores = {}
    for head in model.heads:
        values = served[HEADS[head].output].numpy()
        positive = values
        if HEADS[head].is_amount:
            positive = layers.positive_probability(head, logits[head]).numpy()
        scores[head] = head_quality.HeadScores(values, positive)
    resamples = metrics.Resamples(unit, min(config.resamples, affordable), config.seed)
    why = None
    if not data_set.spec.has_user:
        why = "the schema names no user_key"
    elif data_set.schema.histories:
        # A click joins the history after its own row is scored.
        why = "clicks change the user's later scores, so random scores would not have 0.5"
    return LoggedScores(predictions, scores, resamples, why)


def measure_heads(
    logged: LoggedScores, truth: ground_truth.GroundTruth | None = None
) -> dict[str, report.HeadQuality]:
    """Measures each head and, with ground truth, its ceiling."""
    measured = {}
    for head in logged.served:
        rows, served, known = logged.rows(head)
        best = None
        if truth is not None:
            values = truth.rows[HEADS[head].output]
            # In the synthetic world, an amount is above 0 if there is an engagement.
            positive = truth.rows[ENGAGEMENT.output] if HEADS[head].is_amount else values
            best = _take(head_quality.HeadScores(values, positive), known)
        measured[head] = head_quality.measure(HEADS[head], rows, served, best)
    return measured


def order_of_shown_ads(
    logged: LoggedScores, data_set: reader.DataSet, two_tower: retrieval.RetrievalModel
) -> dict[str, dict[str, report.Estimate]]:
    """Measures how the ranker, the two-tower model and popularity order the ads that were shown.

    Held-out clicks among all ads depend mostly on which ads were shown. Here all ads were shown.

    Returns:
        Name of the order -> its metrics; nothing if none of them is defined.
    """
    catalog = data_set.catalog()
    ads = retrieval.embed_in_batches(two_tower.ad_tower, np.asarray(catalog.features))
    scores = [np.empty(0, np.float32)]
    for window in data_set.windows(SPLIT):
        queries = two_tower.embed_queries(window["query"].numpy(), {CLICK.label: 1.0})
        owner = np.repeat(np.arange(len(queries)), window["list_lengths"].numpy())
        scores.append(np.einsum("ld,ld->l", queries[owner], ads[window["ad_row"].numpy()]))
    rows, served, known = logged.rows(CLICK.label)
    popularity = retrieval.with_validation_clicks(data_set, catalog).clicks
    orders = {
        "ranker": served.values,
        "two_tower": np.concatenate(scores)[known],
        "popularity": popularity[logged.predictions.ad_rows[known]],
    }
    measured = {name: head_quality.order(rows, values) for name, values in orders.items()}
    is_defined = any(estimate.value is not None for estimate in measured["ranker"].values())
    return measured if is_defined else {}


def by_segment(
    logged: LoggedScores, data_set: reader.DataSet, config: EvaluationConfig
) -> report.SegmentQuality:
    """Measures the probability heads that have labels by segment."""
    position = data_set.column(SPLIT, "position") if data_set.spec.has_position else None
    fields = segments.check_segments(config.segment_fields, data_set.schema)
    cuts = segments.split_rows(data_set, logged.predictions.ad_rows, position, fields)
    heads = {}
    for head in logged.served:
        rows, served, known = logged.rows(head)
        if len(rows.labels) and not HEADS[head].is_amount:
            heads[head] = {
                cut.name: segments.measure(cut, rows, served.values, known) for cut in cuts
            }
    absent = {}
    if position is None:
        absent["position"] = "the schema names no position"
    if len(cuts) == 1 + (position is not None):
        absent["ad fields"] = "no ad field has several values with several ads each"
    return report.SegmentQuality(by=[cut.name for cut in cuts], heads=heads, absent=absent)


def curves_of(logged: LoggedScores) -> dict[str, report.ScoreCurves]:
    """Returns the curves of each head that has labels."""
    curves = {}
    for head in logged.served:
        rows, served, _ = logged.rows(head)
        if len(rows.labels):
            curves[head] = curve_points.compute(
                rows.labels, served.values, HEADS[head].is_amount, served.positive
            )
    return curves


def _take(scores: head_quality.HeadScores, rows: np.ndarray) -> head_quality.HeadScores:
    return head_quality.HeadScores(scores.values[rows], scores.positive[rows])
