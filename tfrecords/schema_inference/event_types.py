"""Recognizes a column of event types, and proposes how these become labels."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfrecords.schema_inference import log_sample
from tfrecords.schema_inference.log_sample import LOG, Column

_MAX_EVENTS = 30

# Names of types, words joined by "_", in the order of a purchase.
_SHOWN = {
    "impression", "impressions", "show", "shown", "exposure", "display", "view_item_list",
    "view_promotion", "product_impression", "list_view",
}  # fmt: skip
_VIEWED = {
    "view", "viewed", "views", "page_view", "pageview", "detail_view", "view_item", "pv",
    "product_view", "product_viewed", "item_view", "read", "play", "watch",
}  # fmt: skip
_CLICKED = {
    "click", "clicked", "clicks", "clk", "select_item", "select_promotion", "select_content",
    "product_click", "open",
}  # fmt: skip
_WANTED = {
    "cart", "basket", "add_to_cart", "addtocart", "add_to_basket", "product_added", "wishlist",
    "add_to_wishlist", "fav", "favorite", "favourite", "like", "save", "share", "begin_checkout",
    "checkout", "add_to_favorites", "bookmark",
}  # fmt: skip
_BOUGHT = {
    "buy", "bought", "order", "ordered", "order_completed", "purchase", "purchased", "transaction",
    "sale", "conversion", "install", "signup", "sign_up", "apply", "booking", "subscribe",
    "checkout_completed", "ecommerce_purchase", "in_app_purchase",
}  # fmt: skip
_STEPS = (_SHOWN, _VIEWED, _CLICKED, _WANTED, _BOUGHT)
_OTHERS = {
    "remove_from_cart", "dislike", "add_payment_info", "add_shipping_info", "view_cart",
    "session_start", "first_visit", "user_engagement", "scroll", "view_search_results", "search",
    "login",
}  # fmt: skip
_KNOWN = _OTHERS.union(*_STEPS)


def is_event(column: Column, ad: Column) -> bool:
    """Returns whether a column holds event types, such as view, cart, purchase.

    Args:
        column: The column.
        ad: The ad id; a column that is constant for each ad is a property of it.
    """
    if column.is_list or column.table != LOG or not 2 <= len(column.known) <= _MAX_EVENTS:
        return False
    names = {_plain(value) for value in column.known}
    several = len(names & _KNOWN) >= max(2, 0.5 * len(names))
    return several and not log_sample.is_constant_per_ad(column, ad)


def first_of(column: Column) -> str:
    """Returns the first values of a column, for a note."""
    return _said(column.known[:4])


def propose(column: Column, ad: Column, notes: list[str]) -> dict[str, Any]:
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
        name = _plain(value)
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


def share_without_view(
    keys: Sequence[Column], at: np.ndarray, is_view: np.ndarray, is_later: np.ndarray
) -> float:
    """Returns the share of clicks and engagements that no view of the same keys precedes.

    Args:
        keys: The ad, and the user or request.
        at: Time, or place in the log [B].
        is_view: Whether a row is a view [B].
        is_later: Whether it is a click or an engagement [B].
    """
    has_keys = np.logical_and.reduce([key.present for key in keys])
    rows = np.flatnonzero((is_view | is_later) & has_keys)
    first, second = (key.codes[rows].astype(np.int64) for key in keys)
    joined = first * len(keys[1].values) + second
    order = np.lexsort((is_later[rows], at[rows], joined))
    joined, views = joined[order], is_view[rows][order]
    latest = np.maximum.accumulate(np.where(views, np.arange(len(order)), -1))
    found = ~views & (latest >= 0) & (joined[latest] == joined)
    return 1 - float(found.sum()) / max(int(is_later.sum()), 1)


def outcome_note(column: Column, events: dict[str, Any], share: float) -> str:
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


def _plain(value: str) -> str:
    """Returns the words of a type, in lower case and joined by "_"."""
    return re.sub(r"[\W_]+", "_", value.lower()).strip("_")


def _said(values: list[str]) -> str:
    return ", ".join(repr(value[:40]) for value in values) or "none"
