"""The sections of an evaluation's page that show the way from a request to ten ads."""

from collections.abc import Mapping, Sequence
from typing import Any

from tfrec import evaluation
from tfrec.reports import report_figures
from tfrecords import pages

Report = Mapping[str, Any]
_STAGES = {
    "tower": "The two-tower model ranks all ads; only its first {candidates} go on.",
    "index": "The index finds those {candidates} only nearly.",
    "filters": "Filters leave ads out.",
    "ranker": "The ranker orders what is left, and puts others than the best ten first.",
    "calibration": "The heads are weighed against each other by values that are too high or too "
    "low: what ten ads chosen by perfectly recalibrated heads would have brought more.",
}  # fmt: skip


def funnel(own: Report) -> str:
    """Returns where value, or clicked ads, are lost."""
    if own["truth"] == "planted":
        return _planted_funnel(own)
    if not own["clicks"]:
        return f"<p>Not measured: {pages.escaped(own['absent'])}.</p>"
    stages = [("clicked ads", 1.0), *((f"lost by {s}", v) for s, v in own["lost"].items())]
    stages.append(("in the ten", own["returned"]))
    beside = ", ".join(
        f"{name.replace('_', ' ')} {pages.format_percent(value)}"
        for name, value in own["beside"].items()
    )
    text = (
        f"Of {own['clicks']:,} held-out clicks: the share of clicked ads that are still there "
        "after each stage. This log has no truth beside it, so that the value of ads it never "
        "showed is not known; an ad that is better than the clicked one counts as a loss here. "
        "Shares are to compare systems by, not values."
    )
    rows = [
        pages.html_cells(
            stage,
            pages.format_percent(value),
            _percents(own["intervals"].get(f"survived_{stage}")),
        )
        for stage, value in own["survived"].items()
    ]
    return (
        f"<p>{pages.escaped(text)}</p>"
        + pages.html_figure(report_figures.waterfall("clicks", stages), "share of clicked ads")
        + pages.html_table(["still there after", "share", "95 % interval"], rows)
        + f"<p>Beside it, the clicked ad is among: {pages.escaped(beside)}.</p>"
    )


def in_words(own: Report) -> str:
    """Returns what is left at the end, and which stage loses most, as a sentence."""
    if own["truth"] != "planted":
        if not own["clicks"]:
            return ""
        worst = max(own["lost"], key=lambda stage: own["lost"][stage])
        return (
            f"Of {own['clicks']:,} held-out clicked ads, {pages.format_percent(own['returned'])} "
            f"are in the ten that are returned; most are lost by the {worst}, "
            f"{pages.format_percent(own['lost'][worst])}."
        )
    measured = own["utility"]
    worst = max(measured["lost"], key=lambda stage: measured["lost"][stage])
    best = measured["best_possible"]
    return (
        f"Of the value of the best possible ten ads, {_share(measured)} is returned; most is "
        f"lost by the {worst}, {pages.format_percent(measured['lost'][worst] / best)}. Of the "
        f"clicks of the ten that are best by clicks alone, {_share(own['click'])} is returned."
    )


def _share(measured: Report) -> str:
    bounds = _percents(measured["intervals"].get("share_returned"))
    return f"{pages.format_percent(measured['share_returned'])} ({bounds})"


def _planted_funnel(own: Report) -> str:
    captions = {
        "utility": "utility: click probability + engagement probability + expected revenue",
        "click": "clicks alone",
    }
    titles = ["", "value", "95 % interval", "of the best"]
    figures = []
    for name, caption in captions.items():
        if name == "utility" and len(own[name]["weights"]) == 1:
            continue
        measured = own[name]
        stages = [("best possible", measured["best_possible"])]
        stages += [
            (f"lost by {stage}", measured["lost"][stage]) for stage in evaluation.FUNNEL_STAGES
        ]
        stages.append(("returned", measured["returned"]))
        svg = report_figures.waterfall(name, stages)
        table = pages.html_table(titles, _funnel_rows(measured))
        figures.append(f"<div>{pages.html_figure(svg, pages.escaped(caption))}{table}</div>")
    text = (
        "The planted truth knows what every ad is worth to a request. The best possible ten ads "
        f"of {own['requests']} held-out requests are followed through the system, and each stage "
        "is charged with what it takes from the best that was still possible. The losses add up "
        "exactly to what is not returned; one below zero is luck. Values are sums over ten ads, "
        "each as in the first slot."
    )
    meanings = dict(_STAGES)
    if not own["filters"]:
        meanings["filters"] = "None were applied, so that nothing is lost here."
    said = "".join(
        f"<li><strong>{stage}</strong>: "
        f"{pages.escaped(meaning.format(candidates=own['candidates']))}</li>"
        for stage, meaning in meanings.items()
    )
    ndcg = [
        pages.html_cells(
            head,
            pages.format_metric(values["value"]),
            pages.format_interval(values["interval"]),
        )
        for head, values in own["ndcg_at_10_retrieved_lists"].items()
    ]
    return (
        f'<p>{pages.escaped(text)}</p><div class="figures wide">{"".join(figures)}</div>'
        f"<ul>{said}</ul>" + "<h3>NDCG@10 of retrieved lists</h3><p>How well the ranker orders the "
        f"{own['candidates']} candidates of a request, by their planted values: 1 is the right "
        "order of the first ten.</p>" + pages.html_table(["", "NDCG@10", "95 % interval"], ndcg)
    )


def _funnel_rows(measured: Report) -> list[list[str]]:
    values = {"best_possible": measured["best_possible"]}
    values |= {f"lost_{stage}": value for stage, value in measured["lost"].items()}
    values["returned"] = measured["returned"]
    best = measured["best_possible"]
    return [
        pages.html_cells(
            key.replace("lost_", "lost by ").replace("_", " "),
            pages.format_mean(value),
            _two_decimals(measured["intervals"].get(key)),
            pages.format_percent(value / best) if best else pages.NO_VALUE,
        )
        for key, value in values.items()
    ]


def realised(own: Report) -> str:
    """Returns what the system's ten ads bring, beside others'."""
    text = (
        f"Ten ads for each of {own['requests']} requests, in slots 0 to {own['slots'] - 1}, where "
        "the world clicks less the further down. Bars are what the planted truth expects of a "
        "request, dots are one simulated draw of its outcomes. The optimum knows the truth."
    )
    rows = []
    for name, values in own["choosers"].items():
        numbers = []
        for outcome in evaluation.REALIZED_OUTCOMES:
            numbers += [
                pages.format_metric(values[outcome]),
                pages.format_interval(values["intervals"].get(outcome)),
                pages.format_metric(values["simulated"][outcome]),
            ]
        rows.append(pages.html_cells(name.replace("_", " "), *numbers))
    head = [""]
    for outcome in evaluation.REALIZED_OUTCOMES:
        head += [outcome, "95 % interval", "simulated"]
    key = (
        '<span class="key">the system, expected</span><span class="key test">one draw</span>'
        "a request"
    )
    svg = report_figures.realised(own["choosers"], evaluation.REALIZED_OUTCOMES)
    return (
        f"<p>{pages.escaped(text)}</p>" + pages.html_figure(svg, key) + pages.html_table(head, rows)
    )


def _percents(interval: Sequence[float] | None) -> str:
    if interval is None:
        return pages.NO_VALUE
    return f"{pages.format_percent(interval[0])} to {pages.format_percent(interval[1])}"


def _two_decimals(interval: Sequence[float] | None) -> str:
    if interval is None:
        return pages.NO_VALUE
    return f"{pages.format_mean(interval[0])} to {pages.format_mean(interval[1])}"
