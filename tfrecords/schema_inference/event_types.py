"""Recognizes logs whose rows are not impressions.

The events of a column of event types become labels. Lists of the ads of a request are refused, with
the lines of pandas that write a row for each ad.
"""

import json
import re
from typing import Any

import numpy as np

from tfrecords import formats
from tfrecords.schema_inference import file_columns, kinds, known_names, labels, log_sample
from tfrecords.schema_inference.log_sample import LOG, Column, Sample
from tfrecords.schema_inference.roles import Roles

_MAX_EVENTS = 30

# Names of types, words joined by "_", in the order of a purchase.
_SHOWN = {
    "impression", "impressions", "imp", "show", "shown", "exposure", "display", "view_item_list",
    "view_promotion", "list_view", "list_viewed",
}  # fmt: skip
_VIEWED = {
    "view", "viewed", "views", "page_view", "pageview", "detail_view", "pv", "read", "play",
    "watch",
}  # fmt: skip
_CLICKED = {
    "click", "clicked", "clicks", "clk", "select_item", "select_promotion", "select_content",
    "open", "opened",
}  # fmt: skip
_WANTED = {
    "cart", "basket", "add_to_cart", "addtocart", "add_to_basket", "added", "wishlist",
    "add_to_wishlist", "fav", "favorite", "favourite", "like", "save", "share", "begin_checkout",
    "checkout", "add_to_favorites", "bookmark", "carts", "favorites", "likes", "saves", "shares",
}  # fmt: skip
_BOUGHT = {
    "buy", "bought", "order", "ordered", "order_completed", "purchase", "purchased", "transaction",
    "sale", "conversion", "postback", "install", "signup", "sign_up", "apply", "booking",
    "subscribe", "checkout_completed", "ecommerce_purchase", "in_app_purchase", "orders",
    "purchases", "transactions",
}  # fmt: skip
_STEPS = (_SHOWN, _VIEWED, _CLICKED, _WANTED, _BOUGHT)
_OTHERS = {
    "remove_from_cart", "dislike", "add_payment_info", "add_shipping_info", "view_cart",
    "session_start", "first_visit", "user_engagement", "scroll", "view_search_results", "search",
    "login", "bid", "bid_request", "bid_response", "win", "removed", "app_open",
}  # fmt: skip
_NAMES = re.compile(
    "(event|action|activity|interaction|behaviou?r)_?(type|name|kind|code)|"
    "event|interaction|behaviou?r|btag"
)
_KNOWN = _OTHERS.union(*_STEPS)


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

    These have their clicks, such as `N1-0 N2-1`, or another column has the clicked ones.

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

    Args:
        sample: The log.
        ad: The ad id.
        click: The click, whole numbers.

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
    others = [c for c in sample.columns.values() if c.is_numeric and c.name not in counts]
    bought = next((c for c in others if c.is_whole and c.core in known_names.ENGAGEMENTS), None)
    paid = next((c for c in others if c is not bought and c.core in known_names.REVENUES), None)
    lines = [
        f"log = log.loc[log.index.repeat(log[{counts[0]!r}])]",
        "number = log.groupby(level=0).cumcount()",
        f"log['click'] = (number < log[{click.name!r}]).astype(int)",
    ]
    if bought is not None:
        lines.append(f"log['conversion'] = (number < log[{bought.name!r}]).astype(int)")
    if paid is not None:
        each, label = (click.name, "click") if bought is None else (bought.name, "conversion")
        value = f"(log[{paid.name!r}] / log[{each!r}])"
        lines.append(f"log['revenue'] = {value}.where(log['{label}'] == 1, 0)")
    rates = [c.name for c in others if not _RATES.isdisjoint(c.words)]
    gone = [*counts, *(c.name for c in (bought, paid) if c is not None), *rates]
    gone = [name for name in gone if name not in ("click", "conversion", "revenue")]
    _refuse(
        sample,
        ad.name,
        f"{counts[0]!r} and {click.name!r} count the impressions and clicks of a row",
        *lines,
        f"log = log.drop(columns={gone})",
    )


