"""Refuses logs whose rows are not impressions, with the lines of pandas that write them.

These are lists of the ads of a request, and reports of how often an ad was shown.
"""

import re

import numpy as np

from tfrecords import formats
from tfrecords.schema_inference import kinds, known_names
from tfrecords.schema_inference.sample import file_recipes
from tfrecords.schema_inference.sample.log_sample import Column, Sample

_PROBED = 200
_IMPRESSIONS = re.compile(r"\S+-[01]( \S+-[01])*")
# Words of lists of the ads that a request showed.
_LISTED = {
    "impression", "impressions", "inview", "shown", "displayed", "exposed", "exposures",
    "candidates", "slate", "recommended",
}  # fmt: skip
# Words of lists of ads, which a request may show or a user may have chosen before.
_OF_ADS = {
    "items", "ads", "results", "result", "recommendations", "recs", "products", "documents", "docs",
    "offers", "articles", "creatives", "listings",
}  # fmt: skip
_CHOSEN = {"click", "clicks", "clicked", "clk", "clks", "chosen", "selected"}
_NUMBERS = {"index", "idx", "position", "pos", "rank"}
# Words of reports: counts, and rates and amounts computed from them.
_IMPRESSIONS_OF_ROWS = {"impressions", "imps", "impr", "displays"}
_RATES = {"ctr", "cvr", "cpc", "cpm", "ecpm", "cpa", "roas", "cost", "spend"}
_MIN_CHOSEN = 0.9
_FEW_CHOSEN = 5


def refuse_lists(sample: Sample, ads: Sample | None) -> None:
    """Raises if a column holds the ads of a request.

    The column holds their clicks too, as in `N1-0 N2-1`, or another column has the clicked ads.

    Raises:
        ValueError: There is such a column; the message has the lines that write a row for each ad.
    """
    for column in sample.columns.values():
        probed, log = column.known[:_PROBED], f"log[{column.name!r}]"
        if any(" " in v for v in probed) and all(_IMPRESSIONS.fullmatch(v) for v in probed):
            key = _key_of_ads({v[:-2] for text in probed for v in text.split()}, ads)
            _refuse(
                sample,
                key,
                f"{column.name!r} holds several ads with their clicks, such as {probed[0][:40]!r}",
                f"{log} = {log}.str.split()",
                f"log = log.explode({column.name!r}, ignore_index=True)",
                f"split = log.pop({column.name!r}).str.rsplit('-', n=1, expand=True)",
                f"log[[{key!r}, 'click']] = split",
            )
    for column in sample.columns.values():
        is_shown = not _LISTED.isdisjoint(column.words)
        if not (is_shown or _OF_ADS & {*column.words}) or kinds.separator(column) is None:
            continue
        lists = _lists(column, np.flatnonzero(column.present)[:_PROBED])
        if not lists:
            continue
        for other in sample.columns.values():
            is_chosen = not _CHOSEN.isdisjoint(other.words)
            if other is column or not (is_shown or is_chosen):
                continue
            if (click := _clicks(column, lists, other, is_chosen)) is not None:
                _refuse_chosen(sample, ads, column, lists, other, click)
    for other in sample.columns.values():
        if not other.list_name and other.is_list and not _CHOSEN.isdisjoint(other.words):
            for column in sample.columns.values():
                if column.list_name and _has_clicked(column, other):
                    _refuse_objects(sample, column, other)


def refuse_list_of_ads(sample: Sample, column: Column) -> None:
    """Raises an error on the column of the ads, which holds lists of them."""
    log = f"log[{column.name!r}]"
    split = [f"{log} = {log}.map(ast.literal_eval)"] if _is_text(sample) else []
    explode = f"log = log.explode({column.name!r}, ignore_index=True)"
    _refuse(sample, column.name, f"{column.name!r} holds lists of ads", *split, explode)


