"""Proposes fields that are computed from the log.

These are a history of clicks if users return, and a recent click rate if ads are soon replaced.

Shapes: B rows of the sample, V users or ads.
"""

from typing import Any

import numpy as np

from tfrecords.schema_inference import times
from tfrecords.schema_inference.roles import Roles

HISTORY, RATE = "recent_clicks", "recent_click_rate"
_MAX_AGE_DAYS = 30
# Minimum share of the rows whose users have clicked more than once among the first rows.
_MIN_SHARE = 0.3
# Minimum share of clicks whose user's previous click is within the age limit.
_MIN_RECENT = 0.9
_RATE_DAYS = 1
# Ads are soon replaced if in at most this share of the latest tenth of the rows the ad is in the
# first half too, relative to rows in random order: the sample may have few rows of each ad.
_LATEST, _FIRST, _MAX_KNOWN, _SEED = 0.1, 0.5, 0.5, 0


def history(roles: Roles, name: str, notes: list[str]) -> list[dict[str, Any]]:
    """Returns the proposed history as a list of JSON values, empty without one.

    Args:
        roles: The keys and labels.
        name: A unique name for the field.
        notes: A note on the decision is added.
    """
    user = roles.user_key
    if user is None or roles.time is None:
        return []
    clicked = user.present & (roles.clicked() == 1)
    clicks = np.bincount(user.codes[clicked], minlength=len(user.values))
    share = float(np.mean(user.present & (clicks[user.codes] > 1)))
    if share < _MIN_SHARE:
        return []
    limited = _are_recent(roles, clicked)
    which = (
        f"the user's clicks of the last {_MAX_AGE_DAYS} days" if limited else "the user's clicks"
    )
    notes.append(
        f"Query side, computed from the log: {name!r}, {which} before each request ({share:.0%} of "
        "the rows are from users with several clicks). A service needs them too, in the request or "
        "from its user store; delete the field if it has none."
    )
    field = {"name": name, "side": "query", "kind": "history", "of": "ad", "event": "click"}
    return [field | ({"max_age_days": _MAX_AGE_DAYS} if limited else {})]


def rate(roles: Roles, name: str, notes: list[str]) -> list[dict[str, Any]]:
    """Returns the proposed click rate of the ad as a list of JSON values, empty without one.

    Args:
        roles: The keys and labels.
        name: A unique name for the field.
        notes: A note on the decision is added.
    """
    known, by_chance = _shares_of_known_ads(roles)
    if not by_chance or known > _MAX_KNOWN * by_chance:
        return []
    notes.append(
        f"Ad side, computed from the log: {name!r}, the share of the ad's impressions of the last "
        f"day that were clicked ({1 - known:.0%} of the latest rows are of ads that no row of the "
        "first half has, so ids of ads tell little). A release has the rates at the end of the "
        "log: export daily, or delete the field."
    )
    field = {"name": name, "side": "ad", "kind": "numeric", "of": "ad", "event": "click"}
    return [field | {"max_age_days": _RATE_DAYS}]


def _shares_of_known_ads(roles: Roles) -> tuple[float, float]:
    """Returns the share of the latest rows whose ad is in the first half, and of rows by chance.

    Both are 0 if there can be no rate.
    """
    seconds = None if roles.time is None else times.seconds(roles.time)
    if roles.time is None or seconds is None or not _has_unclicked(roles):
        return 0.0, 0.0
    rows = roles.time.present
    if roles.events is not None:
        rows = rows & roles.impressions
    at, ads = roles.time.by_row(seconds)[rows], roles.ad_key.codes[rows]
    if not len(at):
        return 0.0, 0.0
    half, latest = np.quantile(at, [_FIRST, 1 - _LATEST])
    known, by_chance = (
        float(np.isin(own[at >= latest], own[at <= half]).mean())
        for own in (ads, np.random.default_rng(_SEED).permutation(ads))
    )
    return known, by_chance


def _has_unclicked(roles: Roles) -> bool:
    """Returns whether there are unclicked impressions; without them a log has no rates."""
    if roles.events is not None:
        return "view" in roles.events
    return bool((roles.clicked() == 0).any())


def _are_recent(roles: Roles, clicked: np.ndarray) -> bool:
    """Returns whether nearly all clicks [B] follow one of the same user within the limit."""
    assert roles.user_key is not None
    assert roles.time is not None
    seconds = times.seconds(roles.time)
    if seconds is None:
        return True
    rows = np.flatnonzero(clicked & roles.time.present)
    users, at = roles.user_key.codes[rows], roles.time.by_row(seconds)[rows]
    order = np.lexsort((at, users))
    same = np.diff(users[order]) == 0
    gaps = np.diff(at[order])[same]
    return not len(gaps) or float(np.mean(gaps <= 86_400 * _MAX_AGE_DAYS)) >= _MIN_RECENT
