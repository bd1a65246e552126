"""The data card: content and problems of a data set."""

from tfrecords.card.data_card import build_card
from tfrecords.card.html import render_html
from tfrecords.card.text import render_text

__all__ = [
    "build_card",
    "render_html",
    "render_text",
]
