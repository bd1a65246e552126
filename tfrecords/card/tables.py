"""The tables of a data card, for both the page and the terminal."""

from tfrecords import pages
from tfrecords.card import model
from tfrecords.splits import SPLITS

# Levels of drift in words; the others are shown unchanged.
LEVELS = {"stable": "", "unknown": "few rows"}


def split_table(card: model.DataCard) -> pages.PageTable:
    """Returns the sizes of the splits and their lists."""
    head = ["", "rows", "requests", "mean ads", "median", "90 %", "99 %", "maximum", "one ad",
            "with a click", "sampled rows"]  # fmt: skip
    rows = []
    for split, summary in card.splits.items():
        ads = summary.list_lengths
        sizes = [summary.rows, summary.requests]
        quantiles = [ads.median, ads.p90, ads.p99, ads.max]
        rows.append(
            [
                split,
                *map(pages.format_count, sizes),
                pages.format_mean(ads.mean),
                *map(pages.format_count, quantiles),
                *map(pages.format_percent, [ads.one_ad, summary.share_with_click]),
                pages.format_count(summary.sampled),
            ]
        )
    return pages.PageTable(head, rows)


def label_table(card: model.DataCard) -> pages.PageTable:
    """Returns the rates of the labels in each split."""
    head = ["", "share above 0", "mean", "rows above 0", "rows with the label", "missing"]
    rows = []
    for label in card.splits["train"].labels:
        for split, summary in card.splits.items():
            stats = summary.labels[label]
            counts = [stats.positive, stats.known, stats.missing]
            shares = [pages.format_percent(stats.rate), pages.format_decimal(stats.mean)]
            rows.append([f"{label}, {split}", *shares, *map(pages.format_count, counts)])
    return pages.PageTable(head, rows)


def field_table(card: model.DataCard) -> pages.PageTable:
    """Returns the missing and out-of-vocabulary shares of the fields, and their drift."""
    head = ["field", "kind", "distinct", "vocabulary", "missing: train", "validation", "test",
            "OOV: train", "validation", "test", "PSI", "drift"]  # fmt: skip
    rows = []
    for field in card.fields:
        shares = [rate.get(s) for rate in (field.missing, field.out_of_vocabulary) for s in SPLITS]
        psi, level = field.drift.psi, field.drift.level
        rows.append(
            [
                field.name,
                f"{field.side} {field.kind.replace('categorical_list', 'list')}",
                *map(pages.format_count, [field.distinct, field.vocabulary]),
                *map(pages.format_percent, shares),
                pages.NO_VALUE if psi is None else f"{psi:.3f}",
                LEVELS.get(level, level),
            ]
        )
    return pages.PageTable(head, rows, left=(1, 11))


def popularity_table(card: model.DataCard) -> pages.PageTable:
    """Returns the shares of the most popular ads."""
    top = card.ads.top
    rows = [
        [f"top {rank:,}", pages.format_percent(shown), pages.format_percent(clicked)]
        for rank, shown, clicked in zip(top.rank, top.impressions, top.clicks, strict=True)
    ]
    return pages.PageTable(["most popular", "impressions", "clicks"], rows)


def new_ad_table(card: model.DataCard) -> pages.PageTable:
    """Returns the shares of ads that training never shows."""
    rows = [
        [
            split,
            f"{new_ads.ads:,} of {new_ads.of_ads:,}",
            f"{pages.format_percent(new_ads.share)} of {new_ads.counted}",
            pages.format_percent(new_ads.share_of_clicks),
        ]
        for split, new_ads in card.ads.new.items()
    ]
    return pages.PageTable(
        ["never shown in training", "ads", "their share", "share of clicks"], rows
    )


def shown_ad_table(card: model.DataCard) -> pages.PageTable:
    """Returns the ads with the most impressions."""
    rows = [
        [
            ad.ad_id,
            *("–" if value is None else str(value)[:60] for value in ad.show.values()),
            f"{ad.impressions:,}",
            *map(pages.format_percent, [ad.share, ad.click_rate]),
        ]
        for ad in card.ads.most_shown
    ]
    shown = list(card.ads.most_shown[0].show) if card.ads.most_shown else []
    names = ["most shown in training", *shown, "impressions", "share", "click rate"]
    return pages.PageTable(names, rows)


def reason_table(card: model.DataCard) -> pages.PageTable:
    """Returns the most common reasons for rejecting rows."""
    rejected = card.rejected
    rows = [
        [f"{fault.count:,}", pages.format_percent(fault.count / rejected.count), fault.reason]
        for fault in rejected.reasons
    ]
    return pages.PageTable(["rejected rows", "share", "reason"], rows, left=(2,))


def rejected_row_table(card: model.DataCard) -> pages.PageTable:
    """Returns the first rejected rows."""
    rows = [
        [f"{row.file}, line {row.line}", row.reason, row.text] for row in card.rejected.examples
    ]
    return pages.PageTable(["line", "reason", "text"], rows, left=(1, 2), wide=(0, 1, 2))