def refuse_report(sample: Sample, ad: Column, click: Column) -> None:
    """Raises if a row has the numbers of impressions and clicks of an ad, such as of a day.

    Raises:
        ValueError: There is a number of impressions, at least the clicks in each row; the message
            has the lines that write a row for each impression.
    """
    shown = [
        c
        for c in sample.columns.values()
        if c is not click and c.is_whole and not _IMPRESSIONS_OF_ROWS.isdisjoint(c.words)
        if (c.by_row(c.numbers) >= click.by_row(click.numbers)).mean() > _MIN_CHOSEN
    ]
    if not shown or not click.is_whole:
        return
    counts = shown[0].name, click.name
    numeric = [c for c in sample.columns.values() if c.is_numeric and c.name not in counts]
    bought = next((c for c in numeric if c.is_whole and c.core in known_names.ENGAGEMENTS), None)
    paid = next((c for c in numeric if c is not bought and c.core in known_names.REVENUES), None)
    lines = [
        f"log = log.loc[log.index.repeat(log[{counts[0]!r}])]",
        "number = log.groupby(level=0).cumcount()",
        f"log['click'] = (number < log[{click.name!r}]).astype(int)",
    ]
    if bought is not None:
        lines.append(f"log['conversion'] = (number < log[{bought.name!r}]).astype(int)")
    if paid is not None:
        divisor, label = (click.name, "click") if bought is None else (bought.name, "conversion")
        value = f"(log[{paid.name!r}] / log[{divisor!r}])"
        lines.append(f"log['revenue'] = {value}.where(log['{label}'] == 1, 0)")
    rates = [c.name for c in numeric if not _RATES.isdisjoint(c.words)]
    gone = [*counts, *(c.name for c in (bought, paid) if c is not None), *rates]
    gone = [name for name in gone if name not in ("click", "conversion", "revenue")]
    _refuse(
        sample,
        ad.name,
        f"{counts[0]!r} and {click.name!r} count the impressions and clicks of a row",
        *lines,
        f"log = log.drop(columns={gone})",
    )


def _clicks(
    column: Column, lists: list[list[str]], other: Column, is_chosen: bool
) -> tuple[str, str] | None:
    """Returns the expression of the clicks of each row, if another column has the clicked ads.

    Args:
        column: The column of the shown ads.
        lists: Its first lists.
        other: The other column: the clicked ads, the index of one, or 0 or 1 for each ad.
        is_chosen: Whether the other column is named like clicks.

    Returns:
        The expression, and what the other column has; None: it has something else.
    """
    shown, clicked = f"log[{column.name!r}]", f"log.pop({other.name!r})"
    chosen = _lists(other, np.flatnonzero(column.present)[:_PROBED])
    pairs = [(entries, set(ads)) for entries, ads in zip(chosen, lists, strict=True) if entries]
    if is_chosen and other.is_whole and not _NUMBERS.isdisjoint(other.words):
        longest, low, high = max(map(len, lists)), other.numbers.min(), other.numbers.max()
        is_named = {"index", "idx"}.isdisjoint(other.words)
        first = int(high == longest or (low >= 1 and is_named))
        if low < -1 or high > longest:
            return None
        expression = f"[int(n == clicked) for n, _ in enumerate(ads, {first})]"
        content = "the number of the clicked one"
    elif is_chosen and [len(entries) for entries in chosen] == [len(entries) for entries in lists]:
        if not {value for entries in chosen for value in entries} <= {"0", "1", "true", "false"}:
            return None
        return clicked, "the clicks of them"
    else:
        several = np.mean([len(ads) > len(entries) for entries, ads in pairs]) if pairs else 0
        held = sum(ads.issuperset(entries) for entries, ads in pairs)
        needed = max(len(pairs), _FEW_CHOSEN if is_chosen else 0.5 * len(lists))
        if held <= _MIN_CHOSEN * needed or several <= 0.5:
            return None
        content = "the clicked ones"
        expression = "[int(ad in clicked) for ad in ads]"
        if kinds.separator(other) is None:
            whole = ".astype('Int64')" if other.is_whole else ""
            clicked += f"{whole}.astype(str)"
            expression = "[int(str(ad) == clicked) for ad in ads]"
        elif other.missing_share > 0:
            expression = "[int(ad in clicked) if hasattr(clicked, '__len__') else 0 for ad in ads]"
    return f"[{expression} for ads, clicked in zip({shown}, {clicked})]", content


def _has_clicked(column: Column, other: Column) -> bool:
    """Returns whether another column has the clicked ones of the ads in a list of objects."""
    rows = np.flatnonzero(column.present & other.present)[:_PROBED]
    ids, known = _lists(other, rows), set(column.known)
    values = [column.values[code] for code in column.codes[rows]]
    held = sum(value in row for value, row in zip(values, ids, strict=True))
    return len(rows) > _FEW_CHOSEN and held > 0 and known.issuperset(v for row in ids for v in row)


