"""The data card: content of a data set, and problems in it."""

from tfrecords.card.data_card import build_card
from tfrecords.card.model import DataCard
from tfrecords.card.rendering import render_html, render_text, render_warnings

__all__ = [
    "DataCard",
    "build_card",
    "render_html",
    "render_text",
    "render_warnings",
]
