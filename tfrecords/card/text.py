"""Renders a data card as text for a terminal."""

import textwrap
from collections.abc import Sequence
from typing import Any

from tfrecords import pages
from tfrecords.splits import SPLITS

_WIDTH = 100


def render_text(card: dict[str, Any]) -> str:
    """Returns the card as text."""
    source = card["source"]
    where = source["paths"][0] + (f" and {len(source['paths']) - 1} more" * (
        len(source["paths"]) > 1
    ))  # fmt: skip
    parts = [
        f"Data card of {card['name']}: {source['lines']:,} lines of {where} ({source['format']})",
        _warnings(card["warnings"]),
        _splits(card),
        _labels(card),
        _fields(card),
        _ads(card["ads"]),
        _rejected(card["rejected"]),
    ]
    return "\n\n".join(parts)


def _warnings(warnings: Sequence[dict[str, str]]) -> str:
    lines = [] if warnings else ["Nothing to warn of."]
    for own in warnings:
        mark = "! " if own["level"] == "warning" else "- "
        lines += textwrap.wrap(
            f"{own['text']} {own['action']}", _WIDTH, initial_indent=mark, subsequent_indent="  "
        )
    return "\n".join(lines)


def _splits(card: dict[str, Any]) -> str:
    rows = []
    for split in SPLITS:
        own = card["splits"][split]
        lengths = own["list_lengths"]
        ads = [pages.format_count(lengths.get(k)) for k in ("median", "p90", "max")]
        rows.append(
            [
                split,
                f"{own['rows']:,}",
                f"{own['requests']:,}",
                pages.format_mean(lengths["mean"]),
                *ads,
                pages.format_percent(own["share_with_click"]),
                f"{own['sampled']:,}",
            ]
        )
    head = ["", "rows", "requests", "ads: mean", "median", "p90", "most", "with click", "sampled"]
    meaning = textwrap.fill(f"Split {card['split']['meaning']}", _WIDTH)
    return f"{meaning}\n{table(head, rows)}"


def _labels(card: dict[str, Any]) -> str:
    rows = []
    for label in card["splits"]["train"]["labels"]:
        for split in SPLITS:
            own = card["splits"][split]["labels"][label]
            rate = pages.format_percent(own["rate"])
            mean = pages.format_decimal(own["mean"])
            rows.append([f"{label}, {split}", rate, mean, f"{own['positive']:,}",
                         f"{own['missing']:,}"])  # fmt: skip
    text = table(["Labels", "above 0", "mean", "rows above 0", "missing"], rows)
    time = card["time"]
    span = f"{time['edges'][0]} to {time['edges'][-1]}"
    unit = f" UTC, from {time['unit']} since 1970" if time["unit"] else ""
    return text + ("\nTime: " + span + unit if time["by_time"] else "")


def _fields(card: dict[str, Any]) -> str:
    rows = []
    for field in card["fields"]:
        oov = field.get("out_of_vocabulary", {})
        psi = field["drift"]["psi"]
        rows.append(
            [
                field["name"],
                f"{field['side']} {field['kind']}",
                pages.format_count(field.get("distinct")),
                pages.format_count(field.get("vocabulary")),
                pages.format_percent(field["missing"]["train"]),
                pages.format_percent(field["missing"]["test"]),
                pages.format_percent(oov.get("train")),
                pages.format_percent(oov.get("test")),
                pages.NO_VALUE if psi is None else f"{psi:.3f}",
                {"stable": "", "unknown": "few rows"}.get(
                    field["drift"]["level"], field["drift"]["level"]
                ),
            ]
        )
    head = ["Fields", "kind", "distinct", "vocab.", "missing", "in test", "OOV", "in test", "PSI",
            ""]  # fmt: skip
    return table(head, rows, left=2)


def _ads(ads: dict[str, Any]) -> str:
    lines = [
        f"Ads: {ads['count']:,}; {ads['shown_in_training']:,} shown and "
        f"{ads['clicked_in_training']:,} clicked in training, "
        f"{ads['count'] - ads['shown_in_training']:,} never shown there."
    ]
    for own in ads["popularity"]["top"]:
        lines.append(
            f"  the first {own['rank']:>7,} have {pages.format_percent(own['impressions']):>8} of "
            f"the impressions, {pages.format_percent(own['clicks']):>8} of the clicks"
        )
    new = ads["new"]["test"]
    lines.append(
        f"New in test: {new['ads']:,} of {new['of_ads']:,} ads, with "
        f"{pages.format_percent(new['share'])} of its {new['counted']}. Impressions of ads whose "
        f"fields changed: {pages.format_percent(ads['changed_share'])}."
    )
    return "\n".join(lines)


def _rejected(rejected: dict[str, Any]) -> str:
    share = pages.format_percent(rejected["share"])
    lines = [f"Rejected: {rejected['count']:,} of {rejected['lines']:,} lines ({share})"]
    lines += [f"  {own['count']:>9,}  {own['reason']}" for own in rejected["reasons"]]
    lines += [f"  {own['file']}, line {own['line']}: {own['reason']}"
              for own in rejected["examples"]]  # fmt: skip
    return "\n".join(lines)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Returns aligned columns.

    Args:
        head: The columns' titles.
        rows: Their cells.
        left: So many columns, the first ones, are aligned to the left.
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    )
