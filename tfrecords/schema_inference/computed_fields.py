"""Proposes fields that are computed from the log.

These are a history of clicks if users return, a recent click rate if ads are soon replaced, and the
age of the ad, the hour and the weekday if clicks depend on them.

Shapes: B rows of the sample, N impressions, V users or ads.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import numpy as np

from tfrecords.columns import calendar_values
from tfrecords.schema_inference import known_names, times
from tfrecords.schema_inference.roles import Roles
from tfrecords.schema_inference.sample.log_sample import Column

# Minimum share of the rows whose users have clicked more than once among the first rows.
_MIN_SHARE = 0.3
_RATE_DAYS = 1
# Ads are soon replaced if at most this share of the latest tenth of the rows has an ad of the first
# half, relative to rows in random order: the sample may have few rows of each ad.
_LATEST, _FIRST, _MAX_KNOWN, _SEED = 0.1, 0.5, 0.5, 0
# For each calendar, the words of columns that have it already, and how many days the log must have.
_CALENDARS = {
    "hour": (known_names.HOURS | {"daytime", "daypart"}, 6),
    "weekday": ({"weekday", "dow", "dayofweek", "day"}, 21),
}
# Click rates differ between hours, weekdays or ages if the differences of the first and the second
# half of the log agree by this many standard errors.
_MIN_ERRORS = 6.0
# Ages are compared at octaves of this many seconds, after the changes of the click rate from one
# part of the log to the next have been subtracted.
_AGE_UNIT, _NUM_PARTS = 900.0, 20


def history(roles: Roles, name: str, notes: list[str]) -> list[dict[str, Any]]:
    """Returns the proposed history as JSON values, or an empty list; adds a note."""
    user = roles.user_key
    if user is None or roles.time is None:
        return []
    # In a log of events, a click may lack the user that its view has.
    shown = _impressions(roles)
    is_click = roles.clicked() == 1
    clicked = np.flatnonzero(is_click) if shown is None else shown.rows[shown.clicked == 1]
    clicks = np.bincount(user.codes[clicked], minlength=len(user.values))
    share = float(np.mean(user.present & (clicks[user.codes] > 1)))
    if share < _MIN_SHARE:
        return []
    notes.append(
        f"Query side, computed from the log: {name!r}, the user's clicks before each request "
        f"({share:.0%} of the rows are from users with several clicks). A service needs them too, "
        "in the request or from its user store; delete the field if it has none."
    )
    return [{"name": name, "side": "query", "kind": "history", "of": "ad", "event": "click"}]


def rate(roles: Roles, name: str, notes: list[str]) -> list[dict[str, Any]]:
    """Returns the proposed click rate of the ad as JSON values, or an empty list; adds a note."""
    known, by_chance = _shares_of_known_ads(roles)
    if not by_chance or known > _MAX_KNOWN * by_chance:
        return []
    notes.append(
        f"Ad side, computed from the log: {name!r}, the share of the ad's impressions of the last "
        f"day that were clicked (the ads of {1 - known:.0%} of the latest rows do not occur in the "
        "first half, so ad ids say little). A release has the rates at the end of the log: export "
        "daily, or delete the field."
    )
    field = {"name": name, "side": "ad", "kind": "numeric", "of": "ad", "event": "click"}
    return [field | {"max_age_days": _RATE_DAYS}]


def age(roles: Roles, name: str, notes: list[str]) -> list[dict[str, Any]]:
    """Returns the proposed age of the ad as JSON values, or an empty list; adds a note.

    It is proposed if the clicks of an ad depend on its age in both halves of the log. Each ad is
    compared with itself, because frequent ads are first seen early.
    """
    shown = _impressions(roles)
    if shown is None:
        return []
    ads = roles.ad_key.codes[shown.rows]
    first = np.full(len(roles.ad_key.values), np.inf)
    np.minimum.at(first, ads, shown.at)
    octaves = np.log2(1 + (shown.at - first[ads]) / _AGE_UNIT).astype(np.int64)
    edges = np.quantile(shown.at, np.arange(1, _NUM_PARTS) / _NUM_PARTS)
    changes = _minus_means(shown.clicked, np.searchsorted(edges, shown.at, side="right"))
    rates = shown.clicked - changes
    residuals = _minus_means(changes, 2 * ads + shown.half)
    if _agreement(residuals, rates * (1 - rates), octaves, shown.half) < _MIN_ERRORS:
        return []
    notes.append(
        f"Ad side, computed from the log: {name!r}, the days since the ad's first impression "
        "(clicks depend on it). A release has the ages at the end of the log: export daily, or "
        "delete the field."
    )
    return [{"name": name, "side": "ad", "kind": "numeric", "of": "ad", "event": "impression"}]


def calendars(
    roles: Roles, fields: Iterable[Column], properties: Iterable[Column], notes: list[str]
) -> list[dict[str, Any]]:
    """Returns the proposed hour and weekday as JSON values, or an empty list.

    A calendar is proposed, with a note, if the click rate of the log, or how it differs from one
    value of a property (a categorical field of the ad in the log) to the next, depends on it in
    both halves of the log.
    """
    time, words = roles.time, {word for column in fields for word in column.words}
    shown = _impressions(roles)
    if time is None or time.in_folder or shown is None:
        return []
    num_days = float(np.ptp(shown.at)) / 86_400
    codes = [column.codes[shown.rows] for column in properties]
    groups = [np.zeros(len(shown.rows), np.int64), *codes]
    proposed = []
    for calendar, (known, min_days) in _CALENDARS.items():
        if num_days < min_days or not words.isdisjoint(known):
            continue
        units = calendar_values(shown.at, calendar).dictionary_encode().indices.to_numpy()
        if max(_agreement_of_groups(shown, units, grouping) for grouping in groups) < _MIN_ERRORS:
            continue
        notes.append(
            f"Query side, computed from the log: {calendar!r}, the {calendar} of {time.name!r}, as "
            "it is written or, with an offset or as a number, in UTC (clicks depend on it). A "
            "request must give it in the same time zone; delete the field if it cannot."
        )
        field = {"name": calendar, "side": "query", "kind": "categorical", "column": time.name}
        proposed.append(field | {"calendar": calendar})
    return proposed


# Each returns the field as a list of JSON values, given the roles, its name and the notes.
FIELDS = {"recent_clicks": history, "recent_click_rate": rate, "ad_age": age}


@dataclasses.dataclass(frozen=True)
class _Impressions:
    """The impressions of the sample that have a time and a label.

    Attributes:
        rows: Rows of the sample [N].
        clicked: 0 or 1 [N].
        at: Times in seconds [N].
    """

    rows: np.ndarray
    clicked: np.ndarray
    at: np.ndarray

    @functools.cached_property
    def half(self) -> np.ndarray:
        """Half of the log [N], 0 or 1."""
        return (self.at > np.median(self.at)).astype(np.int64)


def _impressions(roles: Roles) -> _Impressions | None:
    """Returns the impressions, or None if there are no unclicked ones or no times."""
    seconds = None if roles.time is None else times.seconds(roles.time)
    if roles.time is None or seconds is None or not _has_unclicked(roles):
        return None
    at = roles.time.by_row(seconds)
    clicked = roles.clicked() if roles.events is None else _clicked_views(roles, at)
    rows = np.flatnonzero(~np.isnan(clicked) & ~np.isnan(at))
    return _Impressions(rows, clicked[rows], at[rows]) if len(rows) else None


def _clicked_views(roles: Roles, at: np.ndarray) -> np.ndarray:
    """Returns whether the views among events are followed by a click [B]; NaN of other rows.

    A click belongs to the latest view of the ad by the user or in the request.
    """
    owner = roles.request_key or roles.user_key
    assert owner is not None
    is_view, is_later = roles.impressions, roles.are_of_types("click", "engagement")
    rows = np.flatnonzero((is_view | is_later) & owner.present)
    order = np.lexsort((is_later[rows], at[rows], roles.ad_key.codes[rows], owner.codes[rows]))
    rows = rows[order]
    keys = np.stack([owner.codes[rows], roles.ad_key.codes[rows]])
    follows = (keys[:, 1:] == keys[:, :-1]).all(axis=0) & is_later[rows[1:]]
    clicked = np.full(len(at), np.nan)
    clicked[rows] = np.append(follows, False)
    clicked[~is_view] = np.nan
    return clicked


def _agreement_of_groups(shown: _Impressions, units: np.ndarray, groups: np.ndarray) -> float:
    """Returns by how many standard errors the halves agree on the click rates of units.

    Units are hours or weekdays [N]. Trends do not matter, because each group [N], the rows with the
    same value of a property, is compared with its own click rate in that half.
    """
    changes = _minus_means(shown.clicked, 2 * groups + shown.half)
    rates = shown.clicked - changes
    cells = groups * (int(units.max()) + 1) + units
    return _agreement(changes, rates * (1 - rates), cells, shown.half)


def _agreement(
    changes: np.ndarray, variances: np.ndarray, cells: np.ndarray, half: np.ndarray
) -> float:
    """Returns by how many standard errors the sums of changes in cells agree in both halves.

    Args:
        changes: Differences between clicks and expected clicks [N].
        variances: Their variances [N].
        cells: Cell of each impression [N].
        half: Half of the log [N], 0 or 1.
    """
    (first, second), (variance, other_variance) = (
        [np.bincount(cells, weights * (half == part)) for part in (0, 1)]
        for weights in (changes, variances)
    )
    error = float(np.sqrt(np.sum(variance * other_variance)))
    return float(np.sum(first * second)) / error if error else 0.0


def _minus_means(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Returns values [N] without the means of their groups [N]."""
    sums, num_rows = np.bincount(groups, values), np.bincount(groups)
    return values - (sums / np.maximum(num_rows, 1))[groups]


def _shares_of_known_ads(roles: Roles) -> tuple[float, float]:
    """Returns the share of the latest rows whose ad is in the first half, and that by chance.

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
        float(np.isin(ids[at >= latest], ids[at <= half]).mean())
        for ids in (ads, np.random.default_rng(_SEED).permutation(ads))
    )
    return known, by_chance


def _has_unclicked(roles: Roles) -> bool:
    """Returns whether there are unclicked impressions; without them a log has no rates."""
    if roles.events is not None:
        return "view" in roles.events
    return bool((roles.clicked() == 0).any())
