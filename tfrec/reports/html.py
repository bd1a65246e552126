"""Renders an evaluation as an HTML page."""

from collections.abc import Mapping, Sequence
from typing import Any

from tfrec import evaluation
from tfrec.reports import report_figures, shown_metrics
from tfrecords import pages

Report = Mapping[str, Any]
# Label, value and interval.
Stage = tuple[str, float, Sequence[float] | None]


def render_report(report: Report, name: str) -> str:
    """Returns the page.

    Args:
        report: The result of `evaluation.evaluate`.
        name: Name of the data set.
    """
    sections = {"summary": "In short", "funnel": "Where value is lost"}
    if "realised" in report:
        sections["realised"] = "Value of ten ads"
    sections |= {head: head.capitalize() for head in report["ranker"]}
    if report["segments"]["by"]:
        sections["segments"] = "By segment"
    sections |= {"retrieval": "Retrieval", "reading": "How it is measured"}
    return pages.render_page(
        "tfrec.reports",
        "report.html.jinja",
        title=f"Evaluation: {name}",
        sections=sections,
        report=report,
        figures=report_figures,
        funnel_in_words=funnel_in_words(report["funnel"]),
        stages=stages,
        metrics=shown_metrics.HEAD_METRICS,
        recommenders=shown_metrics.recommenders(report["retrieval"]),
        retrieval_rows=shown_metrics.retrieval_rows(report["retrieval"]),
        outcomes=evaluation.REALIZED_OUTCOMES,
    )


def stages(measured: Report) -> list[Stage]:
    """Returns what is possible, what each stage loses, and what is returned.

    Args:
        measured: Value of ten ads on their way through the system, one entry of the funnel.
    """
    intervals = measured["intervals"]
    return [
        ("best possible", measured["best_possible"], intervals.get("best_possible")),
        *(
            (f"lost by {stage}", value, intervals.get(f"lost_{stage}"))
            for stage, value in measured["lost"].items()
        ),
        ("returned", measured["returned"], intervals.get("returned")),
    ]


def funnel_in_words(funnel: Report) -> str:
    """Returns the share that is returned, and the stage that loses most, as sentences."""
    if funnel["truth"] == "planted":
        measured = funnel["utility"]
        stage, lost = _worst(measured["lost"])
        best = measured["best_possible"]
        return (
            f"{_returned(measured)} of the value of the best possible ten ads is returned; the "
            f"{stage} loses most, {pages.format_percent(lost / best)}. By clicks alone, "
            f"{_returned(funnel['click'])} of the best possible ten ads' clicks are returned."
        )
    if not funnel["clicks"]:
        return ""
    stage, lost = _worst(funnel["lost"])
    return (
        f"{pages.format_percent(funnel['returned'])} of {funnel['clicks']:,} held-out clicked ads "
        f"are among the ten that are returned; the {stage} loses most, "
        f"{pages.format_percent(lost)}."
    )


def _worst(lost: Mapping[str, float]) -> tuple[str, float]:
    return max(lost.items(), key=lambda stage: stage[1])


def _returned(measured: Report) -> str:
    bounds = measured["intervals"].get("share_returned")
    interval = pages.format_interval(bounds, pages.format_percent)
    return f"{pages.format_percent(measured['share_returned'])} ({interval})"
