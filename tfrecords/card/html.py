"""Renders a data card as an HTML page."""

from collections.abc import Sequence
from typing import Any

from tfrecords import pages
from tfrecords.card import figures, statistics

_SECTIONS = {
    "warnings": "Warnings",
    "splits": "Rows and requests",
    "labels": "Labels",
    "fields": "Fields",
    "drift": "Drift from training to test",
    "values": "Values of each field",
    "ads": "Ads",
    "rejected": "Rejected rows",
    "reading": "How numbers are counted",
}
_MIN_OPEN_DRIFTS = 10


def render_html(card: dict[str, Any]) -> str:
    """Returns the page."""
    drifts = [field for field in card["fields"] if field["drift"]["psi"] is not None]
    drifts.sort(key=lambda field: -field["drift"]["psi"])
    num_drifting = sum(field["drift"]["level"] != "stable" for field in drifts)
    return pages.render_page(
        "tfrecords.card",
        "card.html.jinja",
        title=f"Data card: {card['name']}",
        sections=_SECTIONS,
        card=card,
        figures=figures,
        labels=[name for name, column in card["keys"].items() if column is not None],
        drifts=drifts,
        num_open_drifts=max(num_drifting, _MIN_OPEN_DRIFTS),
        shifted=statistics.SHIFTED,
        drifted=statistics.DRIFTED,
        max_groups=statistics.MAX_GROUPS,
        mean_list_length=_mean_list_length,
    )


def _mean_list_length(lists: Sequence[int]) -> float:
    """Returns the mean length of lists, given their counts [width + 1] by length."""
    return sum(length * count for length, count in enumerate(lists)) / max(sum(lists), 1)
