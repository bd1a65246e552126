"""The figures of a data card, as SVG to put into a page.

They take their colours from the page's CSS variables, so that they follow its light or dark
scheme, and its font.
"""

import html
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib import axes, figure, ticker
from matplotlib.backends import backend_svg

# Drawn in these colours, which nothing else uses, and replaced by what the page says.
_INK, _RULE, _TRAIN, _TEST = "#010203", "#020304", "#030405", "#040506"
_CSS = {_INK: "var(--quiet)", _RULE: "var(--rule)", _TRAIN: "var(--train)", _TEST: "var(--test)"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.5,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "ytick.major.size": 0,
}
_WIDTH_INCHES = 4.8


def over_time(time: dict[str, Any]) -> str:
    """Draws rows and label rates over time, one panel below the other."""
    rates = time["rates"]

    def draw(canvas: figure.Figure) -> None:
        panels = canvas.subplots(1 + len(rates), 1, sharex=True, squeeze=False)[:, 0]
        places = range(len(time["rows"]))
        panels[0].bar(places, time["rows"], width=0.85, color=_TRAIN)
        panels[0].set_title("rows")
        panels[0].yaxis.set_major_formatter(ticker.EngFormatter(sep=""))
        for panel, (label, values) in zip(panels[1:], rates.items(), strict=True):
            known = [float("nan") if value is None else value for value in values]
            panel.plot(places, known, color=_TRAIN, linewidth=1.3, marker=".", markersize=3)
            panel.set_title(f"share of rows with {label}")
            panel.set_ylim(bottom=0)
            panel.yaxis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=None))
        for panel in panels:
            panel.yaxis.set_major_locator(ticker.MaxNLocator(3, integer=panel is panels[0]))
        _name_ends(panels[-1], time["edges"], len(places))

    return _svg("time", "Rows and label rates over time", draw, 1.0 + 1.1 * len(rates))


def list_lengths(splits: dict[str, Any]) -> str:
    """Draws the shares of training and test requests by their number of ads."""
    shares = {s: _length_shares(splits[s]["list_lengths"]["counts"]) for s in ("train", "test")}
    names = list(dict.fromkeys([*shares["train"], *shares["test"]]))
    names.sort(key=lambda name: int(name.split("–")[0].rstrip("+")))

    def draw(canvas: figure.Figure) -> None:
        panel = canvas.subplots()
        for offset, (split, color) in enumerate((("train", _TRAIN), ("test", _TEST))):
            places = [index + 0.42 * (offset - 0.5) for index in range(len(names))]
            panel.bar(places, [shares[split].get(n, 0) for n in names], width=0.4, color=color)
        panel.set_xticks(range(len(names)), names)
        panel.set_title("share of requests, by number of ads")
        panel.yaxis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=0))
        panel.yaxis.set_major_locator(ticker.MaxNLocator(4))

    return _svg("lengths", "Requests by number of ads", draw, 1.9)


def popularity(curve: dict[str, Any]) -> str:
    """Draws the share of impressions and clicks that the most popular ads have."""

    def draw(canvas: figure.Figure) -> None:
        panel = canvas.subplots()
        ranks = curve["rank"]
        panel.semilogx(ranks, curve["impressions"], color=_TRAIN, linewidth=1.5)
        panel.semilogx(ranks, curve["clicks"], color=_TEST, linewidth=1.5)
        panel.set_xlim(1, max(ranks[-1], 2))
        panel.set_ylim(0, 1.02)
        panel.set_title("share of the ads up to a rank")
        panel.set_xlabel("rank of the ad, the most popular first")
        panel.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
        panel.xaxis.set_minor_formatter(ticker.NullFormatter())
        panel.yaxis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=0))

    return _svg("popularity", "Popularity of the ads", draw, 2.1)


def buckets(name: str, field: dict[str, Any]) -> str:
    """Draws the shares of a numeric field's buckets, training as bars and test as a line."""
    boundaries, shares = field["boundaries"], field["buckets"]

    def draw(canvas: figure.Figure) -> None:
        panel = canvas.subplots()
        places = range(len(shares["train"]))
        panel.bar(places, shares["train"], width=0.85, color=_TRAIN)
        edges = [place - 0.5 for place in range(len(places) + 1)]
        panel.stairs(shares["test"], edges, color=_TEST, linewidth=1.3)
        panel.yaxis.set_major_locator(ticker.MaxNLocator(2))
        panel.yaxis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=None))
        last = len(boundaries) - 1
        marked = sorted({0, last // 3, 2 * last // 3, last}) if boundaries else []
        panel.set_xticks([i + 0.5 for i in marked], [_number(boundaries[i]) for i in marked])

    return _svg(name, f"Buckets of {field['name']}", draw, 1.25, 3.4)


def _number(value: float) -> str:
    return ticker.EngFormatter(sep="", places=None).format_eng(float(f"{value:.3g}"))


def _length_shares(counts: Sequence[Sequence[int]]) -> dict[str, float]:
    """Returns the shares of list lengths, long ones in doubling ranges where there are many."""
    total = sum(requests for _, requests in counts)
    single = not counts or counts[-1][0] <= 16
    shares: dict[str, float] = {}
    for length, requests in counts:
        low = length if single else 1 << (length.bit_length() - 1)
        name = f"{low}–{2 * low - 1}" if not single and low > 1 else f"{low}"
        shares[name] = shares.get(name, 0.0) + requests / total
    return shares


def _name_ends(panel: axes.Axes, edges: Sequence[str], bins: int) -> None:
    places = [-0.5, bins / 2 - 0.5, bins - 0.5]
    names = [edges[0], edges[len(edges) // 2], edges[-1]]
    panel.set_xticks(places, names)
    first, _, last = panel.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
    panel.set_xlim(-0.6, bins - 0.4)


def _svg(
    name: str,
    title: str,
    draw: Callable[[figure.Figure], None],
    height_inches: float,
    width_inches: float = _WIDTH_INCHES,
) -> str:
    """Draws a figure and returns it as SVG whose ids begin with its name."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        canvas = figure.Figure(figsize=(width_inches, height_inches), layout="constrained")
        draw(canvas)
        file = io.StringIO()
        backend_svg.FigureCanvasSVG(canvas).print_svg(file, metadata={"Date": None})
    return _inline(file.getvalue(), name, title)


def _inline(svg: str, name: str, title: str) -> str:
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    label = f'role="img" aria-label="{html.escape(title)}"'
    body = re.sub(
        r'<svg[^>]*(viewBox="[^"]+")[^>]*>', lambda tag: f"<svg {tag[1]} {label}>", body, count=1
    )
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    # The background is the page's.
    body = re.sub(r'<g id="patch_1">.*?</g>', "", body, count=1, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    # Ids of two figures on one page must differ.
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(href="|url\()#', rf"\1#{name}-", body).replace("xlink:href", "href")
    body = re.sub(r"font: (?:\d+ )?([\d.]+px) [^;\"]*", r"font-size: \1", body)
    body = re.sub(r" font-family: [^;\"]*;", "", body)
    body = re.sub(r"(\.\d\d)\d+", r"\1", body)
    body = re.sub(r"fill: #ffffff", "fill: none", body)
    for color, variable in _CSS.items():
        body = body.replace(color, variable)
    return re.sub(r"\s*\n\s*", " ", re.sub(r">\s+<", "><", body))
