"""Renders an evaluation as a page or as text."""

from tfrec.reports.html import render_report
from tfrec.reports.text import report_as_text, step_times

__all__ = [
    "render_report",
    "report_as_text",
    "step_times",
]
