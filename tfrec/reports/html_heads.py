"""The sections of an evaluation's page that show one head each, and its segments."""

from collections.abc import Mapping, Sequence
from typing import Any

from tfrec.reports import report_figures
from tfrecords import pages

Report = Mapping[str, Any]
# Key of each metric that a head may have -> what the page calls it.
METRICS = {
    "auc": "AUC",
    "auc_share_of_achievable": "share of reachable",
    "per_user_auc": "per-user AUC",
    "normalized_entropy": "normalised entropy",
    "normalized_entropy_of_zero_part": "entropy of zero or not",
    "log_loss": "log loss",
    "normalized_gini": "normalised Gini",
    "expected_calibration_error": "ECE",
    "calibration_ratio": "predicted / observed",
    "ndcg_at_10_logged_lists": "NDCG@10, logged",
}
_BY = {"ads": "ads seen in training and new ones", "position": "by position, as logged"}
_POSITIVE = {"click": "clicked", "engagement": "engaged", "revenue": "with revenue"}


def section(report: Report, head: str) -> str:
    """Returns the figures of a head."""
    own, curves = report["ranker"][head], report["curves"].get(head)
    if curves is None:
        return "<p>No row of the split has the label.</p>"
    what = "Expected revenue" if head == "revenue" else f"The predicted probability of {head}"
    figures = [
        pages.html_figure(
            report_figures.calibration(head, own["calibration_curve"]),
            f"Calibration. {what} in {len(own['calibration_curve'])} bins of about equally many "
            "rows: on the line, what is predicted is what happens; above it, predictions are too "
            "low.",
        ),
        pages.html_figure(
            report_figures.scores(head, curves["scores"]),
            f'Scores. <span class="key test">{_POSITIVE[head]}</span><span class="key">not</span>'
            f"{what} of both: the further apart they lie, the better they are told apart.",
        ),
    ]
    if curves["roc"]:
        rate = curves["precision_recall"][-1][1]  # of all rows
        figures.append(
            pages.html_figure(
                report_figures.separation(head, curves, rate),
                f"Separation. Left: which share of the rows {_POSITIVE[head]}, and of the others, "
                "lies above a threshold; AUC is the area. Right: which share of the rows above it "
                f"was {_POSITIVE[head]}. The thin lines are what chance gives.",
            )
        )
    drawn = "".join(figures)
    return f'<p>{own["labelled"]:,} rows have the label.</p><div class="figures wide">{drawn}</div>'


def segments(report: Report) -> str:
    """Returns the quality of each head in each segment."""
    own = report["segments"]
    heads = [head for head in ("click", "engagement") if head in own]
    parts = [
        "<p>Dots are the segment, lines its 95 % interval, the thin upright line is all rows "
        "together. A segment with few rows has a wide interval; only one whose interval lies "
        "aside of the upright line differs.</p>"
    ]
    parts += [
        f"<p>Not told apart by {pages.escaped(name)}: {pages.escaped(reason)}.</p>"
        for name, reason in own["absent"].items()
    ]
    for head in heads:
        figures = []
        for name in own["by"]:
            svg = report_figures.by_segment(
                f"{head}-{name}", own[head][name], report["ranker"][head]
            )
            figures.append(
                pages.html_figure(svg, f"{head}, {pages.escaped(_BY.get(name, f'by {name}'))}")
            )
        rows = [row for name in own["by"] for row in _rows(name, own[head][name])]
        head_row = ["", "rows", "observed", "predicted", "AUC", "95 % interval",
                    "normalised entropy", "predicted / observed", "95 % interval"]  # fmt: skip
        parts.append(
            f'<h3>{head.capitalize()}</h3><div class="figures wide">{"".join(figures)}</div>'
            f"<details><summary>As a table</summary>{pages.html_table(head_row, rows)}</details>"
        )
    return "".join(parts)


def _rows(name: str, segments: Sequence[Report]) -> list[list[str]]:
    return [
        pages.html_cells(
            f"{name}: {own['value']}",
            f"{own['rows']:,}",
            pages.format_percent(own["observed"]),
            pages.format_percent(own["predicted"]),
            pages.format_metric(own["auc"]),
            pages.format_interval(own["intervals"].get("auc")),
            pages.format_metric(own["normalized_entropy"]),
            pages.format_metric(own["calibration_ratio"]),
            pages.format_interval(own["intervals"].get("calibration_ratio")),
        )
        for own in segments
    ]
