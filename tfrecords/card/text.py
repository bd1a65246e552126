"""Renders a data card as text for a terminal."""

import textwrap
from collections.abc import Sequence
from typing import Any

from tfrecords import pages, terminal

_WIDTH = 100


def render_text(card: dict[str, Any]) -> str:
    """Returns the card as text."""
    source = card["source"]
    more = f" and {len(source['paths']) - 1} more" if len(source["paths"]) > 1 else ""
    parts = [
        f"Data card of {card['name']}: {source['lines']:,} lines of {source['paths'][0]}{more} "
        f"({source['format']})",
        _warnings(card["warnings"]),
        _splits(card),
        _labels(card),
        _fields(card["fields"]),
        _ads(card["ads"]),
        _rejected(card["rejected"]),
    ]
    return "\n\n".join(parts)


def _warnings(warnings: Sequence[dict[str, str]]) -> str:
    lines = [] if warnings else ["No warnings."]
    for own in warnings:
        mark = "! " if own["level"] == "warning" else "- "
        lines += textwrap.wrap(
            f"{own['text']} {own['action']}", _WIDTH, initial_indent=mark, subsequent_indent="  "
        )
    return "\n".join(lines)


def _splits(card: dict[str, Any]) -> str:
    head = ["", "rows", "requests", "ads: mean", "median", "p90", "max", "with click", "sampled"]
    rows = [
        [
            split,
            f"{own['rows']:,}",
            f"{own['requests']:,}",
            pages.format_mean(own["list_lengths"]["mean"]),
            *(pages.format_count(own["list_lengths"].get(k)) for k in ("median", "p90", "max")),
            pages.format_percent(own["share_with_click"]),
            f"{own['sampled']:,}",
        ]
        for split, own in card["splits"].items()
    ]
    meaning = textwrap.fill(f"Split {card['split']['meaning']}", _WIDTH)
    return f"{meaning}\n{terminal.text_table(head, rows)}"


def _labels(card: dict[str, Any]) -> str:
    rows = [
        [
            f"{label}, {split}",
            pages.format_percent(of_split["labels"][label]["rate"]),
            pages.format_decimal(of_split["labels"][label]["mean"]),
            f"{of_split['labels'][label]['positive']:,}",
            f"{of_split['labels'][label]['missing']:,}",
        ]
        for label in card["splits"]["train"]["labels"]
        for split, of_split in card["splits"].items()
    ]
    text = terminal.text_table(["Labels", "above 0", "mean", "rows above 0", "missing"], rows)
    time = card["time"]
    span = f"\nTime: {time['edges'][0]} to {time['edges'][-1]}"
    unit = f" UTC ({time['unit']} since 1970)" if time["unit"] else ""
    return text + (span + unit if time["by_time"] else "")


def _fields(fields: Sequence[dict[str, Any]]) -> str:
    head = ["Fields", "kind", "distinct", "vocab.", "missing", "in test", "OOV", "in test", "PSI",
            "drift"]  # fmt: skip
    rows = []
    for field in fields:
        oov, drift = field.get("out_of_vocabulary", {}), field["drift"]
        rows.append(
            [
                field["name"],
                f"{field['side']} {field['kind']}",
                pages.format_count(field.get("distinct")),
                pages.format_count(field.get("vocabulary")),
                *(pages.format_percent(field["missing"][split]) for split in ("train", "test")),
                *(pages.format_percent(oov.get(split)) for split in ("train", "test")),
                pages.NO_VALUE if drift["psi"] is None else f"{drift['psi']:.3f}",
                {"stable": "", "unknown": "few rows"}.get(drift["level"], drift["level"]),
            ]
        )
    return terminal.text_table(head, rows, left=(0, 1))


def _ads(ads: dict[str, Any]) -> str:
    rows = [
        [
            f"  the first {own['rank']:,}",
            pages.format_percent(own["impressions"]),
            pages.format_percent(own["clicks"]),
        ]
        for own in ads["popularity"]["top"]
    ]
    new = ads["new"]["test"]
    return (
        f"Ads: {ads['count']:,}; training shows {ads['shown_in_training']:,} and has clicks on "
        f"{ads['clicked_in_training']:,}; {ads['count'] - ads['shown_in_training']:,} are never "
        "shown there.\n"
        + terminal.text_table(["  most popular", "impressions", "clicks"], rows)
        + f"\nNew in test: {new['ads']:,} of {new['of_ads']:,} ads, with "
        f"{pages.format_percent(new['share'])} of its {new['counted']}. Impressions of ads whose "
        f"fields changed: {pages.format_percent(ads['changed_share'])}."
    )


def _rejected(rejected: dict[str, Any]) -> str:
    share = pages.format_percent(rejected["share"])
    lines = [f"Rejected: {rejected['count']:,} of {rejected['lines']:,} lines ({share})"]
    lines += [f"  {own['count']:>9,}  {own['reason']}" for own in rejected["reasons"]]
    lines += [
        f"  {own['file']}, line {own['line']}: {own['reason']}" for own in rejected["examples"]
    ]
    return "\n".join(lines)
