"""Renders evaluation results and step times as text."""

from collections.abc import Mapping
from typing import Any

_HEAD_METRICS = (
    ("AUC", "auc"),
    ("per-user AUC", "per_user_auc"),
    ("normalised entropy", "normalized_entropy"),
    ("normalised entropy of zero", "normalized_entropy_of_zero_part"),
    ("log loss", "log_loss"),
    ("calibration error (ECE)", "expected_calibration_error"),
    ("predicted / observed", "calibration_ratio"),
    ("normalised Gini", "normalized_gini"),
    ("NDCG@10, logged lists", "ndcg_at_10_logged_lists"),
    ("share of achievable AUC", "auc_share_of_achievable"),
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


def report_as_text(metrics: Mapping[str, Any]) -> str:
    """Returns the tables of one evaluation."""
    lines = [f"Ranker, {metrics['impressions']:,} {metrics['split']} impressions"]
    lines.append(f"  {'':38}{'model':>9}{'95 % interval':>19}{'planted':>9}")
    for head, values in metrics["ranker"].items():
        for label, key in _HEAD_METRICS:
            if values.get(key) is not None or (key in values and key != "per_user_auc"):
                planted = values.get("planted", {}).get(key)
                lines.append(
                    f"  {head + ': ' + label:38}{_number(values[key])}"
                    f"{_interval(values['intervals'].get(key)):>19}{_number(planted)}"
                )
    if metrics["absent_heads"]:
        absent = ", ".join(metrics["absent_heads"])
        lines.append(f"  not in this log, so not trained and not served: {absent}")
    lines += _retrieval(metrics["retrieval"])
    lines += _planted_funnel(metrics) if "realised" in metrics else _click_funnel(metrics["funnel"])
    return "\n".join(lines)


def _planted_funnel(metrics: Mapping[str, Any]) -> list[str]:
    funnel = metrics["funnel"]
    lines = [
        f"Funnel, {funnel['requests']} requests: planted value of ten ads "
        f"(index: {funnel['index']}; {_filters(funnel)})"
    ]
    lines.append(f"  {'':20}{'utility':>9}{'95 % interval':>19}{'clicks':>9}{'95 % interval':>19}")
    names = ["best_possible", *(f"lost_{stage}" for stage in funnel["utility"]["lost"]), "returned"]
    for name in names:
        line = f"  {name.replace('_', ' by ' if 'lost' in name else ' '):20}"
        for utility in ("utility", "click"):
            own = funnel[utility]
            value = own["lost"][name[5:]] if name.startswith("lost_") else own[name]
            line += f"{_number(value, 2)}{_interval(own['intervals'].get(name), 2):>19}"
        lines.append(line)
    ten = metrics["realised"]
    lines.append("Ten ads in their slots bring a request, expected (one simulated draw)")
    lines.append(f"  {'':16}{'clicks':>16}{'engagements':>16}{'revenue':>16}")
    for name, own in ten["choosers"].items():
        pairs = (f"{own[o]:.3f} ({own['simulated'][o]:.2f})" for o in list(own)[:3])
        lines.append(f"  {name.replace('_', ' '):16}" + "".join(f"{pair:>16}" for pair in pairs))
    return lines


def _click_funnel(funnel: Mapping[str, Any]) -> list[str]:
    if not funnel["clicks"]:
        return [f"Funnel not measured: {funnel['absent']}"]
    lines = [
        f"Funnel, {funnel['clicks']} held-out clicks: share of clicked ads still there after "
        f"(index: {funnel['index']}; {_filters(funnel)})"
    ]
    names = {
        "tower": f"tower, {funnel['candidates']} of {funnel['ads']:,}",
        "index": "index",
        "filters": "filters",
        "ranker": "ranker, ten ads",
    }
    for stage, name in names.items():
        interval = _interval(funnel["intervals"].get(f"survived_{stage}"))
        lines.append(f"  {name:38}{_number(funnel['survived'][stage])}{interval:>19}")
    for name, value in funnel["beside"].items():
        lines.append(f"  {'beside: ' + name.replace('_', ' '):38}{_number(value)}")
    return lines


def _filters(funnel: Mapping[str, Any]) -> str:
    return f"filters: {funnel['filters']}" if funnel["filters"] else "no filters, so none is lost"


def _interval(interval: list[float] | None, decimals: int = 4) -> str:
    return f"{interval[0]:.{decimals}f}–{interval[1]:.{decimals}f}" if interval else ""


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


def step_times(seconds: Mapping[str, float]) -> str:
    """Returns the wall time of each step on one line."""
    parts = ", ".join(f"{step} {value:.1f} s" for step, value in seconds.items())
    return f"Steps: {parts}; together {sum(seconds.values()):.0f} s."


def _number(value: float | None, decimals: int = 4) -> str:
    return f"{'–':>9}" if value is None else f"{value:9.{decimals}f}"
