"""HTML pages, SVG figures and number formats of the reports on data and on models."""

from tfrecords.pages.number_format import (
    NO_VALUE,
    format_count,
    format_decimal,
    format_interval,
    format_mean,
    format_metric,
    format_percent,
)
from tfrecords.pages.rendering import PageTable, render_page
from tfrecords.pages.svg_figure import BAD, INK, RULE, TEST, TRAIN, draw_svg

__all__ = [
    "BAD",
    "INK",
    "NO_VALUE",
    "RULE",
    "TEST",
    "TRAIN",
    "PageTable",
    "draw_svg",
    "format_count",
    "format_decimal",
    "format_interval",
    "format_mean",
    "format_metric",
    "format_percent",
    "render_page",
]
