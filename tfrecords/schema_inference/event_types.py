"""Recognizes a column of event types, and proposes how these become labels."""

import json
import re
from typing import Any

import numpy as np

from tfrecords.schema_inference import known_names, labels
from tfrecords.schema_inference.roles import Roles
from tfrecords.schema_inference.sample import log_sample
from tfrecords.schema_inference.sample.log_sample import LOG, Column, Sample

_MAX_EVENTS = 30

# Names of types, words joined by "_", in the order of a purchase.
_SHOWN = {
    "impression", "impressions", "imp", "show", "shown", "exposure", "exposed", "display", "served",
    "sent", "delivered", "view_item_list", "view_promotion", "list_view", "list_viewed",
}  # fmt: skip
_VIEWED = {
    "view", "viewed", "views", "page_view", "pageview", "detail_view", "pv", "read", "play",
    "watch", "listen",
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
    "sale", "conversion", "converted", "conv", "postback", "install", "signup", "sign_up", "apply",
    "booking",
    "subscribe", "checkout_completed", "ecommerce_purchase", "in_app_purchase", "orders",
    "purchases", "transactions", "conversions", "installs", "signups", "bookings", "sales",
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

    A column that is constant for each ad is a property of it.
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


def _likely_step(type_: str) -> int:
    """Returns the step of a known word in a type such as `email_opened`, or else that of clicks."""
    words = known_names.plain_words(type_).split("_")
    return next((step for step, names in enumerate(_STEPS) if not names.isdisjoint(words)), 2)


def code_note(column: Column) -> str:
    """Returns what to do about a column that may hold event types, whose meaning is unknown."""
    first = sorted(column.known, key=lambda value: (_likely_step(value), value))[:2]
    example = {"column": column.name, "view": first[:1], "click": first[1:]}
    return (
        f"! {column.name!r} may hold event types, such as {_quoted(first)}, so that not every row "
        f'is a click. If so, set events in the schema to what they mean, such as "events": '
        f"{json.dumps(example, ensure_ascii=False)}"
    )


def first_of(column: Column) -> str:
    """Returns the first values of a column, for a note."""
    return _quoted(column.known[:4])


def join(roles: Roles, column: Column, sample: Sample, notes: list[str]) -> None:
    """Proposes the events of the schema, if a key joins them, and their revenue."""
    if roles.user_key is None and roles.request_key is None:
        notes.append(
            f"{column.name!r} holds event types ({first_of(column)}), but no column "
            "identifies the user or the request, so they cannot be joined and every row counts as "
            "a click. Add a user_key, and events to the schema."
        )
        return
    event_notes: list[str] = []
    roles.events = _propose(column, roles, event_notes)
    share = _share_without_view(roles)
    if share > 0.5 and (sample.num_rows > 0.9 * sample.total_rows or _is_ordered(roles.time)):
        notes.append(_outcome_note(column, roles.events, share))
        roles.event = roles.events = None
        return
    if share > 0.5:
        event_notes.append(
            f"! {share:.0%} of the clicks in the sample have no view of their ad by the same user "
            "or in the same request, perhaps because the rows are in random order. The conversion "
            "says how many have none in the whole log."
        )
    notes += event_notes
    if roles.revenue is None and "engagement" in roles.events:
        free = [c for c in sample.columns.values() if c.name not in roles.names()]
        price = labels.price(free, roles.are_of_types("engagement"))
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
    is_view, is_later = roles.impressions, roles.are_of_types("click", "engagement")
    rows = np.flatnonzero((is_view | is_later) & roles.ad_key.present & who.present)
    joined = roles.ad_key.codes[rows].astype(np.int64) * len(who.values) + who.codes[rows]
    at = rows if roles.time is None else roles.time.by_row(roles.time.times)[rows]
    order = np.lexsort((is_later[rows], at, joined))
    joined, is_view = joined[order], is_view[rows][order]
    latest = np.maximum.accumulate(np.where(is_view, np.arange(len(order)), -1))
    found = ~is_view & (latest >= 0) & (joined[latest] == joined)
    return 1 - float(found.sum()) / max(int(is_later.sum()), 1)


def _is_ordered(time: Column | None) -> bool:
    """Returns whether most rows are in time order; without times, all rows count as ordered."""
    return time is None or float(np.mean(np.diff(time.by_row(time.times)) >= 0)) > 0.9


def _propose(column: Column, roles: Roles, notes: list[str]) -> dict[str, Any]:
    """Returns the `events` of a schema for a column of event types, and adds notes.

    A type becomes a label only if most of its rows have the ad.
    """
    with_ad = np.bincount(column.codes, roles.ad_key.present, len(column.values)) / np.maximum(
        column.counts, 1
    )
    has_ad = dict(zip(column.values, with_ad > 0.5, strict=True))
    by_step: list[list[str]] = [[] for _ in range(5)]
    unnamed: list[str] = []
    for value in column.known:
        name = _name(value)
        found = (step for step, names in enumerate(_STEPS) if name in names and has_ad[value])
        step = next(found, None)
        (unnamed if step is None else by_step[step]).append(value.strip())
    shown, viewed, clicked, wanted, bought = by_step
    if shown:
        view, click, engagement = shown, viewed + clicked, wanted + bought
    elif clicked:
        view, click, engagement = viewed, clicked, wanted + bought
    else:
        view, click, engagement = viewed, wanted, bought
    if bought and (viewed or clicked) and shown + clicked:
        engagement = bought
        unnamed = [*wanted, *unnamed]
    if not click:
        click, engagement = engagement, []
    if not click:  # All events are page views, which users chose.
        view, click = [], view
    events = {"column": column.name, "view": view, "click": click, "engagement": engagement}
    joined = "by one user belong to the latest view within a day (window_seconds)"
    if roles.request_key is not None:
        joined = "in one request belong to its latest view within a day (window_seconds)"
    notes.append(
        f"{column.name!r} holds event types, which are joined to labels. Impressions: "
        f"{_quoted(view)}. Clicks: {_quoted(click)}. Engagements: {_quoted(engagement)}. "
        f"Events of one ad {joined}."
    )
    if unnamed:
        notes.append(
            f"Events of the types {_quoted(unnamed)} will be left out; name them in events if they "
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


def _quoted(values: list[str]) -> str:
    return ", ".join(repr(value[:40]) for value in values) or "none"
