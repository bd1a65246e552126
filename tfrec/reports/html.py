"""Renders an evaluation as an HTML page."""

from collections.abc import Mapping

from tfrec import evaluation
from tfrec.heads import HEADS
from tfrec.reports import report_figures, tables
from tfrecords import pages


def render_report(report: evaluation.EvaluationReport, name: str) -> str:
    """Returns the page of an evaluation on the data set of this name."""
    sections = {"summary": "Summary", "funnel": "Where value is lost"}
    sections |= {head: head.capitalize() for head in report.ranker}
    if report.segments.heads:
        sections["segments"] = "By segment"
    sections |= {"retrieval": "Retrieval", "reading": "How it is measured"}
    return pages.render_page(
        "tfrec.reports",
        "report.html.jinja",
        title=f"Evaluation: {name}",
        sections=sections,
        report=report,
        heads=HEADS,
        figures=report_figures,
        tables=tables,
        funnel_in_words=funnel_in_words(report.funnel),
    )


def funnel_in_words(funnel: evaluation.ValueFunnel | evaluation.ClickFunnel) -> str:
    """Returns the share that is returned, and the stage that loses most, as sentences."""
    if isinstance(funnel, evaluation.ValueFunnel):
        measured = funnel.utilities["utility"]
        worst = _worst(measured.lost, measured.best_possible.value)
        returned, returned_clicks = (
            tables.share_in_words(funnel.utilities[name].share_returned)
            for name in ("utility", "click")
        )
        ranker = measured.over_all_ads
        without_tower = ""
        if ranker is not None:
            without_tower = (
                f" The system returns {tables.share_in_words(ranker.share_of_ranker)} of the value "
                "that the ranker would reach over all ads, without a tower."
            )
        return (
            f"The system returns {returned} of the value of the best possible ten ads{worst}. With "
            f"weights for clicks alone, it returns {returned_clicks} of the clicks of the best "
            f"possible ten ads.{without_tower}"
        )
    if not funnel.clicks:
        return ""
    survived = list(funnel.survived.values())[-1].value
    return (
        f"{pages.format_percent(survived)} of {funnel.clicks:,} held-out clicked ads are among the "
        f"ten returned ads{_worst(funnel.lost, 1.0)}. Only shown ads can be clicked, so these "
        "shares also depend on the exposure."
    )


def _worst(lost: Mapping[str, evaluation.Estimate], whole: float | None) -> str:
    """Returns which stage loses most of the whole, in words; "" if none loses anything."""
    losses = {stage: estimate.value or 0.0 for stage, estimate in lost.items()}
    stage, most = max(losses.items(), key=lambda loss: loss[1])
    if not whole or most <= 0:
        return ""
    return f"; the {stage.replace('_', ' ')} loses the most, {pages.format_percent(most / whole)}"
