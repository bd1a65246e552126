"""Renders a data card as one HTML page that needs nothing else, not even scripts."""

import html
from collections.abc import Callable, Sequence
from typing import Any

from tfrecords import pages
from tfrecords.card import figures, html_fields
from tfrecords.splits import SPLITS


def render_html(card: dict[str, Any]) -> str:
    """Returns the page."""
    sections: tuple[tuple[str, str, Callable[[dict[str, Any]], str]], ...] = (
        ("warnings", "Warnings", _warnings),
        ("splits", "Rows and requests", _splits),
        ("labels", "Labels", _labels),
        ("fields", "Fields", html_fields.overview),
        ("drift", "Drift from training to test", html_fields.drift),
        ("values", "Values of each field", html_fields.cards),
        ("ads", "Ads", _ads),
        ("rejected", "Rejected rows", _rejected),
        ("reading", "How it is counted", _reading),
    )
    title = f"Data card: {pages.escaped(card['name'])}"
    parts = [(name, heading, section(card)) for name, heading, section in sections]
    return pages.html_page(title, _head(card), parts)


def _head(card: dict[str, Any]) -> str:
    source = card["source"]
    paths = ", ".join(f"<code>{pages.escaped(path)}</code>" for path in source["paths"])
    ads = card["ads"]["count"]
    return (
        f'<p class="quiet">{source["lines"]:,} lines of {paths} '
        f"({pages.escaped(source['format'])}), converted to "
        f"<code>{pages.escaped(card['directory'])}</code>; {ads:,} ads, "
        f"{len(card['fields'])} fields, fingerprint <code>{card['fingerprint']}</code>.</p>"
    )


def _warnings(card: dict[str, Any]) -> str:
    if not card["warnings"]:
        return '<p class="fine">Nothing to warn of.</p>'
    items = "".join(
        f'<li class="{own["level"]}"><strong>{pages.escaped(own["text"])}</strong>'
        f"{pages.escaped(own['action'])}</li>"
        for own in card["warnings"]
    )
    return f'<ul class="warnings">{items}</ul>'


def _splits(card: dict[str, Any]) -> str:
    head = ["", "rows", "requests", "mean ads", "median", "90 %", "99 %", "most",
            "one ad", "with a click", "sampled rows"]  # fmt: skip
    rows = []
    for split in SPLITS:
        own = card["splits"][split]
        lengths = own["list_lengths"]
        numbers = [pages.format_count(lengths.get(k)) for k in ("median", "p90", "p99", "max")]
        rows.append(
            pages.html_cells(
                split,
                f"{own['rows']:,}",
                f"{own['requests']:,}",
                pages.format_mean(lengths["mean"]),
                *numbers,
                pages.format_percent(lengths.get("one_ad")),
                pages.format_percent(own["share_with_click"]),
                f"{own['sampled']:,}",
            )
        )
    parts = [
        f"<p>Split {pages.escaped(card['split']['meaning'])}</p>",
        pages.html_table(head, rows),
    ]
    lengths = [card["splits"][split]["list_lengths"] for split in ("train", "test")]
    if max((own["max"] for own in lengths if own["counts"]), default=1) > 1:
        parts.append(pages.html_figure(figures.list_lengths(card["splits"]), pages.KEY))
    if card["sampled_negatives"]:
        parts.append(
            f"<p>{card['sampled_negatives']} ads drawn as not clicked are added for each click; "
            "they are in these rows, and not in the log.</p>"
        )
    return "".join(parts)


def _labels(card: dict[str, Any]) -> str:
    head = ["", "share above 0", "mean", "rows above 0", "rows with the label", "missing"]
    rows = []
    for label in card["splits"]["train"]["labels"]:
        for split in SPLITS:
            own = card["splits"][split]["labels"][label]
            rows.append(
                pages.html_cells(
                    f"{label}, {split}",
                    pages.format_percent(own["rate"]),
                    pages.format_decimal(own["mean"]),
                    *(f"{own[name]:,}" for name in ("positive", "known", "missing")),
                )
            )
    columns = ", ".join(
        f"{label} is <code>{pages.escaped(str(column))}</code>"
        for label in ("click", "engagement", "revenue")
        if (column := card["keys"][label]) is not None
    )
    threshold = card["keys"]["click_threshold"]
    rated = f", a click from {threshold:g} on" if threshold is not None else ""
    said = f"<p>In the log {columns}{rated}.</p>" if columns else ""
    return said + pages.html_table(head, rows) + _over_time(card["time"])


