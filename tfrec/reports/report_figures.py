"""The figures of an evaluation, as SVG."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import axes, figure, ticker

from tfrecords import pages

_LINE = 1.5
_ROW_INCHES = 0.21


def calibration(head: str, curve: Sequence[Mapping[str, Any]]) -> str:
    """Draws observed against predicted means of bins, with intervals."""

    def paint(canvas: figure.Figure) -> None:
        panel = canvas.subplots()
        x = [point["predicted"] for point in curve]
        y = [point["observed"] for point in curve]
        bounds = [point["interval"] or [point["observed"]] * 2 for point in curve]
        top = 1.05 * max(*x, *y, *(high for _, high in bounds), 1e-9)
        panel.plot([0, top], [0, top], color=pages.RULE, linewidth=1)
        for place, (low, high) in zip(x, bounds, strict=True):
            panel.plot([place, place], [low, high], color=pages.TRAIN, linewidth=0.9)
        panel.plot(x, y, color=pages.TRAIN, linewidth=0, marker="o", markersize=3.5)
        panel.set_xlim(0, top)
        panel.set_ylim(0, top)
        panel.set_title("observed")
        panel.set_xlabel("predicted")
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(ticker.MaxNLocator(5))
            axis.set_major_formatter(ticker.FuncFormatter(_short))

    title = f"Calibration of {head}: observed against predicted"
    return pages.draw_svg(f"calibration-{head}", title, paint, 2.7)


def separation(head: str, curves: Mapping[str, Any], rate: float) -> str:
    """Draws the ROC curve and precision against recall, side by side."""

    def paint(canvas: figure.Figure) -> None:
        roc, precision = canvas.subplots(1, 2)
        roc.plot([0, 1], [0, 1], color=pages.RULE, linewidth=1)
        roc.plot(*zip(*curves["roc"], strict=True), color=pages.TRAIN, linewidth=_LINE)
        roc.set_title("true positive rate")
        roc.set_xlabel("false positive rate")
        precision.plot([0, 1], [rate, rate], color=pages.RULE, linewidth=1)
        points = list(zip(*curves["precision_recall"], strict=True))
        precision.plot(*points, color=pages.TRAIN, linewidth=_LINE)
        precision.set_title("precision")
        precision.set_xlabel("recall")
        precision.set_ylim(bottom=0)
        for panel in (roc, precision):
            panel.set_xlim(0, 1)
            panel.xaxis.set_major_locator(ticker.MultipleLocator(0.5))
        roc.set_ylim(0, 1)

    return pages.draw_svg(
        f"separation-{head}", f"ROC and precision-recall curves of {head}", paint, 2.2
    )


def scores(head: str, histogram: Mapping[str, Any]) -> str:
    """Draws the shares of positive and negative rows by predicted score."""

    def paint(canvas: figure.Figure) -> None:
        panel = canvas.subplots()
        edges = histogram["edges"]
        panel.stairs(histogram["negative"], edges, color=pages.TRAIN, linewidth=_LINE)
        panel.stairs(histogram["positive"], edges, color=pages.TEST, linewidth=_LINE)
        if histogram["ratios"]:
            panel.set_xscale("log")
            panel.xaxis.set_minor_formatter(ticker.NullFormatter())
        panel.xaxis.set_major_formatter(ticker.FuncFormatter(_short))
        panel.yaxis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=0))
        panel.yaxis.set_major_locator(ticker.MaxNLocator(3))
        panel.set_title("share of rows")
        panel.set_xlabel("predicted")

    return pages.draw_svg(f"scores-{head}", f"Predicted scores of {head}", paint, 1.9)


def by_segment(name: str, segments: Sequence[Mapping[str, Any]], overall: Mapping[str, Any]) -> str:
    """Draws AUC and predicted / observed of segments with intervals, one line per segment."""
    columns = (("auc", "AUC"), ("calibration_ratio", "predicted / observed"))

    def paint(canvas: figure.Figure) -> None:
        panels = canvas.subplots(1, 2, sharey=True)
        for panel, (key, title) in zip(panels, columns, strict=True):
            if overall[key] is not None:
                panel.axvline(overall[key], color=pages.TEST, linewidth=1)
            for place, own in enumerate(segments):
                _interval(panel, place, own[key], own["intervals"].get(key))
            panel.set_title(title)
            panel.grid(axis="x", color=pages.RULE, linewidth=0.5)
            panel.grid(visible=False, axis="y")
            panel.xaxis.set_major_locator(ticker.MaxNLocator(4))
        panels[0].set_yticks(range(len(segments)), [_cut(own["value"]) for own in segments])
        panels[0].set_ylim(len(segments) - 0.5, -0.5)
        _limit(panels[1], segments, "calibration_ratio")

    title = f"Quality by {name}"
    height = 0.55 + _ROW_INCHES * len(segments)
    return pages.draw_svg(f"segments-{name}", title, paint, height)


def waterfall(name: str, stages: Sequence[Sequence[Any]]) -> str:
    """Draws what is lost between the first and the last bar, one line per stage.

    Args:
        name: Name of the figure.
        stages: Labels and values; the first and the last are totals, the others losses.
    """

    def paint(canvas: figure.Figure) -> None:
        panel = canvas.subplots()
        largest = max(stages[0][1], stages[-1][1], 1e-9)
        left = stages[0][1]
        for place, (_, value, *_) in enumerate(stages):
            if place in (0, len(stages) - 1):
                panel.barh(place, value, height=0.62, color=pages.TRAIN)
                end, text = value, _short(value)
            else:
                color = pages.BAD if value > 0 else pages.TEST
                panel.barh(place, -value, left=left, height=0.62, color=color)
                end = max(left, left - value)
                left -= value
                is_zero = abs(value) < 1e-9 * largest  # up to rounding
                text = "0" if is_zero else f"{'−' if value > 0 else '+'}{_short(abs(value))}"
            panel.text(end, place, f" {text}", va="center", color=pages.INK)
        panel.set_yticks(range(len(stages)), [stage for stage, *_ in stages])
        panel.set_ylim(len(stages) - 0.5, -0.5)
        panel.set_xlim(0, 1.16 * largest)
        panel.grid(visible=False)
        panel.set_xticks([])

    height = 0.2 + 0.26 * len(stages)
    return pages.draw_svg(f"funnel-{name}", f"Funnel of {name}", paint, height)


def realised(choosers: Mapping[str, Mapping[str, Any]], outcomes: Sequence[str]) -> str:
    """Draws expected and simulated outcomes of each chooser's ten ads, one panel per outcome."""

    def paint(canvas: figure.Figure) -> None:
        panels = canvas.subplots(1, len(outcomes), sharey=True)
        for panel, outcome in zip(panels, outcomes, strict=True):
            for place, (name, own) in enumerate(choosers.items()):
                color = pages.TRAIN if name == "system" else pages.RULE
                panel.barh(place, own[outcome], height=0.62, color=color)
                simulated = own["simulated"][outcome]
                panel.plot(simulated, place, color=pages.TEST, marker="o", markersize=3.5)
            panel.set_title(outcome)
            panel.grid(visible=False)
            panel.set_xlim(left=0)
            panel.xaxis.set_major_locator(ticker.MaxNLocator(3))
        names = [name.replace("_", " ") for name in choosers]
        panels[0].set_yticks(range(len(names)), names)
        panels[0].set_ylim(len(names) - 0.5, -0.5)

    height = 0.5 + 0.26 * len(choosers)
    return pages.draw_svg("realised", "Value of ten ads", paint, height)


def _interval(
    panel: axes.Axes, place: int, value: float | None, interval: Sequence[float] | None
) -> None:
    if value is None:
        return
    if interval is not None:
        panel.plot(interval, [place, place], color=pages.TRAIN, linewidth=1)
    panel.plot(value, place, color=pages.TRAIN, marker="o", markersize=3.5)


def _limit(panel: axes.Axes, segments: Sequence[Mapping[str, Any]], key: str) -> None:
    """Limits the axis, so that a segment with few rows does not compress the others."""
    values = [own[key] for own in segments if own[key] is not None]
    if values:
        low, high = panel.get_xlim()
        panel.set_xlim(max(low, min(values) - 0.6), min(high, max(*values, 1.0) + 0.6))


def _short(value: float, _: object = None) -> str:
    return f"{value:.3g}"


def _cut(text: str) -> str:
    """Shortens a value to one short line."""
    text = " ".join(text.split())
    return text if len(text) <= 18 else text[:17] + "…"
