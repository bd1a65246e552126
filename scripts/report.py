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
    who = [name for name in ("two_tower", "popularity", "planted") if name in values]
    if who:
        titles = "".join(f"{name.replace('_', '-'):>12}" for name in who)
        lines.append(f"  {'':31}{titles}")
        for key in values["two_tower"]:
            numbers = "".join(f"   {_number(values[name][key])}" for name in who)
            lines.append(f"  {'recall@' + key.rsplit('_', 1)[1] + ', whole catalogue':31}{numbers}")
    return lines


def times(seconds: Mapping[str, float]) -> str:
    """Returns the wall time of each step on one line."""
    parts = ", ".join(f"{step} {value:.1f} s" for step, value in seconds.items())
    return f"Steps: {parts}; together {sum(seconds.values()):.0f} s."


def _number(value: float | None) -> str:
    return f"{'–':>9}" if value is None else f"{value:9.4f}"
