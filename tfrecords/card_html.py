"""Renders a data card as one HTML page that needs nothing else, not even scripts."""

import html
from collections.abc import Callable, Sequence
from typing import Any

from tfrecords import (
    card_figures,
    card_format,
    card_html_fields,
    card_markup,
    splitting,
)


def render(card: dict[str, Any]) -> str:
    """Returns the page."""
    sections: tuple[tuple[str, str, Callable[[dict[str, Any]], str]], ...] = (
        ("warnings", "Warnings", _warnings),
        ("splits", "Rows and requests", _splits),
        ("labels", "Labels", _labels),
        ("fields", "Fields", card_html_fields.overview),
        ("drift", "Drift from training to test", card_html_fields.drift),
        ("values", "Values of each field", card_html_fields.cards),
        ("ads", "Ads", _ads),
        ("rejected", "Rejected rows", _rejected),
        ("reading", "How it is counted", _reading),
    )
    title = f"Data card: {card_markup.quoted(card['name'])}"
    parts = [(name, heading, section(card)) for name, heading, section in sections]
    return card_markup.page(title, _head(card), parts)


def _head(card: dict[str, Any]) -> str:
    source = card["source"]
    paths = ", ".join(f"<code>{card_markup.quoted(path)}</code>" for path in source["paths"])
    ads = card["ads"]["count"]
    return (
        f'<p class="quiet">{source["lines"]:,} lines of {paths} '
        f"({card_markup.quoted(source['format'])}), converted to "
        f"<code>{card_markup.quoted(card['directory'])}</code>; {ads:,} ads, "
        f"{len(card['fields'])} fields, fingerprint <code>{card['fingerprint']}</code>.</p>"
    )


def _warnings(card: dict[str, Any]) -> str:
    if not card["warnings"]:
        return '<p class="fine">Nothing to warn of.</p>'
    items = "".join(
        f'<li class="{own["level"]}"><strong>{card_markup.quoted(own["text"])}</strong>'
        f"{card_markup.quoted(own['action'])}</li>"
        for own in card["warnings"]
    )
    return f'<ul class="warnings">{items}</ul>'


def _splits(card: dict[str, Any]) -> str:
    head = ["", "rows", "requests", "mean ads", "median", "90 %", "99 %", "most",
            "one ad", "with a click", "sampled rows"]  # fmt: skip
    rows = []
    for split in splitting.SPLITS:
        own = card["splits"][split]
        lengths = own["list_lengths"]
        numbers = [card_format.count(lengths.get(k)) for k in ("median", "p90", "p99", "max")]
        rows.append(
            card_markup.cells(
                split,
                f"{own['rows']:,}",
                f"{own['requests']:,}",
                card_format.mean(lengths["mean"]),
                *numbers,
                card_format.percent(lengths.get("one_ad")),
                card_format.percent(own["share_with_click"]),
                f"{own['sampled']:,}",
            )
        )
    parts = [
        f"<p>Split {card_markup.quoted(card['split']['meaning'])}</p>",
        card_markup.table(head, rows),
    ]
    lengths = [card["splits"][split]["list_lengths"] for split in ("train", "test")]
    if max((own["max"] for own in lengths if own["counts"]), default=1) > 1:
        parts.append(card_markup.figure(card_figures.list_lengths(card["splits"]), card_markup.KEY))
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
        for split in splitting.SPLITS:
            own = card["splits"][split]["labels"][label]
            rows.append(
                card_markup.cells(
                    f"{label}, {split}",
                    card_format.percent(own["rate"]),
                    card_format.decimal(own["mean"]),
                    *(f"{own[name]:,}" for name in ("positive", "known", "missing")),
                )
            )
    columns = ", ".join(
        f"{label} is <code>{card_markup.quoted(str(column))}</code>"
        for label in ("click", "engagement", "revenue")
        if (column := card["keys"][label]) is not None
    )
    threshold = card["keys"]["click_threshold"]
    rated = f", a click from {threshold:g} on" if threshold is not None else ""
    said = f"<p>In the log {columns}{rated}.</p>" if columns else ""
    return said + card_markup.table(head, rows) + _over_time(card["time"])


def _over_time(time: dict[str, Any]) -> str:
    edges = card_markup.quoted(f"{time['edges'][0]} to {time['edges'][-1]}")
    if not time["by_time"]:
        what = "The log in its own order, as it has no time column, in equal numbers of rows"
    elif time["unit"]:
        what = f"{edges} UTC (times are {time['unit']} since 1970), in equal spans of time"
    else:
        what = f"Times from {edges}, which are no dates in any usual unit, in equal spans"
    return card_markup.figure(card_figures.over_time(time), f"{what}, all splits together.")


def _ads(card: dict[str, Any]) -> str:
    ads = card["ads"]
    never = ads["count"] - ads["shown_in_training"]
    text = (
        f"<p>{ads['count']:,} ads: training shows {ads['shown_in_training']:,} of them and has "
        f"clicks on {ads['clicked_in_training']:,}; {never:,} are never shown there.</p>"
    )
    top = [
        card_markup.cells(
            f"the first {own['rank']:,}",
            card_format.percent(own["impressions"]),
            card_format.percent(own["clicks"]),
        )
        for own in ads["popularity"]["top"]
    ]
    shown = [
        card_markup.cells(
            own["ad_id"],
            f"{own['impressions']:,}",
            card_format.percent(own["share"]),
            card_format.percent(own["click_rate"]),
        )
        for own in ads["most_shown"]
    ]
    new = [
        card_markup.cells(
            split,
            f"{own['ads']:,} of {own['of_ads']:,}",
            card_format.percent(own["share"]) + f" of {own['counted']}",
            card_format.percent(own["share_of_clicks"]),
        )
        for split, own in ads["new"].items()
    ]
    key = '<span class="key">impressions</span><span class="key test">clicks</span>in training'
    curve = card_markup.figure(card_figures.popularity(ads["popularity"]["curve"]), key)
    return (
        f'{text}<div class="figures">{curve}<div>'
        f"{card_markup.table(['most popular', 'impressions', 'clicks'], top)}</div></div>"
        "<h3>Ads that training never showed</h3>"
        f"{card_markup.table(['', 'ads', 'their share', 'share of clicks'], new)}"
        f"<p>{card_format.percent(ads['changed_share'])} of the log's impressions "
        f"({ads['impressions_of_changed_ads']:,}) show an ad whose fields differ from the "
        "catalogue's, which keeps the latest values of each ad.</p>"
        "<h3>Most shown in training</h3>"
        f"{card_markup.table(['ad', 'impressions', 'share', 'click rate'], shown)}"
    )


def _rejected(card: dict[str, Any]) -> str:
    own = card["rejected"]
    share = card_format.percent(own["share"])
    text = f"<p>{own['count']:,} of {own['lines']:,} lines were rejected ({share}).</p>"
    if not own["count"]:
        return text
    more = own["distinct_reasons"] - len(own["reasons"])
    reasons = [
        card_markup.cells(
            f"{r['count']:,}", card_format.percent(r["count"] / own["count"]), r["reason"]
        )
        for r in own["reasons"]
    ]
    examples = [
        card_markup.cells(f"{e['file']}, line {e['line']}", e["reason"], e["text"], wide=(0, 1, 2))
        for e in own["examples"]
    ]
    return (
        text
        + card_markup.table(["rows", "share", "reason"], reasons, left=(2,))
        + (f"<p>{more:,} more reasons are in rejected.tsv.</p>" if more else "")
        + "<h3>The first</h3>"
        + card_markup.table(["where", "reason", "line"], examples, left=(1, 2))
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
