"""HTML, SVG and number formatting shared by the reports on data and on models."""

from tfrecords.pages.markup import (
    KEY,
    escaped,
    html_bar,
    html_cells,
    html_figure,
    html_page,
    html_table,
)
from tfrecords.pages.number_format import (
    NO_VALUE,
    format_count,
    format_decimal,
    format_interval,
    format_list,
    format_mean,
    format_metric,
    format_percent,
)
from tfrecords.pages.svg_figure import BAD, INK, RULE, TEST, TRAIN, draw_svg

__all__ = [
    "BAD",
    "INK",
    "KEY",
    "NO_VALUE",
    "RULE",
    "TEST",
    "TRAIN",
    "draw_svg",
    "escaped",
    "format_count",
    "format_decimal",
    "format_interval",
    "format_list",
    "format_mean",
    "format_metric",
    "format_percent",
    "html_bar",
    "html_cells",
    "html_figure",
    "html_page",
    "html_table",
]
