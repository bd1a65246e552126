"""Labels of the metrics that the page and the text show, and the rows of their tables."""

from collections.abc import Iterator

from tfrec import evaluation, retrieval
from tfrec.evaluation import Estimate

# Metric of a head -> label.
_HEAD_METRICS = {
    "auc": "AUC",
    "auc_share_of_achievable": "share of achievable AUC",
    "per_user_auc": "per-user AUC",
    "normalized_entropy": "normalized entropy",
    "normalized_entropy_of_zero_part": "normalized entropy of zero",
    "log_loss": "log loss",
    "normalized_gini": "normalized Gini",
    "expected_calibration_error": "calibration error (ECE)",
    "calibration_ratio": "predicted / observed",
    "ndcg_at_10_logged_lists": "NDCG@10, logged lists",
}
# Part of a recommender's quality and metric -> label.
_RETRIEVAL_METRICS = {
    **{("metrics", f"corpus_recall_at_{k}"): f"recall@{k}, all ads" for k in retrieval.RECALL_AT},
    ("metrics", "ndcg_at_10"): "NDCG@10, all ads",
    ("on_unseen_ads", "corpus_recall_at_500"): "recall@500, unseen ads",
    ("metrics", "auc_against_uniform_ads"): "AUC against uniform ads",
    ("metrics", "auc_against_popular_ads"): "AUC against popular ads",
    ("metrics", "catalogue_coverage_at_10"): "share of ads in lists of 10",
    ("metrics", "popularity_percentile_at_10"): "popularity percentile of 10",
    ("excluding_seen", "corpus_recall_at_10"): "recall@10 by user",
    ("excluding_seen", "ndcg_at_10"): "NDCG@10 by user",
}
NAMES = {
    "two_tower": "two-tower",
    "item_knn": "item-knn",
    "ground_truth": "ground truth",
}


def head_rows(quality: evaluation.HeadQuality) -> list[tuple[str, Estimate]]:
    """Returns the label and the value of each metric of a head that has a value."""
    return [
        (label, quality.metrics[name])
        for name, label in _HEAD_METRICS.items()
        if name in quality.metrics and quality.metrics[name].value is not None
    ]


def not_measured(report: evaluation.EvaluationReport) -> Iterator[str]:
    """Yields what has no value, and why."""
    for head in report.absent_heads:
        yield f"{head}: the log has no such label, so the head is neither trained nor served"
    for head, quality in report.ranker.items():
        if not quality.labelled:
            yield f"{head}: no row of the split has the label"
        for name, estimate in quality.metrics.items():
            if estimate.absent is not None:
                yield f"{head}, {_HEAD_METRICS[name]}: {estimate.absent}"
    for name, reason in report.retrieval.absent.items():
        yield f"retrieval, {NAMES.get(name, name.replace('_', ' '))}: {reason}"


def retrieval_rows(
    quality: evaluation.RetrievalQuality,
) -> list[tuple[str, list[float | None]]]:
    """Returns the label of each metric that was measured and its value for each recommender."""
    rows = []
    for (part, metric), label in _RETRIEVAL_METRICS.items():
        parts = [getattr(own, part) or {} for own in quality.recommenders.values()]
        values = [own.get(metric) for own in parts]
        if any(value is not None for value in values):
            rows.append((label, values))
    return rows


def funnel_lines(
    measured: evaluation.UtilityFunnel | evaluation.ClickFunnel,
) -> list[tuple[str, Estimate]]:
    """Returns what is possible, what each stage loses, and what is returned."""
    if isinstance(measured, evaluation.UtilityFunnel):
        first, last = ("best possible", measured.best_possible), ("returned", measured.returned)
    else:
        first = ("clicked ads", Estimate(value=1.0))
        last = ("in the ten", measured.survived["ranker"])
    lost = ((f"lost by {stage}", value) for stage, value in measured.lost.items())
    return [first, *lost, last]
