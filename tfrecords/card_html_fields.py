"""The sections of a data card's page on fields: overview, drift, and a card of each field."""

from typing import Any

from tfrecords import card_figures, card_format, card_markup, card_statistics, splitting

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
            card_markup.cells(
                field["name"],
                field["side"],
                field["kind"].replace("categorical_list", "list"),
                card_format.count(field.get("distinct")),
                card_format.count(field.get("vocabulary")),
                *(card_format.percent(field["missing"][split]) for split in splitting.SPLITS),
                *(card_format.percent(oov.get(split)) for split in splitting.SPLITS),
            )
        )
    return card_markup.table(head, rows, left=(1, 2)) + (
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
                *card_markup.cells(field["name"]),
                card_markup.bar(own["psi"] / (2 * card_statistics.DRIFTED), own["level"]),
                *card_markup.cells(
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
        f"{card_statistics.SHIFTED:g} the two are alike, up to {card_statistics.DRIFTED:g} they "
        "have shifted somewhat, and from there on they differ so much that a model trained on one "
        "may be wrong on the other. By chance alone, with these numbers of rows, it would be about "
        "the number beside it; a bar is full at "
        f"{2 * card_statistics.DRIFTED:g}."
    )
    grouped = (
        f"There are at most {card_statistics.MAX_GROUPS} groups of about equal share in training: "
        "missing is one, all values out of vocabulary are one, frequent values have their own, "
        "and rarer ones of like frequency share one (numbers: neighbouring buckets), so that rare "
        "values by themselves do not count as drift. A field of many rare values drifts a little "
        "by nature, because its vocabulary was chosen on training. Half a row is added to each "
        "count."
    )
    head = ["field", "", "PSI", "by chance", "groups", ""]
    first = max(sum(f["drift"]["level"] != "stable" for f in fields), _FIRST_DRIFTS)
    tables = [card_markup.table(head, part, left=(5,)) for part in (rows[:first], rows[first:])]
    rest = f"<details><summary>{len(rows) - first} more, all alike</summary>{tables[1]}</details>"
    return f"<p>{explained}</p><p>{grouped}</p>{tables[0]}{rest if len(rows) > first else ''}"


def cards(card: dict[str, Any]) -> str:
    """Returns a small card of each field: its histogram, or its most frequent values."""
    parts = []
    for index, field in enumerate(card["fields"]):
        kind = field["kind"].replace("categorical_list", "list")
        about = [f"{field['side']} {kind}", f"{card_format.percent(field['missing']['train'])} "
                 f"{'empty' if kind == 'list' else 'missing'}"]  # fmt: skip
        if field["column"] != field["name"]:
            about.insert(1, f"column {field['column']}")
        if field["drift"]["psi"] is not None:
            about.append(f"PSI {field['drift']['psi']:.3f}")
        parts.append(
            f'<div class="card"><h3>{card_markup.quoted(field["name"])}</h3>'
            f'<p class="quiet small">{card_markup.quoted(" · ".join(about))}</p>'
            f"{_numbers(index, field) if kind == 'numeric' else _values(field)}</div>"
        )
    return (
        f'<p class="small">{card_markup.KEY} The most frequent values with their shares of all '
        "requests (query side), impressions (ad side) or values of lists; of numbers, the shares "
        "of their buckets, which were chosen to be about equal in training.</p>"
        f'<div class="fields">{"".join(parts)}</div>'
    )


def _numbers(index: int, field: dict[str, Any]) -> str:
    if not field["boundaries"]:
        return '<p class="small">All values are in one bucket.</p>'
    below = ", ".join(
        f"{share} below {card_format.decimal(value)}"
        for share, value in field["quantiles"].items()
        if value is not None
    )
    figure = card_figures.buckets(f"field{index}", field)
    return figure + (
        f'<p class="quiet small">At least {card_markup.quoted(below)}.</p>' if below else ""
    )


def _values(field: dict[str, Any]) -> str:
    if not field["top"]:
        return '<p class="small">The vocabulary is empty: every value is too rare to keep.</p>'
    most = max(own["train"] or 0 for own in field["top"])
    rows = [
        [
            '<td title="{0}">{0}</td>'.format(card_markup.quoted(own["value"])),
            card_markup.bar((own["train"] or 0) / most),
            *card_markup.cells(card_format.percent(own["train"]), card_format.percent(own["test"])),
        ]
        for own in field["top"]
    ]
    text = card_markup.table(["value", "", "train", "test"], rows, kind="values")
    rest = 1 - sum(own["train"] or 0 for own in field["top"]) - (field["missing"]["train"] or 0)
    notes = []
    if field["kind"] == "categorical" and field["vocabulary"] > len(field["top"]):
        notes.append(f"{card_format.percent(max(rest, 0.0))} other values in training")
    if field["kind"] == "categorical_list":
        notes.append(_lengths(field["value_lists"]["train"]))
    return text + "".join(
        f'<p class="quiet small">{card_markup.quoted(note)}.</p>' for note in notes
    )


def _lengths(lists: list[int]) -> str:
    """Says how many values the lists have."""
    total = max(sum(lists), 1)
    mean = sum(length * count for length, count in enumerate(lists)) / total
    full = card_format.percent(lists[-1] / total)
    return f"{mean:.2f} values a list on average; {full} have {len(lists) - 1}, the most kept"