def _lists(column: Column, rows: np.ndarray) -> list[list[str]]:
    """Returns the values of some rows; a row of a column without lists has at most one."""
    texts = [column.values[code].strip() for code in column.codes[rows]]
    separator = kinds.separator(column)
    return [[part for part in text.split(separator) if part] if text else [] for text in texts]


def _clicks(
    column: Column, lists: list[list[str]], other: Column, is_chosen: bool
) -> tuple[str, str] | None:
    """Returns the expression of the clicks of each row, if another column has the clicked ads.

    Args:
        column: The column of the shown ads.
        lists: The first lists of it.
        other: The other column: the clicked ads, the index of one, or 0 or 1 for each ad.
        is_chosen: Whether the other column is named like clicks.

    Returns:
        The expression, and what the other column has; None: it has something else.
    """
    shown, clicked = f"log[{column.name!r}]", f"log.pop({other.name!r})"
    chosen = _lists(other, np.flatnonzero(column.present)[:_PROBED])
    pairs = [(own, set(ads)) for own, ads in zip(chosen, lists, strict=True) if own]
    if is_chosen and other.is_whole and not _NUMBERS.isdisjoint(other.words):
        longest, low, high = max(map(len, lists)), other.numbers.min(), other.numbers.max()
        is_named = {"index", "idx"}.isdisjoint(other.words)
        first = int(high == longest or (low >= 1 and is_named))
        if low < -1 or high > longest:
            return None
        each = f"[int(n == clicked) for n, _ in enumerate(ads, {first})]"
        said = "the number of the clicked one"
    elif is_chosen and [len(own) for own in chosen] == [len(own) for own in lists]:
        if not {value for own in chosen for value in own} <= {"0", "1", "true", "false"}:
            return None
        return clicked, "the clicks of them"
    else:
        several = np.mean([len(ads) > len(own) for own, ads in pairs]) if pairs else 0
        held = sum(ads.issuperset(own) for own, ads in pairs)
        wanted = max(len(pairs), _FEW_CHOSEN if is_chosen else 0.5 * len(lists))
        if held <= _MIN_CHOSEN * wanted or several <= 0.5:
            return None
        said = "the clicked ones"
        each = "[int(ad in clicked) for ad in ads]"
        if kinds.separator(other) is None:
            whole = ".astype('Int64')" if other.is_whole else ""
            clicked += f"{whole}.astype(str)"
            each = "[int(str(ad) == clicked) for ad in ads]"
        elif other.missing_share > 0:
            each = "[int(ad in clicked) if hasattr(clicked, '__len__') else 0 for ad in ads]"
    return f"[{each} for ads, clicked in zip({shown}, {clicked})]", said


def _refuse_chosen(
    sample: Sample,
    ads: Sample | None,
    column: Column,
    lists: list[list[str]],
    other: Column,
    click: tuple[str, str],
) -> None:
    key = _key_of_ads({value for own in lists for value in own}, ads)
    rows = np.flatnonzero(column.present)[:_PROBED]
    num_ads = [len(own) for own in lists]
    with_ads = [
        c
        for c in sample.columns.values()
        if c not in (column, other)
        and kinds.separator(c) is not None
        and [len(own) for own in _lists(c, rows)] == num_ads
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


def _has_clicked(column: Column, other: Column) -> bool:
    """Returns whether another column has the clicked ones of the ads in a list of objects."""
    rows = np.flatnonzero(column.present & other.present)[:_PROBED]
    ids, known = _lists(other, rows), set(column.known)
    of_rows = [column.values[code] for code in column.codes[rows]]
    held = sum(value in own for value, own in zip(of_rows, ids, strict=True))
    return len(rows) > _FEW_CHOSEN and held > 0 and known.issuperset(v for own in ids for v in own)


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


def _is_text(sample: Sample) -> bool:
    return not (formats.is_parquet(sample.path) or formats.is_json(sample.path))


def _key_of_ads(values: set[str], ads: Sample | None) -> str:
    """Returns the column of the table of ads that has most of some ids, or a new name."""
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
    what: str,
    *lines: str,
    to: str = "log.to_csv('rows.csv', index=False)",
) -> None:
    needs_ast = any("ast." in line for line in lines)
    program = "\n".join(
        (
            *(["import ast"] if needs_ast else []),
            "import pandas as pd",
            f"log = {file_columns.reading(sample.path, sample.header)}",
            *lines,
            to,
        )
    )
    raise ValueError(
        f"{what}; expected a row for each ad. Write the rows before the conversion, for example "
        f"with pandas:\n{program}\nThe ad is then in {key!r}."
    )


