"""Finds the labels of a log: click or a substitute, engagement and revenue."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tfrecords.columns import TRUTHS, plain_number
from tfrecords.schema_inference import kinds, known_names, outcomes
from tfrecords.schema_inference.sample import log_sample
from tfrecords.schema_inference.sample.log_sample import LOG, Column

_FEW = 10
_ACCIDENT = 1e-6


def click(
    columns: Sequence[Column], ad: Column, notes: list[str]
) -> tuple[Column | None, float | None]:
    """Returns the click and its threshold, or None; adds notes about unsuitable columns."""
    names = (*known_names.CLICKS, *known_names.ANY_LABELS)
    thing_clicks = (c for c in columns if known_names.is_click_of_thing(c.core) and _is_truth(c))
    found = named(columns, names, _is_truth) or next(thing_clicks, None)
    if found is not None:
        if found.missing_share > 0:
            notes.append(
                f"{log_sample.percent(found.missing_share, 2)} of the rows have no "
                f"{found.name!r}; they will be rejected."
            )
        return found, None
    counts = [c for c in columns if _is_count(c, ad)]
    found = named(counts, names, lambda _: True)
    found = found or next((c for c in counts if is_number_of(c, known_names.CLICKS)), None)
    if found is not None:
        notes.append(
            f"{found.name!r} ranges from {found.numbers.min():g} to {found.numbers.max():g}; "
            f"values of at least 1 count as clicks ({_share(found, 1):.1%} of the rows). Edit "
            "click_threshold to change this."
        )
        return found, 1.0
    damaged = named(columns, known_names.CLICKS, lambda c: _fault(c) is not None)
    rating = named(columns, known_names.RATINGS, _is_rating)
    rating = rating or next((c for c in columns if _is_rating_of_ad(c, ad)), None)
    if damaged is not None:
        instead = "" if rating is None else f" {rating.name!r} is used instead."
        mark = "! " if rating is None else ""
        said = f"{damaged.name!r} is named like a click, but {_fault(damaged)}"
        notes.append(f"{mark}{said}.{instead or _repair(damaged)}")
    if rating is not None:
        return rating, _threshold(rating, notes)
    # Without a click column, every row would count as a click.
    if damaged is not None and _counts_from_one(damaged):
        return None, None
    is_count = damaged is not None and damaged.is_whole and not damaged.is_truth
    return damaged, 1.0 if is_count else None


def chain(
    columns: Sequence[Column], ad: Column
) -> tuple[Column | None, Column | None, Column | None]:
    """Finds a chain of labels, each positive only if the previous one is.

    Such a pair is hardly a coincidence: as many random rows would all be among the positive rows of
    the click with a probability below `_ACCIDENT`. Columns that are constant for each ad are
    properties of it.

    Returns:
        The click and the engagement, columns of truths (0 and 1), and the revenue, a column of
        amounts; each is None if it was not found.
    """
    varying = [c for c in columns if c.table == LOG and not log_sample.is_constant_per_ad(c, ad)]
    truths = {c.name: positive(c) for c in varying if _is_truth(c) and len(c.known) > 1}
    amounts = {
        c.name: positive(c)
        for c in varying
        if c.is_numeric and not c.is_truth and c.numbers.min() >= 0
    }

    def within(outer: np.ndarray, candidates: Mapping[str, np.ndarray]) -> str | None:
        counts = {
            name: rows.sum()
            for name, rows in candidates.items()
            if not (rows & ~outer).any() and outer.mean() ** rows.sum() < _ACCIDENT
        }
        return max(counts, key=counts.__getitem__, default=None)

    by_name = {c.name: c for c in varying}
    for name in sorted(truths, key=lambda name: -truths[name].sum()):
        rarer = {n: rows for n, rows in truths.items() if rows.sum() < truths[name].sum()}
        engagement = within(truths[name], rarer)
        last = truths[name if engagement is None else engagement]
        revenue = within(last, amounts)
        if engagement is not None or revenue is not None:
            return by_name[name], by_name.get(engagement or ""), by_name.get(revenue or "")
    return None, None, None


def positive(column: Column) -> np.ndarray:
    """Returns whether the value of each row [B] is above 0 or true."""
    if column.is_numeric:
        return column.by_row(column.numbers > 0) == 1
    return column.by_row(column.truths) == 1


def engagement(columns: Sequence[Column], ad: Column) -> Column | None:
    """Returns the engagement after the click, or None."""
    # A column that is constant for each ad is a property of it, such as being on sale.
    varying = [c for c in columns if c.is_truth and not log_sample.is_constant_per_ad(c, ad)]
    found = named(varying, known_names.ENGAGEMENTS, lambda _: True)
    return found or next((c for c in varying if is_number_of(c, known_names.ENGAGEMENTS)), None)


def engagement_notes(columns: Sequence[Column], ad: Column) -> list[str]:
    """Returns a note for each column that counts engagements, which must be 0 or 1."""
    return [
        f"! {c.name!r} counts from 0 to {c.numbers.max():g} and may be the engagement, which is 0 "
        "or 1. If so, write it as such before the conversion, for example with pandas: "
        f'log[{c.name!r}] = (log[{c.name!r}] > 0).astype(int), and set "engagement" in the schema '
        "to it."
        for c in columns
        if is_number_of(c, known_names.ENGAGEMENTS)
        and c.is_whole
        and not c.is_truth
        and c.numbers.min() == 0
        and 0 < np.mean(positive(c)) < 0.5
        and not log_sample.is_constant_per_ad(c, ad)
    ]


def revenue(columns: Sequence[Column], ad: Column, notes: list[str]) -> Column | None:
    """Returns the revenue, or None."""

    def is_property(column: Column) -> bool:
        return column.is_truth and log_sample.is_constant_per_ad(column, ad)

    def fits(column: Column) -> bool:
        few_negative = _negative_share(column) <= known_names.MAX_REJECTED
        return column.is_numeric and few_negative and not is_property(column)

    found = named(columns, known_names.REVENUES, fits)
    if found is None:
        notes += _textual(columns, ad)
        refunds = named(
            columns, known_names.REVENUES, lambda c: c.is_numeric and not is_property(c)
        )
        if refunds is not None:
            notes.append(
                f"{refunds.name!r} is named like revenue, but negative in "
                f"{log_sample.percent(_negative_share(refunds))} of the rows. Write refunds as 0 "
                "to use it."
            )
    elif share := _negative_share(found):
        notes.append(
            f"{log_sample.percent(share, 2)} of the rows have a negative {found.name!r}; they will "
            "be rejected. Write refunds as 0 to keep them."
        )
    if found is not None and found.missing_share > 0:
        notes.append(
            f"{log_sample.percent(found.missing_share)} of the rows have no {found.name!r}; it is "
            "0 without an engagement (or a click, where engagements are not logged), and otherwise "
            "unknown."
        )
    return found


def _negative_share(column: Column) -> float:
    """Returns the share of the rows with a negative number; 0 for other columns."""
    if not column.is_numeric:
        return 0.0
    return float(np.mean(column.by_row(column.numbers < 0) == 1))


def price(columns: Sequence[Column], engaged: np.ndarray) -> Column | None:
    """Returns the amount of an engagement in a log of events, or None.

    An amount of money that is positive only in rows [B] of engagements is preferred.
    """
    amounts = [c for c in columns if c.is_numeric and c.numbers.min() >= 0]
    candidates = [
        c
        for c in amounts
        if not known_names.MONEY.isdisjoint(c.words)
        and known_names.NO_REVENUE.isdisjoint(c.words)
        and positive(c).any()
        and not (positive(c) & ~engaged).any()
    ]
    if not candidates:
        return named(amounts, known_names.PRICES, lambda _: True)
    # The revenue of an item occurs once, that of a purchase in the row of each of its items.
    return min(candidates, key=lambda c: (c.core != "item_revenue", "revenue" not in c.words))


def currency_notes(columns: Sequence[Column], amount: Column | None) -> list[str]:
    """Returns a note for each column of several currencies, if the log has revenue, the amount."""
    return [
        f"! {column.name!r} has {len(column.known)} currencies such as "
        f"{', '.join(map(repr, column.known[:2]))}, and {amount.name!r} would be added up and "
        "predicted across them. Convert the amounts to one currency before the conversion."
        for column in columns
        if amount is not None
        and len(column.known) > 1
        and not known_names.CURRENCIES.isdisjoint(column.words)
        and not column.is_numeric
    ]


def _unreadable(column: Column) -> str:
    """Returns a text that is not a number, if possible one that is not a formatted number."""
    texts = [column.known[index] for index in np.flatnonzero(np.isnan(column.numbers))]
    unread = (text for text in texts if not any(plain_number(text, sign) for sign in ".,"))
    return next(unread, texts[0])


def _textual(columns: Sequence[Column], ad: Column) -> list[str]:
    return [
        f"{column.name!r} is named like revenue, but values such as "
        f"{_unreadable(column)[:40]!r} are not numbers. Write them as 12.5."
        for column in columns
        if column.core in known_names.REVENUES
        and column.known
        and not column.is_numeric
        and not column.is_truth
        and kinds.separator(column) is None
        and not log_sample.is_constant_per_ad(column, ad)
    ]


def named(
    columns: Sequence[Column], names: Sequence[str], fits: Callable[[Column], bool]
) -> Column | None:
    """Returns the matching column whose name or core comes first in `names`, or None."""
    found = []
    for column in columns:
        ranks = [names.index(n) for n in (column.plain_object_words, column.core) if n in names]
        if ranks and fits(column):
            found.append((min(ranks), len(column.words), column))
    return min(found, key=lambda entry: entry[:2], default=(0, 0, None))[2]


def is_number_of(column: Column, names: Sequence[str]) -> bool:
    """Returns whether a column is named like a number of labels, such as num_clicks."""
    return known_names.counted(column.core) in names


def _is_truth(column: Column) -> bool:
    return column.is_truth and column.missing_share <= known_names.MAX_REJECTED


def _is_count(column: Column, ad: Column) -> bool:
    """Returns whether whole numbers may count the clicks of a row."""
    if not column.is_whole or column.missing_share > known_names.MAX_REJECTED:
        return False
    if _counts_from_one(column):
        return False
    if column.plain_object_words in known_names.ANY_LABELS:
        return len(column.known) <= _FEW and -1 <= column.numbers.min() <= 0
    # Total clicks of an ad, repeated in each of its rows, are not a label.
    is_ad_total = column.core != "click" and log_sample.is_constant_per_ad(column, ad)
    return column.numbers.min() >= -1 and column.numbers.max() >= 1 and not is_ad_total


def _counts_from_one(column: Column) -> bool:
    """Returns whether a column has the values 1 and 2, which may mean no and yes."""
    return sorted(column.known) == ["1", "2"]


def _fault(column: Column) -> str | None:
    """Returns why a column is not a click as it is, or None."""
    if kinds.separator(column) is not None:
        return None
    if _counts_from_one(column):
        return "its values are 1 and 2, so every row would be a click; write 0 and 1"
    if column.missing_share > known_names.MAX_REJECTED:
        return (
            f"{column.missing_share:.1%} of the rows lack it and will be rejected; write 0 for no "
            "click"
        )
    if not column.is_whole and not column.is_truth:
        wrong = next((v for v in column.known if v.strip().lower() not in TRUTHS), column.known[0])
        return (
            f"values such as {wrong[:40]!r} are not 0 or 1, so these rows will be rejected; write "
            "0 and 1, or rename it if it is not a click"
        )
    return None


def _repair(column: Column) -> str:
    """Returns how to repair a click that is missing in unclicked rows or has other texts, or ""."""
    log = f"log[{column.name!r}]"
    if not column.is_truth and len(column.known) == 2:
        text = outcomes.likely_click(column)
        click = outcomes.equal_to(column, text)
        return f" If {text[:40]!r} is a click, write it with pandas: {log} = {click}"
    if len(column.known) == 1:
        return f" For example with pandas: {log} = {log}.notna().astype(int)"
    return f" For example with pandas: {log} = {log}.fillna(0)" if column.is_numeric else ""


def _is_rating(column: Column) -> bool:
    return (
        column.is_numeric
        and column.missing_share <= known_names.MAX_MISSING
        and 2 <= len(column.known) <= 1000
    )


def _is_rating_of_ad(column: Column, ad: Column) -> bool:
    """Returns whether a column such as `book_rating` is a rating by the user, not the average."""
    is_named = column.words[:1] and column.words[0] in known_names.ADS
    is_named = is_named and "_".join(column.words[1:]) in known_names.RATINGS
    return bool(is_named and _is_rating(column) and not log_sample.is_constant_per_ad(column, ad))


def _threshold(rating: Column, notes: list[str]) -> float:
    scale = np.unique(rating.numbers)
    # Ratings from 1 to 5 have the threshold 4.
    upper = scale[0] + 0.75 * (scale[-1] - scale[0])
    threshold = float(scale[scale >= upper][0])
    notes.append(
        f"{rating.name!r} is a rating from {scale[0]:g} to {scale[-1]:g}; ratings of at least "
        f"{threshold:g} count as clicks ({_share(rating, threshold):.1%} of the rows). Edit "
        "click_threshold to change this."
    )
    lowest = float(np.mean(rating.by_row(rating.numbers) == scale[0]))
    if scale[0] in (-1, 0) and lowest > known_names.MAX_REJECTED:
        log = f"log[{rating.name!r}]"
        notes.append(
            f"! {log_sample.percent(lowest)} of the rows have the {rating.name!r} {scale[0]:g}, so "
            "they count as not clicked. If it means that there is no rating, remove these rows "
            f"before the conversion, for example with pandas: log = log[{log} != {scale[0]:g}]"
        )
    return threshold


def _share(column: Column, threshold: float) -> float:
    return float(np.nanmean(column.by_row(column.numbers >= threshold)))
