"""Renders an evaluation as one HTML page that needs nothing else, not even scripts."""

from collections.abc import Mapping, Sequence
from typing import Any

from tfrec.reports import html_funnel, html_heads
from tfrecords import pages

Report = Mapping[str, Any]


def render_report(report: Report, name: str) -> str:
    """Returns the page.

    Args:
        report: What `evaluation.evaluate` returned.
        name: Of the data set.
    """
    sections = [
        ("summary", "In short", _summary(report)),
        ("funnel", "Where value is lost", html_funnel.funnel(report["funnel"])),
    ]
    if "realised" in report:
        sections.append(
            ("realised", "What ten ads bring", html_funnel.realised(report["realised"]))
        )
    for head in report["ranker"]:
        sections.append((head, head.capitalize(), html_heads.section(report, head)))
    if report["segments"]["by"]:
        sections.append(("segments", "By segment", html_heads.segments(report)))
    sections.append(("retrieval", "Retrieval", _retrieval(report["retrieval"])))
    sections.append(("reading", "How it is measured", _reading(report)))
    title = f"Evaluation: {pages.escaped(name)}"
    return pages.html_page(title, _head(report), sections)


def _head(report: Report) -> str:
    own = report["funnel"]
    filters = f"filters {own['filters']}" if own["filters"] else "no filters"
    text = (
        f"{report['impressions']:,} impressions of the {report['split']} split, which no model "
        f"learned from; {own['ads']:,} ads; index: {own['index']}; {filters}."
    )
    return f'<p class="quiet">{pages.escaped(text)}</p>'


def _summary(report: Report) -> str:
    parts = [f"<p>{pages.escaped(html_funnel.in_words(report['funnel']))}</p>"]
    missing = [f"{head}: no such label in this log" for head in report["absent_heads"]]
    for head, own in report["ranker"].items():
        rows = [
            pages.html_cells(
                label,
                pages.format_metric(own[key]),
                pages.format_interval(own["intervals"].get(key)),
                *([pages.format_metric(own["planted"].get(key))] if "planted" in own else []),
            )
            for key, label in html_heads.METRICS.items()
            if own.get(key) is not None
        ]
        titles = ["", "value", "95 % interval", *(["reachable"] if "planted" in own else [])]
        parts.append(f"<h3>{head.capitalize()}</h3>{pages.html_table(titles, rows)}")
        missing += [
            f"{head}: {key.replace('_', ' ')}: {reason}" for key, reason in own["absent"].items()
        ]
    if missing:
        listed = "".join(f"<li>{pages.escaped(line)}</li>" for line in missing)
        parts.append(f"<details><summary>Not measured</summary><ul>{listed}</ul></details>")
    return "".join(parts)


def _retrieval(own: Report) -> str:
    who = [n for n in ("two_tower", "popularity", "item_knn", "planted") if own.get(n)]
    text = (
        f"{own['num_clicks']:,} held-out clicks, each looked for among all {own['num_ads']:,} ads. "
        "Recall is the share whose ad is among the first so many."
    )
    if not who:
        return f"<p>{pages.escaped(text)}</p>"
    keys = ("corpus_recall_at_10", "corpus_recall_at_50", "corpus_recall_at_100",
            "corpus_recall_at_500", "ndcg_at_10", "auc_against_uniform_ads",
            "auc_against_popular_ads", "catalogue_coverage_at_10")  # fmt: skip
    rows = [
        pages.html_cells(
            key.removeprefix("corpus_").replace("_at_", "@").replace("_", " "),
            *(pages.format_metric(own[name][key]) for name in who),
        )
        for key in keys
    ]
    titles = [name.replace("_", "-") for name in who]
    return f"<p>{pages.escaped(text)}</p>" + pages.html_table(["", *titles], rows)


def _reading(report: Report) -> str:
    own = report["intervals_are"]
    points: Sequence[str] = (
        f"Intervals hold the middle {100 * own['confidence']:.0f} % of {own['resamples']} "
        f"resamples. Whole {own['of']} are drawn, with all their rows, because rows of one "
        "depend on each other. Intervals say how much the number would change with other "
        "requests, not with another training.",
        "ECE, the calibration error: the mean distance between predicted and observed over bins. "
        "Noise makes it greater, in the data and again in a resample. Its "
        "interval is corrected for that, and may lie below the value.",
        "AUC: the chance that a positive row scores above a negative one. Per-user AUC: the same "
        "within each user that has both, weighted by rows.",
        "Normalised entropy: log loss over that of always predicting the observed rate; below 1 "
        "is information. In a segment the rate is the segment's own.",
        "Rows are scored with the slot that they were logged in, where a ranker has learnt what a "
        "slot adds; candidates of the funnel are scored as they are served, in no slot.",
        "Reachable: the same metric of the planted probabilities on the same rows, where the log "
        "is synthetic. Share of reachable: of the AUC above one half.",
        "Entropy of zero or not: normalised entropy of whether there is revenue. Normalised Gini: "
        "how well the order by expected revenue gathers the revenue; 1 is the order of what came.",
    )
    return "<ul>" + "".join(f"<li>{pages.escaped(point)}</li>" for point in points) + "</ul>"
