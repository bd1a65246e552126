"""Renders evaluation results and step times as text."""

from collections.abc import Mapping
from typing import Any

_HEAD_METRICS = (
    ("AUC", "auc"),
    ("normalised entropy", "normalized_entropy"),
    ("calibration error (ECE)", "expected_calibration_error"),
    ("predicted / observed", "calibration_ratio"),
    ("normalised Gini", "normalized_gini"),
    ("NDCG@10, logged lists", "ndcg_at_10_logged_lists"),
)
_RECOMMENDERS = ("two_tower", "popularity", "item_knn", "planted")
_RETRIEVAL_METRICS = (
    *((f"recall@{k}, whole catalogue", (f"corpus_recall_at_{k}",)) for k in (10, 50, 100, 500)),
    ("NDCG@10, whole catalogue", ("ndcg_at_10",)),
    ("recall@500, never shown ads", ("on_never_shown_ads", "corpus_recall_at_500")),
    ("AUC against uniform ads", ("auc_against_uniform_ads",)),
    ("AUC against popular ads", ("auc_against_popular_ads",)),
    ("share of ads in lists of 10", ("catalogue_coverage_at_10",)),
    ("popularity percentile of 10", ("popularity_percentile_at_10",)),
    ("recall@10 by user", ("excluding_seen", "corpus_recall_at_10")),
    ("NDCG@10 by user", ("excluding_seen", "ndcg_at_10")),
)


def text(metrics: Mapping[str, Any]) -> str:
    """Returns the tables of one evaluation."""
    lines = [f"Ranker, {metrics['impressions']:,} {metrics['split']} impressions"]
    lines.append(f"  {'':34}{'model':>9}{'planted':>9}")
    for head, values in metrics["ranker"].items():
        for label, key in _HEAD_METRICS:
            if key in values:
                planted = values.get("planted", {}).get(key)
                lines.append(f"  {head + ': ' + label:34}{_number(values[key])}{_number(planted)}")
        share = values.get("auc_share_of_achievable")
        if share is not None:
            lines.append(f"  {head + ': share of achievable AUC':34}{_number(share)}")
    if metrics["absent_heads"]:
        absent = ", ".join(metrics["absent_heads"])
        lines.append(f"  not in this log, so not trained and not served: {absent}")
    lines += _retrieval(metrics["retrieval"])
    if "ten_ads" in metrics:
        ten = metrics["ten_ads"]
        lines.append(f"Ten ads for {ten['requests']} requests, mean planted click probability")
        lines += [
            f"  {name.replace('_', ' '):34}{_number(value)}"
            for name, value in ten.items()
            if name != "requests"
        ]
    return "\n".join(lines)


def _retrieval(values: Mapping[str, Any]) -> list[str]:
    lines = [f"Retrieval, {values['num_clicks']:,} test clicks among {values['num_ads']:,} ads"]
    who = [name for name in _RECOMMENDERS if values.get(name)]
    if not who:
        return lines
    titles = "".join(f"{name.replace('_', '-'):>12}" for name in who)
    lines.append(f"  {'':31}{titles}")
    for label, path in _RETRIEVAL_METRICS:
        numbers = [_at(values[name], path) for name in who]
        if any(number is not None for number in numbers):
            lines.append(f"  {label:31}" + "".join(f"   {_number(n)}" for n in numbers))
    never = values["num_clicks_on_never_shown_ads"]
    lines.append(f"  {never:,} of the clicks are on ads that training never showed")
    if "num_users" in values:
        lines.append(
            f"  by user: {values['num_users']:,} users, each without the ads clicked before"
        )
    for name, reason in values.get("absent", {}).items():
        lines.append(f"  {name.replace('_', '-')} not measured: {reason}")
    return lines


def _at(values: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    """Returns the value under nested keys, or None."""
    found: Any = values
    for key in path:
        found = None if found is None else found[key]
    return found


def times(seconds: Mapping[str, float]) -> str:
    """Returns the wall time of each step on one line."""
    parts = ", ".join(f"{step} {value:.1f} s" for step, value in seconds.items())
    return f"Steps: {parts}; together {sum(seconds.values()):.0f} s."


def _number(value: float | None) -> str:
    return f"{'–':>9}" if value is None else f"{value:9.4f}"
