"""Renders evaluation results and step times as text."""

from collections.abc import Mapping, Sequence
from typing import Any

from tfrec import evaluation
from tfrec.reports import shown_metrics
from tfrec.reports.html import stages
from tfrecords import pages, terminal


def report_as_text(metrics: Mapping[str, Any]) -> str:
    """Returns the tables of one evaluation."""
    parts = [*_ranker(metrics), *_retrieval(metrics["retrieval"])]
    parts += _value_funnel(metrics) if "realised" in metrics else _click_funnel(metrics["funnel"])
    return "\n".join(parts)


def _ranker(metrics: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            f"  {head}: {label}",
            pages.format_metric(values[key]),
            _interval(values["intervals"].get(key)),
            pages.format_metric(values.get("planted", {}).get(key)),
        ]
        for head, values in metrics["ranker"].items()
        for key, label in shown_metrics.HEAD_METRICS.items()
        if values.get(key) is not None or (key in values and key != "per_user_auc")
    ]
    parts = [
        f"Ranker, {metrics['impressions']:,} {metrics['split']} impressions",
        terminal.text_table(["", "model", "95 % interval", "achievable"], rows),
    ]
    if metrics["absent_heads"]:
        absent = ", ".join(metrics["absent_heads"])
        parts.append(f"  not in this log, so not trained and not served: {absent}")
    return parts


def _retrieval(values: Mapping[str, Any]) -> list[str]:
    parts = [f"Retrieval, {values['num_clicks']:,} test clicks among {values['num_ads']:,} ads"]
    names = shown_metrics.recommenders(values)
    if not names:
        return parts
    rows = [
        [f"  {label}", *map(pages.format_metric, numbers)]
        for label, numbers in shown_metrics.retrieval_rows(values)
    ]
    parts.append(terminal.text_table(["", *names], rows))
    never = values["num_clicks_on_never_shown_ads"]
    parts.append(f"  {never:,} of the clicks are on ads that training never showed")
    if "num_users" in values:
        parts.append(f"  by user: {values['num_users']:,} users, without ads clicked before")
    for name, reason in values.get("absent", {}).items():
        parts.append(f"  {name.replace('_', ' ')} not measured: {reason}")
    return parts


def _value_funnel(metrics: Mapping[str, Any]) -> list[str]:
    funnel = metrics["funnel"]
    head, rows = [""], [[f"  {label}"] for label, _, _ in stages(funnel["utility"])]
    for name in ("utility", "click"):
        head += [name, "95 % interval"]
        for row, (_, value, interval) in zip(rows, stages(funnel[name]), strict=True):
            row += [pages.format_mean(value), _interval(interval, 2)]
    ten = metrics["realised"]["choosers"]
    outcomes = evaluation.REALIZED_OUTCOMES
    values = [
        [
            f"  {name.replace('_', ' ')}",
            *(f"{own[o]:.3f} ({own['simulated'][o]:.2f})" for o in outcomes),
        ]
        for name, own in ten.items()
    ]
    return [
        f"Funnel, {funnel['requests']} requests: true value of ten ads "
        f"(index: {funnel['index']}; {_filters(funnel)})",
        terminal.text_table(head, rows),
        "Ten ads at their positions, expected value per request (one simulated draw)",
        terminal.text_table(["", *outcomes], values),
    ]


def _click_funnel(funnel: Mapping[str, Any]) -> list[str]:
    if not funnel["clicks"]:
        return [f"Funnel not measured: {funnel['absent']}"]
    names = {
        "tower": f"tower, {funnel['candidates']} of {funnel['ads']:,}",
        "ranker": "ranker, ten ads",
    }
    rows = [
        [
            f"  {names.get(stage, stage)}",
            pages.format_metric(value),
            _interval(funnel["intervals"].get(f"survived_{stage}")),
        ]
        for stage, value in funnel["survived"].items()
    ]
    rows += [
        [f"  for comparison: {name.replace('_', ' ')}", pages.format_metric(value)]
        for name, value in funnel["beside"].items()
    ]
    return [
        f"Funnel, {funnel['clicks']} held-out clicks: share of clicked ads that remain "
        f"(index: {funnel['index']}; {_filters(funnel)})",
        terminal.text_table(["  after", "share", "95 % interval"], rows),
    ]


def step_times(seconds: Mapping[str, float]) -> str:
    """Returns the wall time of each step on one line."""
    parts = ", ".join(f"{step} {value:.1f} s" for step, value in seconds.items())
    return f"Steps: {parts}; total {sum(seconds.values()):.0f} s."


def _filters(funnel: Mapping[str, Any]) -> str:
    return f"filters: {funnel['filters']}" if funnel["filters"] else "no filters"


def _interval(interval: Sequence[float] | None, decimals: int = 4) -> str:
    return f"{interval[0]:.{decimals}f}–{interval[1]:.{decimals}f}" if interval else ""