def _over_time(time: dict[str, Any]) -> str:
    edges = pages.escaped(f"{time['edges'][0]} to {time['edges'][-1]}")
    if not time["by_time"]:
        what = "The log in its own order, as it has no time column, in equal numbers of rows"
    elif time["unit"]:
        what = f"{edges} UTC (times are {time['unit']} since 1970), in equal spans of time"
    else:
        what = f"Times from {edges}, which are no dates in any usual unit, in equal spans"
    return pages.html_figure(figures.over_time(time), f"{what}, all splits together.")


def _ads(card: dict[str, Any]) -> str:
    ads = card["ads"]
    never = ads["count"] - ads["shown_in_training"]
    text = (
        f"<p>{ads['count']:,} ads: training shows {ads['shown_in_training']:,} of them and has "
        f"clicks on {ads['clicked_in_training']:,}; {never:,} are never shown there.</p>"
    )
    top = [
        pages.html_cells(
            f"the first {own['rank']:,}",
            pages.format_percent(own["impressions"]),
            pages.format_percent(own["clicks"]),
        )
        for own in ads["popularity"]["top"]
    ]
    shown = [
        pages.html_cells(
            own["ad_id"],
            f"{own['impressions']:,}",
            pages.format_percent(own["share"]),
            pages.format_percent(own["click_rate"]),
        )
        for own in ads["most_shown"]
    ]
    new = [
        pages.html_cells(
            split,
            f"{own['ads']:,} of {own['of_ads']:,}",
            pages.format_percent(own["share"]) + f" of {own['counted']}",
            pages.format_percent(own["share_of_clicks"]),
        )
        for split, own in ads["new"].items()
    ]
    key = '<span class="key">impressions</span><span class="key test">clicks</span>in training'
    curve = pages.html_figure(figures.popularity(ads["popularity"]["curve"]), key)
    return (
        f'{text}<div class="figures">{curve}<div>'
        f"{pages.html_table(['most popular', 'impressions', 'clicks'], top)}</div></div>"
        "<h3>Ads that training never showed</h3>"
        f"{pages.html_table(['', 'ads', 'their share', 'share of clicks'], new)}"
        f"<p>{pages.format_percent(ads['changed_share'])} of the log's impressions "
        f"({ads['impressions_of_changed_ads']:,}) show an ad whose fields differ from the "
        "catalogue's, which keeps the latest values of each ad.</p>"
        "<h3>Most shown in training</h3>"
        f"{pages.html_table(['ad', 'impressions', 'share', 'click rate'], shown)}"
    )


def _rejected(card: dict[str, Any]) -> str:
    own = card["rejected"]
    share = pages.format_percent(own["share"])
    text = f"<p>{own['count']:,} of {own['lines']:,} lines were rejected ({share}).</p>"
    if not own["count"]:
        return text
    more = own["distinct_reasons"] - len(own["reasons"])
    reasons = [
        pages.html_cells(
            f"{r['count']:,}", pages.format_percent(r["count"] / own["count"]), r["reason"]
        )
        for r in own["reasons"]
    ]
    examples = [
        pages.html_cells(f"{e['file']}, line {e['line']}", e["reason"], e["text"], wide=(0, 1, 2))
        for e in own["examples"]
    ]
    return (
        text
        + pages.html_table(["rows", "share", "reason"], reasons, left=(2,))
        + (f"<p>{more:,} more reasons are in rejected.tsv.</p>" if more else "")
        + "<h3>The first</h3>"
        + pages.html_table(["where", "reason", "line"], examples, left=(1, 2))
    )


def _reading(card: dict[str, Any]) -> str:
    points: Sequence[str] = (
        "Every number is counted over all rows, except boundaries of numeric buckets, which are "
        "fitted to at most 500,000 evenly picked training rows.",
        "Query-side fields are counted once a request, ad-side fields once an impression"
        + (", drawn ads included" if card["sampled_negatives"] else "") + ".",
        "Missing: an empty value, or an empty list. Out of vocabulary: a value that the "
        "vocabulary, fitted to training, leaves out; its share is of the values that are there.",
        "A list keeps its last values only, as many as max_list_length; what is cut off is not "
        "counted.",
        "Rows and click rates over time, distinct values and popularity are counted on the log, "
        "before ads are drawn.",
    )  # fmt: skip
    return "<ul>" + "".join(f"<li>{html.escape(point)}</li>" for point in points) + "</ul>"