def _refuse_chosen(
    sample: Sample,
    ads: Sample | None,
    column: Column,
    lists: list[list[str]],
    other: Column,
    click: tuple[str, str],
) -> None:
    key = _key_of_ads({value for row_ads in lists for value in row_ads}, ads)
    rows = np.flatnonzero(column.present)[:_PROBED]
    num_ads = [len(row_ads) for row_ads in lists]
    with_ads = [
        c
        for c in sample.columns.values()
        if c not in (column, other)
        and kinds.separator(c) is not None
        and [len(values) for values in _lists(c, rows)] == num_ads
    ]
    split = [
        f"log[{c.name!r}] = log[{c.name!r}].map(ast.literal_eval, na_action='ignore')"
        if c.is_list
        else f"log[{c.name!r}] = log[{c.name!r}].str.split({kinds.separator(c)!r})"
        for c in (column, *with_ads, other)
        if kinds.separator(c) is not None and not (c.is_list and not _is_text(sample))
    ]
    exploded = [c.name for c in (column, *with_ads)]
    taken = [f"log = log.rename(columns={{{key!r}: {'page_' + key!r}}})"]
    _refuse(
        sample,
        key,
        f"{column.name!r} holds the ads of a request, and {other.name!r} {click[1]}",
        f"log = log[log[{column.name!r}].notna()].copy()",
        *(taken if key in sample.columns and key not in (column.name, other.name) else []),
        *split,
        f"log['click'] = {click[0]}",
        f"log = log.explode({[*exploded, 'click']}, ignore_index=True)",
        f"log = log.rename(columns={{{column.name!r}: {key!r}}})",
    )


def _refuse_objects(sample: Sample, column: Column, other: Column) -> None:
    name = column.list_name
    if "." in name or "." in other.name:
        return
    clicked = f"zip(log[{column.name!r}], log.pop({other.name!r}))"
    _refuse(
        sample,
        column.name,
        f"{name!r} holds the ads of a request, and {other.name!r} the clicked ones",
        f"log = log.explode({name!r}, ignore_index=True)",
        f"log = log.join(pd.json_normalize(log.pop({name!r})).add_prefix({name + '.'!r}))",
        f"log['click'] = [int(ad in clicked) for ad, clicked in {clicked}]",
        to="log.to_json('rows.jsonl', orient='records', lines=True)",
    )


def _lists(column: Column, rows: np.ndarray) -> list[list[str]]:
    """Returns the lists of some rows; of a column without lists, lists of at most one value."""
    texts = [column.values[code].strip() for code in column.codes[rows]]
    separator = kinds.separator(column)
    return [[part for part in text.split(separator) if part] if text else [] for text in texts]


def _is_text(sample: Sample) -> bool:
    return not (formats.is_parquet(sample.path) or formats.is_json(sample.path))


def _key_of_ads(values: set[str], ads: Sample | None) -> str:
    """Returns the column of the table of ads that has most of the ids, or a new name."""
    found = {
        c.name: len(values.intersection(c.known))
        for c in ([] if ads is None else ads.columns.values())
    }
    best = max(found, key=found.__getitem__, default=None)
    # A table without a header line has an id as a name.
    if best is None or best in values or found[best] < 0.5 * len(values):
        return "item_id"
    return best


def _refuse(
    sample: Sample,
    key: str,
    problem: str,
    *lines: str,
    to: str = "log.to_csv('rows.csv', index=False)",
) -> None:
    needs_ast = any("ast." in line for line in lines)
    program = "\n".join(
        (
            *(["import ast"] if needs_ast else []),
            "import pandas as pd",
            f"log = {file_recipes.reading(sample.path, sample.header)}",
            *lines,
            to,
        )
    )
    unnamed = (
        " The first line of the file is a row, not a header, so the columns are named by their "
        "content: correct the names in this program, for example to user_id for the users."
    )
    raise ValueError(
        f"{problem}; expected a row for each ad. Write the rows before the conversion, for example "
        f"with pandas:\n{program}\nThe ad is then in {key!r}.{unnamed if sample.header else ''}"
    )
