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
    for split, own in card.splits.items():
        ads = own.list_lengths
        sizes = [own.rows, own.requests]
        quantiles = [ads.median, ads.p90, ads.p99, ads.max]
        rows.append(
            [
                split,
                *map(pages.format_count, sizes),
                pages.format_mean(ads.mean),
                *map(pages.format_count, quantiles),
                *map(pages.format_percent, [ads.one_ad, own.share_with_click]),
                pages.format_count(own.sampled),
            ]
        )
    return pages.PageTable(head, rows)


def label_table(card: model.DataCard) -> pages.PageTable:
    """Returns the rates of the labels in each split."""
    head = ["", "share above 0", "mean", "rows above 0", "rows with the label", "missing"]
    rows = []
    for label in card.splits["train"].labels:
        for split, summary in card.splits.items():
            own = summary.labels[label]
            counts = [own.positive, own.known, own.missing]
            shares = [pages.format_percent(own.rate), pages.format_decimal(own.mean)]
            rows.append([f"{label}, {split}", *shares, *map(pages.format_count, counts)])
    return pages.PageTable(head, rows)


def field_table(card: model.DataCard) -> pages.PageTable:
    """Returns the missing and out-of-vocabulary shares of the fields, and their drift."""
    head = ["field", "kind", "distinct", "vocabulary", "missing: train", "validation", "test",
            "OOV: train", "validation", "test", "PSI", "drift"]  # fmt: skip
    rows = []
    for field in card.fields:
        shares = [own.get(s) for own in (field.missing, field.out_of_vocabulary) for s in SPLITS]
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
            f"{own.ads:,} of {own.of_ads:,}",
            f"{pages.format_percent(own.share)} of {own.counted}",
            pages.format_percent(own.share_of_clicks),
        ]
        for split, own in card.ads.new.items()
    ]
    return pages.PageTable(
        ["never shown in training", "ads", "their share", "share of clicks"], rows
    )


def shown_ad_table(card: model.DataCard) -> pages.PageTable:
    """Returns the ads with the most impressions."""
    rows = [
        [
            own.ad_id,
            *("–" if value is None else str(value)[:60] for value in own.show.values()),
            f"{own.impressions:,}",
            *map(pages.format_percent, [own.share, own.click_rate]),
        ]
        for own in card.ads.most_shown
    ]
    shown = list(card.ads.most_shown[0].show) if card.ads.most_shown else []
    names = ["most shown in training", *shown, "impressions", "share", "click rate"]
    return pages.PageTable(names, rows)


def reason_table(card: model.DataCard) -> pages.PageTable:
    """Returns the most common reasons for rejecting rows."""
    rejected = card.rejected
    rows = [
        [f"{own.count:,}", pages.format_percent(own.count / rejected.count), own.reason]
        for own in rejected.reasons
    ]
    return pages.PageTable(["rejected rows", "share", "reason"], rows, left=(2,))


def rejected_row_table(card: model.DataCard) -> pages.PageTable:
    """Returns the first rejected rows."""
    rows = [
        [f"{own.file}, line {own.line}", own.reason, own.text] for own in card.rejected.examples
    ]
    return pages.PageTable(["line", "reason", "text"], rows, left=(1, 2), wide=(0, 1, 2))
