"""Matplotlib figures as SVG elements of a page.

Their font is the page's, and their colors are its CSS variables (`templates/base.css`), so that
they follow its light or dark scheme.
"""

import html
import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import markupsafe
import matplotlib as mpl
from matplotlib import figure
from matplotlib.backends import backend_svg

# Placeholder colors, which `draw_svg` replaces by CSS variables.
INK, RULE, TRAIN, TEST, BAD = "#010203", "#020304", "#030405", "#040506", "#050607"
_CSS = {
    INK: "var(--quiet)",
    RULE: "var(--rule)",
    TRAIN: "var(--train)",
    TEST: "var(--test)",
    BAD: "var(--bad)",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 8.5,
    # A value with two dollar signs is not a formula.
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "ytick.major.size": 0,
}
_WIDTH_INCHES = 4.8


def draw_svg(
    name: str,
    title: str,
    paint: Callable[[figure.Figure], None],
    height_inches: float,
    width_inches: float = _WIDTH_INCHES,
) -> markupsafe.Markup:
    """Draws a figure and returns it as SVG.

    Args:
        name: Name, unique on the page; element ids begin with it.
        title: Text alternative.
        paint: Draws into an empty canvas, with the placeholder colors only.
        height_inches: Height.
        width_inches: Width; the page scales the figure to the available width.
    """
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        canvas = figure.Figure(figsize=(width_inches, height_inches), layout="constrained")
        paint(canvas)
        file = io.StringIO()
        # The page's font may have glyphs that Matplotlib's font lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        backend_svg.FigureCanvasSVG(canvas).print_svg(file, metadata={"Date": None})
    return markupsafe.Markup(_inline(file.getvalue(), name, title))


def _inline(svg: str, name: str, title: str) -> str:
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    label = f'role="img" aria-label="{html.escape(title)}"'
    body = re.sub(
        r'<svg[^>]*(viewBox="[^"]+")[^>]*>', lambda tag: f"<svg {tag[1]} {label}>", body, count=1
    )
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    # The figure has no background.
    body = re.sub(r'<g id="patch_1">.*?</g>', "", body, count=1, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    # Ids of two figures on one page must differ.
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(href="|url\()#', rf"\1#{name}-", body).replace("xlink:href", "href")
    body = re.sub(r"font: (?:\d+ )?([\d.]+px) [^;\"]*", r"font-size: \1", body)
    body = re.sub(r" font-family: [^;\"]*;", "", body)
    # Two decimals are enough for coordinates; text between tags is not changed.
    body = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), body)
    body = re.sub(r"fill: #ffffff", "fill: none", body)
    for color, variable in _CSS.items():
        body = body.replace(color, variable)
    return re.sub(r"\s*\n\s*", " ", re.sub(r">\s+<", "><", body))
