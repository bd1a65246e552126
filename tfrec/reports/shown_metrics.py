"""Labels of the metrics that the page and the text show."""

from collections.abc import Mapping
from typing import Any

from tfrec import retrieval

# Key of a head's report -> label.
HEAD_METRICS = {
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
# Key of a recommender's report, or the path of nested keys -> label.
_RETRIEVAL_METRICS: dict[tuple[str, ...], str] = {
    **{(f"corpus_recall_at_{k}",): f"recall@{k}, whole catalog" for k in retrieval.RECALL_AT},
    ("ndcg_at_10",): "NDCG@10, whole catalog",
    ("on_never_shown_ads", "corpus_recall_at_500"): "recall@500, never shown ads",
    ("auc_against_uniform_ads",): "AUC against uniform ads",
    ("auc_against_popular_ads",): "AUC against popular ads",
    ("catalogue_coverage_at_10",): "share of ads in lists of 10",
    ("popularity_percentile_at_10",): "popularity percentile of 10",
    ("excluding_seen", "corpus_recall_at_10"): "recall@10 by user",
    ("excluding_seen", "ndcg_at_10"): "NDCG@10 by user",
}
# Key of a retrieval report -> name.
_RECOMMENDERS = {
    "two_tower": "two-tower",
    "popularity": "popularity",
    "item_knn": "item-knn",
    "planted": "ground truth",
}


def recommenders(report: Mapping[str, Any]) -> list[str]:
    """Returns the names of the recommenders that were measured."""
    return [name for key, name in _RECOMMENDERS.items() if report.get(key)]


def retrieval_rows(report: Mapping[str, Any]) -> list[tuple[str, list[float | None]]]:
    """Returns the label of each measured metric and its value for each of `recommenders`."""
    reports = [report[key] for key in _RECOMMENDERS if report.get(key)]
    rows = [
        (label, [_at(own, path) for own in reports]) for path, label in _RETRIEVAL_METRICS.items()
    ]
    return [row for row in rows if any(value is not None for value in row[1])]


def _at(values: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    found: Any = values
    for key in path:
        found = None if found is None else found[key]
    return found