def _name(type_: str) -> str:
    """Returns the known name of a type, without words for the ad, or else its words joined by `_`.

    So `ad_click` is `click`, and `ProductViewed` is `viewed`.
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type_)
    names = [known_names.plain_words(text) for text in (type_, spaced)]
    for name in names[:]:
        words = [w for w in name.split("_") if not {w, w.removesuffix("s")} & {*known_names.ADS}]
        names.append("_".join(words))
    return next((name for name in names if name in _KNOWN), names[0])


def is_event(column: Column, ad: Column) -> bool:
    """Returns whether a column holds event types, such as view, cart, purchase.

    Args:
        column: The column.
        ad: The ad id; a column that is constant for each ad is a property of it.
    """
    if column.is_list or column.table != LOG or not 2 <= len(column.known) <= _MAX_EVENTS:
        return False
    names = {_name(value) for value in column.known}
    several = len(names & _KNOWN) >= max(2, 0.5 * len(names))
    return several and not log_sample.is_constant_per_ad(column, ad)


def may_be_codes(column: Column, ad: Column) -> bool:
    """Returns whether a column of the log may hold event types by its name, such as action_type."""
    is_named = column.table == LOG and _NAMES.fullmatch(column.plain_words) is not None
    return is_named and not log_sample.is_constant_per_ad(column, ad)


def code_note(column: Column) -> str:
    """Returns what to do about a column that may hold event types, whose meaning is unknown."""
    first = sorted(column.known)[:2]
    example = {"column": column.name, "view": first[:1], "click": first[1:]}
    return (
        f"! {column.name!r} may hold event types, such as {_said(first)}, so that not every row is "
        f'a click. If so, set events in the schema to what they mean, such as "events": '
        f"{json.dumps(example, ensure_ascii=False)}"
    )


def first_of(column: Column) -> str:
    """Returns the first values of a column, for a note."""
    return _said(column.known[:4])


def join(roles: Roles, column: Column, sample: Sample, notes: list[str]) -> None:
    """Proposes the events of the schema, if a key joins them, and their revenue."""
    if roles.user_key is None and roles.request_key is None:
        notes.append(
            f"{column.name!r} holds event types ({first_of(column)}), but no column "
            "identifies the user or the request, so they cannot be joined and every row counts as "
            "a click. Add a user_key, and events to the schema."
        )
        return
    said: list[str] = []
    roles.events = _propose(column, roles.ad_key, said)
    share = _share_without_view(roles)
    if share > 0.5 and (sample.num_rows > 0.9 * sample.total_rows or _is_ordered(roles.time)):
        notes.append(_outcome_note(column, roles.events, share))
        roles.event = roles.events = None
        return
    if share > 0.5:
        said.append(
            f"! {share:.0%} of the clicks in the sample have no view of their ad by the same user "
            "or in the same request, perhaps because the rows are in random order. The conversion "
            "says how many have none in the whole log."
        )
    notes += said
    if roles.revenue is None and "engagement" in roles.events:
        free = [c for c in sample.columns.values() if c.name not in roles.names()]
        price = labels.price(free, roles.of_types("engagement"))
        if price is None:
            return
        is_known = labels.positive(price)[roles.impressions]
        is_revenue = f"{price.name!r} of an engagement is its revenue."
        if is_known.mean() > 0.5:
            roles.price = price
            notes.append(f"{is_revenue} Impressions have it too, so it may be a field.")
        else:
            roles.revenue = price
            notes.append(f"{is_revenue} Most impressions lack it, so it is not a field.")


def _share_without_view(roles: Roles) -> float:
    """Returns the share of clicks and engagements that no view of their ad precedes.

    The view is by the same user, or in the same request. A log without views has 0.
    """
    who = roles.request_key or roles.user_key
    assert who is not None
    assert roles.events is not None
    if "view" not in roles.events:
        return 0.0
    is_view, is_later = roles.impressions, roles.of_types("click", "engagement")
    rows = np.flatnonzero((is_view | is_later) & roles.ad_key.present & who.present)
    joined = roles.ad_key.codes[rows].astype(np.int64) * len(who.values) + who.codes[rows]
    at = rows if roles.time is None else roles.time.by_row(roles.time.times)[rows]
    order = np.lexsort((is_later[rows], at, joined))
    joined, is_view = joined[order], is_view[rows][order]
    latest = np.maximum.accumulate(np.where(is_view, np.arange(len(order)), -1))
    found = ~is_view & (latest >= 0) & (joined[latest] == joined)
    return 1 - float(found.sum()) / max(int(is_later.sum()), 1)


def _is_ordered(time: Column | None) -> bool:
    """Returns whether most rows are in the order of their times; None: all rows are."""
    return time is None or float(np.mean(np.diff(time.by_row(time.times)) >= 0)) > 0.9


def _propose(column: Column, ad: Column, notes: list[str]) -> dict[str, Any]:
    """Returns the `events` of a schema for a column of event types, and adds notes.

    Only types most of whose rows have the ad become labels.
    """
    with_ad = np.bincount(column.codes, ad.present, len(column.values)) / np.maximum(
        column.counts, 1
    )
    has_ad = dict(zip(column.values, with_ad > 0.5, strict=True))
    by_step: list[list[str]] = [[] for _ in range(5)]
    others: list[str] = []
    for value in column.known:
        name = _name(value)
        found = (step for step, names in enumerate(_STEPS) if name in names and has_ad[value])
        step = next(found, None)
        (others if step is None else by_step[step]).append(value.strip())
    shown, viewed, clicked, wanted, bought = by_step
    if shown:
        view, click, engagement = shown, viewed + clicked, wanted + bought
    elif clicked:
        view, click, engagement = viewed, clicked, wanted + bought
    else:
        view, click, engagement = viewed, wanted, bought
    if bought and (viewed or clicked) and shown + clicked:
        engagement = bought
        others = [*wanted, *others]
    if not click:
        click, engagement = engagement, []
    if not click:  # Views of pages alone: each was chosen by its user.
        view, click = [], view
    events = {"column": column.name, "view": view, "click": click, "engagement": engagement}
    notes.append(
        f"{column.name!r} holds event types, which are joined to labels. Impressions: "
        f"{_said(view)}. Clicks: {_said(click)}. Engagements: {_said(engagement)}. Events of one "
        "ad by one user belong to the latest view within a day (window_seconds)."
    )
    if others:
        notes.append(
            f"Events of the types {_said(others)} will be left out; name them in events if they "
            "are views, clicks or engagements."
        )
    return {key: value for key, value in events.items() if value}


def _outcome_note(column: Column, events: dict[str, Any], share: float) -> str:
    """Returns a note on a column that holds the outcome of each impression, not its events."""
    clicks = [*events["click"], *events.get("engagement", [])]
    column_text = f"log[{column.name!r}]"
    text = (
        f"! {column.name!r} holds event types, but {share:.0%} of the clicks have no view of "
        "their ad by the same user or in the same request before them, so events are not "
        "proposed. If each row is an impression with its outcome, write the outcome as labels "
        "before the conversion, for example with pandas: "
        f'log["click"] = {column_text}.isin({clicks}).astype(int)'
    )
    if "engagement" in events:
        text += f'; log["engagement"] = {column_text}.isin({events["engagement"]}).astype(int)'
    return f"{text}. Otherwise correct the keys, or name the events in the schema."


def _said(values: list[str]) -> str:
    return ", ".join(repr(value[:40]) for value in values) or "none"
