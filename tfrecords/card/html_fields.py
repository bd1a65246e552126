"""The sections of a data card's page on fields: overview, drift, and a card of each field."""

from typing import Any

from tfrecords import pages
from tfrecords.card import figures, statistics
from tfrecords.splits import SPLITS

_LEVELS = {"stable": "", "unknown": "too few rows to tell", "shifted": "shifted",
           "drifted": "drifted"}  # fmt: skip
_FIRST_DRIFTS = 10


def overview(card: dict[str, Any]) -> str:
    """Returns a table with a row for each field."""
    head = ["field", "side", "kind", "distinct", "vocabulary", "missing, train", "validation",
            "test", "out of vocabulary, train", "validation", "test"]  # fmt: skip
    rows = []
    for field in card["fields"]:
        oov = field.get("out_of_vocabulary", {})
        rows.append(
            pages.html_cells(
                field["name"],
                field["side"],
                field["kind"].replace("categorical_list", "list"),
                pages.format_count(field.get("distinct")),
                pages.format_count(field.get("vocabulary")),
                *(pages.format_percent(field["missing"][split]) for split in SPLITS),
                *(pages.format_percent(oov.get(split)) for split in SPLITS),
            )
        )
    return pages.html_table(head, rows, left=(1, 2)) + (
        '<p class="quiet small">Distinct values are those of training; vocabulary is how many of '
        "them have an id of their own. Numbers have no vocabulary: they are sorted into "
        "buckets.</p>"
    )


def drift(card: dict[str, Any]) -> str:
    """Returns the fields by their drift, the largest first."""
    fields = [field for field in card["fields"] if field["drift"]["psi"] is not None]
    fields.sort(key=lambda field: -field["drift"]["psi"])
    rows = []
    for field in fields:
        own = field["drift"]
        rows.append(
            [
                *pages.html_cells(field["name"]),
                pages.html_bar(own["psi"] / (2 * statistics.DRIFTED), own["level"]),
                *pages.html_cells(
                    f"{own['psi']:.3f}",
                    f"{own['by_chance']:.3f}",
                    str(own["groups"]),
                    _LEVELS[own["level"]],
                ),
            ]
        )
    explained = (
        "The population stability index (PSI) adds up (p − q) ln(p / q) over groups of values, "
        "with p their share in test and q in training. By custom, below "
        f"{statistics.SHIFTED:g} the two are alike, up to {statistics.DRIFTED:g} they "
        "have shifted somewhat, and from there on they differ so much that a model trained on one "
        "may be wrong on the other. By chance alone, with these numbers of rows, it would be about "
        "the number beside it; a bar is full at "
        f"{2 * statistics.DRIFTED:g}."
    )
    grouped = (
        f"There are at most {statistics.MAX_GROUPS} groups of about equal share in training: "
        "missing is one, all values out of vocabulary are one, frequent values have their own, "
        "and rarer ones of like frequency share one (numbers: neighbouring buckets), so that rare "
        "values by themselves do not count as drift. A field of many rare values drifts a little "
        "by nature, because its vocabulary was chosen on training. Half a row is added to each "
        "count."
    )
    head = ["field", "", "PSI", "by chance", "groups", ""]
    first = max(sum(f["drift"]["level"] != "stable" for f in fields), _FIRST_DRIFTS)
    tables = [pages.html_table(head, part, left=(5,)) for part in (rows[:first], rows[first:])]
    rest = f"<details><summary>{len(rows) - first} more, all alike</summary>{tables[1]}</details>"
    return f"<p>{explained}</p><p>{grouped}</p>{tables[0]}{rest if len(rows) > first else ''}"


def cards(card: dict[str, Any]) -> str:
    """Returns a small card of each field: its histogram, or its most frequent values."""
    parts = []
    for index, field in enumerate(card["fields"]):
        kind = field["kind"].replace("categorical_list", "list")
        about = [f"{field['side']} {kind}", f"{pages.format_percent(field['missing']['train'])} "
                 f"{'empty' if kind == 'list' else 'missing'}"]  # fmt: skip
        if field["column"] != field["name"]:
            about.insert(1, f"column {field['column']}")
        if field["drift"]["psi"] is not None:
            about.append(f"PSI {field['drift']['psi']:.3f}")
        parts.append(
            f'<div class="card"><h3>{pages.escaped(field["name"])}</h3>'
            f'<p class="quiet small">{pages.escaped(" · ".join(about))}</p>'
            f"{_numbers(index, field) if kind == 'numeric' else _values(field)}</div>"
        )
    return (
        f'<p class="small">{pages.KEY} The most frequent values with their shares of all '
        "requests (query side), impressions (ad side) or values of lists; of numbers, the shares "
        "of their buckets, which were chosen to be about equal in training.</p>"
        f'<div class="fields">{"".join(parts)}</div>'
    )


def _numbers(index: int, field: dict[str, Any]) -> str:
    if not field["boundaries"]:
        return '<p class="small">All values are in one bucket.</p>'
    below = ", ".join(
        f"{share} below {pages.format_decimal(value)}"
        for share, value in field["quantiles"].items()
        if value is not None
    )
    figure = figures.buckets(f"field{index}", field)
    return figure + (
        f'<p class="quiet small">At least {pages.escaped(below)}.</p>' if below else ""
    )


def _values(field: dict[str, Any]) -> str:
    if not field["top"]:
        return '<p class="small">The vocabulary is empty: every value is too rare to keep.</p>'
    most = max(own["train"] or 0 for own in field["top"])
    rows = [
        [
            '<td title="{0}">{0}</td>'.format(pages.escaped(own["value"])),
            pages.html_bar((own["train"] or 0) / most),
            *pages.html_cells(
                pages.format_percent(own["train"]), pages.format_percent(own["test"])
            ),
        ]
        for own in field["top"]
    ]
    text = pages.html_table(["value", "", "train", "test"], rows, kind="values")
    rest = 1 - sum(own["train"] or 0 for own in field["top"]) - (field["missing"]["train"] or 0)
    notes = []
    if field["kind"] == "categorical" and field["vocabulary"] > len(field["top"]):
        notes.append(f"{pages.format_percent(max(rest, 0.0))} other values in training")
    if field["kind"] == "categorical_list":
        notes.append(_lengths(field["value_lists"]["train"]))
    return text + "".join(f'<p class="quiet small">{pages.escaped(note)}.</p>' for note in notes)


def _lengths(lists: list[int]) -> str:
    """Says how many values the lists have."""
    total = max(sum(lists), 1)
    mean = sum(length * count for length, count in enumerate(lists)) / total
    full = pages.format_percent(lists[-1] / total)
    return f"{mean:.2f} values a list on average; {full} have {len(lists) - 1}, the most kept"
