"""Renders evaluation results and step times as text."""

import textwrap
from collections.abc import Mapping

from tfrec import evaluation
from tfrec.reports import tables
from tfrecords import pages, terminal

_WIDTH = 100


def report_as_text(report: evaluation.EvaluationReport) -> str:
    """Returns the tables of one evaluation."""
    funnel, found = report.funnel, report.retrieval
    index = f"index: {funnel.index}; filters: {funnel.filters or 'none'}"
    parts: list[str | pages.PageTable] = []
    if report.ranker:
        title = f"Ranker, {report.impressions:,} {report.split} impressions"
        parts += [title, tables.head_table(report), *tables.heads_in_words(report)]
    weights = " with weights for clicks alone" if report.ranker else ""
    parts += [
        f"Retrieval{weights}, {terminal.format_count(found.num_clicks, 'test click')} among "
        f"{terminal.format_count(found.num_ads, 'ad')}",
    ]
    if found.recommenders:
        parts += [
            tables.retrieval_table(found),
            f"{found.num_clicks_on_unseen_ads:,} of the clicks are on unseen ads, which were "
            "neither shown in training nor clicked in validation",
        ]
    parts += tables.weak_towers_in_words(found)
    parts += tables.uniform_exposure_in_words(found)
    if found.num_users:
        parts.append(
            "By user: lists leave out the ads that the user clicked before; number of users: "
            f"{found.num_users:,}"
        )
    if isinstance(funnel, evaluation.ValueFunnel):
        parts.append(f"Funnel, {funnel.requests} requests: true value of ten ads ({index})")
        for name, measured in funnel.utilities.items():
            weights = " with the default weights" if name == "utility" else " alone"
            parts += [
                f"by {name}{weights}",
                tables.utility_table(measured),
                tables.promise_table(measured),
            ]
    elif funnel.clicks:
        weights = " with the default weights" if funnel.weights else ""
        parts += [
            f"Funnel{weights}, {terminal.format_count(funnel.clicks, 'held-out click')}: share of "
            f"clicked ads that remain ({index})",
            tables.click_table(funnel),
            *tables.clicks_in_words(report),
        ]
        if report.order_of_shown_ads:
            parts.append(tables.shown_ad_table(report))
    else:
        parts.append(f"Funnel not measured: {funnel.absent}")
    parts += [f"Not measured: {line}" for line in tables.not_measured(report)]
    return "\n".join(
        part
        if isinstance(part, str)
        else terminal.text_table(part.head, part.rows, (0, *part.left))
        for part in parts
    )


def step_times(seconds: Mapping[str, float]) -> str:
    """Returns the wall time of each step."""
    # Lines are not broken at these spaces.
    parts = ", ".join(f"{step}\xa0{value:.1f}\xa0s" for step, value in seconds.items())
    line = f"Steps: {parts}; total\xa0{sum(seconds.values()):.0f}\xa0s."
    return textwrap.fill(line, _WIDTH, subsequent_indent="  ").replace("\xa0", " ")
