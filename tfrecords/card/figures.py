"""The figures of a data card, as SVG."""

from collections.abc import Sequence

from matplotlib import axes, figure, ticker

from tfrecords import pages
from tfrecords.card import model


def over_time(time: model.TimeSummary) -> str:
    """Draws rows and label rates over time in panels below each other."""
    rates = time.rates

    def draw(canvas: figure.Figure) -> None:
        panels = canvas.subplots(1 + len(rates), 1, sharex=True, squeeze=False)[:, 0]
        positions = range(len(time.rows))
        panels[0].bar(positions, time.rows, width=0.85, color=pages.TRAIN)
        panels[0].set_title("rows")
        panels[0].yaxis.set_major_formatter(ticker.EngFormatter(sep=""))
        for panel, (label, values) in zip(panels[1:], rates.items(), strict=True):
            known = [float("nan") if value is None else value for value in values]
            panel.plot(positions, known, color=pages.TRAIN, linewidth=1.3, marker=".", markersize=3)
            panel.set_title(f"share of rows with {label}")
            panel.set_ylim(bottom=0)
            panel.yaxis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=None))
        for panel in panels:
            panel.yaxis.set_major_locator(ticker.MaxNLocator(3, integer=panel is panels[0]))
        _name_ends(panels[-1], time.edges, len(positions))

    return pages.draw_svg("time", "Rows and label rates over time", draw, 1.0 + 1.1 * len(rates))


def popularity(curve: model.PopularityCurve) -> str:
    """Draws the cumulative share of impressions and clicks of the most popular ads."""

    def draw(canvas: figure.Figure) -> None:
        panel = canvas.subplots()
        ranks = curve.rank
        panel.semilogx(ranks, curve.impressions, color=pages.TRAIN, linewidth=1.5)
        panel.semilogx(ranks, curve.clicks, color=pages.TEST, linewidth=1.5)
        panel.set_xlim(1, max(ranks[-1], 2))
        panel.set_ylim(0, 1.02)
        panel.set_title("share of the ads up to a rank")
        panel.set_xlabel("rank of the ad, the most popular first")
        panel.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
        panel.xaxis.set_minor_formatter(ticker.NullFormatter())
        panel.yaxis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=0))

    return pages.draw_svg("popularity", "Popularity of the ads", draw, 2.1)


def buckets(name: str, field: model.FieldSummary) -> str:
    """Draws the shares of a numeric field's buckets: training as bars, test as a line."""
    boundaries, shares = field.boundaries, field.buckets

    def draw(canvas: figure.Figure) -> None:
        panel = canvas.subplots()
        positions = range(len(shares["train"]))
        panel.bar(positions, shares["train"], width=0.85, color=pages.TRAIN)
        edges = [position - 0.5 for position in range(len(positions) + 1)]
        panel.stairs(shares["test"], edges, color=pages.TEST, linewidth=1.3)
        panel.yaxis.set_major_locator(ticker.MaxNLocator(2))
        panel.yaxis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=None))
        last = len(boundaries) - 1
        marked = sorted({0, last // 3, 2 * last // 3, last}) if boundaries else []
        panel.set_xticks([i + 0.5 for i in marked], [_number(boundaries[i]) for i in marked])

    return pages.draw_svg(name, f"Buckets of {field.name}", draw, 1.25, 3.4)


def mean_list_length(lists: Sequence[int]) -> float:
    """Returns the mean length of lists, given their counts [width + 1] by length."""
    return sum(length * count for length, count in enumerate(lists)) / max(sum(lists), 1)


def _number(value: float) -> str:
    return ticker.EngFormatter(sep="", places=None).format_eng(float(f"{value:.3g}"))


def _name_ends(panel: axes.Axes, edges: Sequence[str], bins: int) -> None:
    positions = [-0.5, bins / 2 - 0.5, bins - 0.5]
    names = [edges[0], edges[len(edges) // 2], edges[-1]]
    panel.set_xticks(positions, names)
    first, _, last = panel.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
    panel.set_xlim(-0.6, bins - 0.4)
