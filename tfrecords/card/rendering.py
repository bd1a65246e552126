"""Renders a data card as text for a terminal and as an HTML page."""

import textwrap
from collections.abc import Iterable

from tfrecords import pages, terminal
from tfrecords.card import figures, model, statistics, tables

_WIDTH = 100
_SECTIONS = {
    "warnings": "Warnings",
    "splits": "Rows and requests",
    "labels": "Labels",
    "fields": "Fields",
    "drift": "Drift from training to test",
    "values": "Values of each field",
    "ads": "Ads",
    "rejected": "Rejected rows",
    "reading": "How to read the numbers",
}
_MIN_OPEN_DRIFTS = 10


def render_text(card: model.DataCard) -> str:
    """Returns the card as text."""
    source = card.data.source
    more = f" and {len(source.paths) - 1} more" if len(source.paths) > 1 else ""
    parts: list[str | pages.PageTable] = [
        f"Data card of {card.log_schema.name}: {source.lines:,} lines of {source.paths[0]}{more} "
        f"({source.format})",
        render_warnings(card.warnings) or "No warnings.",
        textwrap.fill(f"Split {card.split_meaning}", _WIDTH),
        tables.split_table(card),
        tables.label_table(card),
        *([_span(card.time)] if card.time.by_time else []),
        tables.field_table(card),
        textwrap.fill(_ads(card.ads), _WIDTH),
        tables.popularity_table(card),
        tables.new_ad_table(card),
        _rejected(card.rejected),
        *([tables.reason_table(card)] if card.rejected.count else []),
        "\n".join(f"{row.file}, line {row.line}: {row.reason}" for row in card.rejected.examples),
    ]
    return "\n\n".join(
        terminal.text_table(part.head, part.rows, (0, *part.left))
        if isinstance(part, pages.PageTable)
        else part
        for part in parts
        if part
    )


def render_warnings(warnings: Iterable[model.CardWarning]) -> str:
    """Returns warnings and notes as text, "" if there are none."""
    marks = {"warning": "! ", "note": "- "}
    return "\n".join(
        textwrap.fill(
            f"{warning.text} {warning.action}",
            _WIDTH,
            initial_indent=marks[warning.level],
            subsequent_indent="  ",
        )
        for warning in warnings
    )


def render_html(card: model.DataCard) -> str:
    """Returns the card as a page."""
    drifts = [field for field in card.fields if field.drift.psi is not None]
    drifts.sort(key=lambda field: -(field.drift.psi or 0))
    num_drifting = sum(field.drift.level != "stable" for field in drifts)
    return pages.render_page(
        "tfrecords.card",
        "card.html.jinja",
        title=f"Data card: {card.log_schema.name}",
        sections=_SECTIONS,
        card=card,
        figures=figures,
        tables=tables,
        span=_span(card.time),
        about_ads=_ads(card.ads),
        about_rejected=_rejected(card.rejected),
        drifts=drifts,
        num_open_drifts=max(num_drifting, _MIN_OPEN_DRIFTS),
        shifted=statistics.SHIFTED,
        drifted=statistics.DRIFTED,
        max_groups=statistics.MAX_GROUPS,
    )


def _span(time: model.TimeSummary) -> str:
    first, last = time.edges[0], time.edges[-1]
    if not time.by_time:
        return "The log has no time column: its rows are shown in file order."
    if time.unit is None:
        return f"Times from {first} to {last}, which are not dates in a known unit."
    return f"{first} to {last} UTC (times are read as {time.unit} since 1970)."


def _ads(ads: model.AdsSummary) -> str:
    return (
        f"{ads.count:,} ads: {ads.shown_in_training:,} are shown in training, and "
        f"{ads.clicked_in_training:,} of them are clicked; {ads.count - ads.shown_in_training:,} "
        f"are never shown in training. {pages.format_percent(ads.changed_share)} of the log's "
        f"impressions ({ads.impressions_of_changed_ads:,}) show an ad whose fields differ from the "
        "catalog's."
    )


def _rejected(rejected: model.RejectedRows) -> str:
    share = pages.format_percent(rejected.share)
    return f"{rejected.count:,} of {rejected.lines:,} lines were rejected ({share})."
