"""Proposes a history of clicks where users come back.

Shapes: B rows of the sample, V users.
"""

from typing import Any

import numpy as np

from tfrecords.schema_inference.column_roles import Roles

NAME = "recent_clicks"
_MAX_AGE_DAYS = 30
# Minimum share of the rows whose users have clicked more than once among the first rows.
_MIN_SHARE = 0.3


def propose(roles: Roles, name: str, notes: list[str]) -> list[dict[str, Any]]:
    """Returns the proposed history as a list of JSON values, empty without one.

    Args:
        roles: The keys and labels.
        name: A name for the field that no other has.
        notes: A note on the decision is added.
    """
    user = roles.user_key
    if user is None or roles.time is None:
        return []
    clicks = np.bincount(
        user.codes[user.present & (roles.clicked() == 1)], minlength=len(user.values)
    )
    share = float(np.mean(user.present & (clicks[user.codes] > 1)))
    if share < _MIN_SHARE:
        return []
    notes.append(
        f"Query side, computed from the log: {name!r}, the user's clicks of the last "
        f"{_MAX_AGE_DAYS} days before each request ({share:.0%} of the rows are of users with "
        "several clicks). A service needs them too, in the request or from its user store; delete "
        "the field to do without."
    )
    return [
        {
            "name": name,
            "side": "query",
            "kind": "history",
            "of": "ad",
            "event": "click",
            "max_age_days": _MAX_AGE_DAYS,
        }
    ]
