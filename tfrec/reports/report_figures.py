"""The figures of an evaluation, as SVG."""

from collections.abc import Mapping, Sequence

from matplotlib import axes, figure, ticker

from tfrec.evaluation import (
    CalibrationBin,
    Estimate,
    ScoreCurves,
    ScoreHistogram,
    Segment,
)
from tfrecords import pages, terminal

_LINE = 1.5
_ROW_INCHES = 0.21


def calibration(head: str, curve: Sequence[CalibrationBin]) -> str:
    """Draws observed against predicted means of bins, with intervals."""

    def paint(canvas: figure.Figure) -> None:
        panel = canvas.subplots()
        highest = [point.observed.interval or (0.0, point.observed.value or 0.0) for point in curve]
        top = 1.05 * max(*(point.predicted for point in curve), *(end for _, end in highest), 1e-9)
        panel.plot([0, top], [0, top], color=pages.RULE, linewidth=1)
        for point in curve:
            _point(panel, point.observed, at=point.predicted, vertical=True)
        panel.set_xlim(0, top)
        panel.set_ylim(0, top)
        panel.set_title("observed")
        panel.set_xlabel("predicted")
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(ticker.MaxNLocator(5))
            axis.set_major_formatter(ticker.FuncFormatter(_short))

    title = f"Calibration of {head}: observed against predicted"
    return pages.draw_svg(f"calibration-{head}", title, paint, 2.7)


def separation(head: str, curves: ScoreCurves) -> str:
    """Draws the ROC curve and precision against recall, side by side."""

    def paint(canvas: figure.Figure) -> None:
        assert curves.roc is not None
        assert curves.precision_recall is not None
        rate = curves.precision_recall[-1][1]
        roc, precision = canvas.subplots(1, 2)
        roc.plot([0, 1], [0, 1], color=pages.RULE, linewidth=1)
        roc.plot(*zip(*curves.roc, strict=True), color=pages.TRAIN, linewidth=_LINE)
        roc.set_title("true positive rate")
        roc.set_xlabel("false positive rate")
        precision.plot([0, 1], [rate, rate], color=pages.RULE, linewidth=1)
        points = zip(*curves.precision_recall, strict=True)
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


def scores(head: str, histogram: ScoreHistogram) -> str:
    """Draws the shares of positive and negative rows by predicted score."""

    def paint(canvas: figure.Figure) -> None:
        panel = canvas.subplots()
        edges = histogram.edges
        panel.stairs(histogram.negative, edges, color=pages.TRAIN, linewidth=_LINE)
        panel.stairs(histogram.positive, edges, color=pages.TEST, linewidth=_LINE)
        if histogram.ratios:
            panel.set_xscale("log")
            panel.xaxis.set_minor_formatter(ticker.NullFormatter())
            if edges[-1] < 100 * edges[0]:
                # Too few powers of ten for a scale.
                panel.set_xticks(edges[:: len(edges) // 5])
        panel.xaxis.set_major_formatter(ticker.FuncFormatter(_short))
        panel.yaxis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=0))
        panel.yaxis.set_major_locator(ticker.MaxNLocator(3))
        panel.set_title("share of rows")
        panel.set_xlabel("predicted")

    return pages.draw_svg(f"scores-{head}", f"Predicted scores of {head}", paint, 1.9)


def by_segment(name: str, segments: Sequence[Segment], overall: Mapping[str, Estimate]) -> str:
    """Draws AUC and predicted / observed of segments with intervals, one line per segment."""
    columns = (("auc", "AUC"), ("calibration_ratio", "predicted / observed"))

    def paint(canvas: figure.Figure) -> None:
        panels = canvas.subplots(1, 2, sharey=True)
        for panel, (key, title) in zip(panels, columns, strict=True):
            if overall[key].value is not None:
                panel.axvline(overall[key].value, color=pages.TEST, linewidth=1)
            for position, segment in enumerate(segments):
                _point(panel, segment.metrics[key], at=position)
            panel.set_title(title)
            panel.grid(axis="x", color=pages.RULE, linewidth=0.5)
            panel.grid(visible=False, axis="y")
            panel.xaxis.set_major_locator(ticker.MaxNLocator(4))
        panels[0].set_yticks(range(len(segments)), [_cut(segment.value) for segment in segments])
        panels[0].set_ylim(len(segments) - 0.5, -0.5)
        _limit(panels[1], segments, "calibration_ratio")

    title = f"Quality by {name}"
    height = 0.55 + _ROW_INCHES * len(segments)
    return pages.draw_svg(f"segments-{name}", title, paint, height)


def waterfall(name: str, stages: Sequence[tuple[str, Estimate]]) -> str:
    """Draws the losses between the first and the last bar, which are totals, one line per stage."""

    def paint(canvas: figure.Figure) -> None:
        panel = canvas.subplots()
        values = [estimate.value or 0.0 for _, estimate in stages]
        largest, left = max(values[0], values[-1], 1e-9), values[0]
        for position, value in enumerate(values):
            if position in (0, len(stages) - 1):
                panel.barh(position, value, height=0.62, color=pages.TRAIN)
                end, text = value, _short(value)
            else:
                color = pages.BAD if value > 0 else pages.TEST
                panel.barh(position, -value, left=left, height=0.62, color=color)
                end = max(left, left - value)
                left -= value
                is_zero = abs(value) < 1e-9 * largest  # up to rounding
                text = "0" if is_zero else f"{'−' if value > 0 else '+'}{_short(abs(value))}"
            panel.text(end, position, f" {text}", va="center", color=pages.INK)
        panel.set_yticks(range(len(stages)), [stage for stage, _ in stages])
        panel.set_ylim(len(stages) - 0.5, -0.5)
        panel.set_xlim(0, 1.16 * largest)
        panel.grid(visible=False)
        panel.set_xticks([])

    height = 0.2 + 0.26 * len(stages)
    return pages.draw_svg(f"funnel-{name}", f"Funnel of {name}", paint, height)


def _point(panel: axes.Axes, estimate: Estimate, at: float, vertical: bool = False) -> None:
    """Draws a value and its interval, `at` on the other axis."""
    if estimate.value is None:
        return
    interval, across = estimate.interval or (estimate.value, estimate.value), (at, at)
    line = (across, interval) if vertical else (interval, across)
    panel.plot(*line, color=pages.TRAIN, linewidth=1)
    point = (at, estimate.value) if vertical else (estimate.value, at)
    panel.plot(*point, color=pages.TRAIN, marker="o", markersize=3.5)


def _limit(panel: axes.Axes, segments: Sequence[Segment], key: str) -> None:
    """Limits the axis, so that a segment with few rows does not compress the others."""
    values = [segment.metrics[key].value for segment in segments]
    known = [value for value in values if value is not None]
    if known:
        low, high = panel.get_xlim()
        panel.set_xlim(max(low, min(known) - 0.6), min(high, max(*known, 1.0) + 0.6))


def _short(value: float, _: object = None) -> str:
    return f"{value:.3g}"


def _cut(text: str) -> str:
    """Shortens a value to one short line."""
    return terminal.cut_text(" ".join(text.split()), 18)
