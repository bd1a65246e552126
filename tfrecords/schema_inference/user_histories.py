"""Proposes a history of clicks if users return.

Shapes: B rows of the sample, V users.
"""

from typing import Any

import numpy as np

from tfrecords.schema_inference import times
from tfrecords.schema_inference.roles import Roles

NAME = "recent_clicks"
_MAX_AGE_DAYS = 30
# Minimum share of the rows whose users have clicked more than once among the first rows.
_MIN_SHARE = 0.3
# Minimum share of clicks whose user's previous click is within the age limit.
_MIN_RECENT = 0.9


def propose(roles: Roles, name: str, notes: list[str]) -> list[dict[str, Any]]:
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
    history = {"name": name, "side": "query", "kind": "history", "of": "ad", "event": "click"}
    return [history | ({"max_age_days": _MAX_AGE_DAYS} if limited else {})]


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
