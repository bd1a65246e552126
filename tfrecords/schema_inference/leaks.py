"""Finds columns that must not be input fields: uninformative ones and leaks.

Shapes: B rows of the sample, V distinct values of a column.
"""

import re

import numpy as np

from tfrecords import columns, label_counts
from tfrecords.schema_inference import event_types, kinds, known_names, outcomes, sides, times
from tfrecords.schema_inference.keys import is_request_id
from tfrecords.schema_inference.roles import Roles
from tfrecords.schema_inference.sample import log_sample
from tfrecords.schema_inference.sample.log_sample import LOG, USERS, Column, Sample

# Words for outcomes, which are known only after an ad was shown.
_AFTERWARDS = {
    "click", "clicks", "clicked", "clk", "isclick", "conversion", "conversions", "converted",
    "purchase", "purchases", "purchased", "bought", "booked", "bookings", "revenue", "gmv",
    "dwell", "attribution", "attributed", "payout", "watchtime", "playtime", "viewable",
    "viewability", "inview", "hover", "hovers", "hovered", "scroll", "scrolled", "mouse", "bounce",
    "bounced", "unsubscribe", "unsubscribed",
}  # fmt: skip
# Words for ratings by a user, or of an ad by all users.
_RATED = {
    "rating", "feedback", "reaction", "reactions", "note", "bewertung", "valoración", "puntuación",
    "avaliação",
}  # fmt: skip
# Words for what users write about an ad, and readers say about it.
_TEXTS = {
    "review", "reviews", "helpful", "useful", "funny", "cool", "comment", "vote", "votes",
    "upvotes", "downvotes",
}  # fmt: skip
# Names of flags of what a user did with an ad.
_DONE = {
    "read", "reviewed", "rated", "watched", "viewed", "opened", "played", "listened", "skipped",
    "completed", "reward_granted", "reward_earned",
}  # fmt: skip
_TEXTS_OF_RATINGS = {"text", "summary"}
# Words for how often or how much of an ad a user chose, in a log of choices.
_FREQUENCIES = {
    "weight", "cnt", "count", "plays", "playcount", "listens", "quantity", "qty", "amount", "units",
}  # fmt: skip
# Words for counts of an ad or a user, which leak if they include the whole log.
_COUNTED = {
    "click", "clicks", "clicked", "clk", "impressions", "ctr", "cvr", "conversion", "conversions",
    "purchase", "purchases", "purchased", "bookings", "revenue", "gmv",
}  # fmt: skip
# Words for possible counts, which may also have another source.
_PERHAPS_COUNTED = {
    "impressions", "ctr", "cvr", "popularity", "views", "plays", "likes", "downloads", "sales",
    "sold", "orders", "rating", "ratings", "reviews", "votes", "ltv", "clv", "lifetime",
}  # fmt: skip
# Words for the past, which is known: clicks_last_week.
_BEFORE = {
    "last", "past", "prev", "previous", "hist", "history", "historical", "since", "prior",
    "before", "ago",
}  # fmt: skip
_AVERAGES = {"avg", "mean", "average"}
# Words for what a user does with an ad, of which a time or a share is known afterward.
_LASTING = {
    "watch", "watched", "play", "played", "playing", "listened", "stay", "view", "viewed",
    "visible", "reading", "read", "active",
}  # fmt: skip
_MEASURES = {
    "time", "ratio", "duration", "pct", "percent", "percentage", "seconds", "secs", "ms", "minutes",
}  # fmt: skip
# Words for what an auction decides.
_AUCTION = {"win", "won", "winning", "clearing", "paying", "payprice", "ecpm"}
_BY_AUCTION = "known only after the auction, by its name"
_COUNTED_REASON = (
    "a count of outcomes, which leaks the test rows if it includes the whole log; add it if it was "
    "counted before"
)
BY_NAME = "known only after the ad was shown, by its name"


def outcome_reason(column: Column, sample: Sample, roles: Roles) -> str | None:
    """Returns why a column is an outcome by its name or values, or None."""
    words = set(column.words)
    is_static = sample.table != LOG or log_sample.is_constant_per_ad(column, roles.ad_key)
    texts = _TEXTS | (_TEXTS_OF_RATINGS if roles.click_threshold is not None else set())
    if not is_static and words & texts:
        return BY_NAME
    # Lists of clicks are usually histories; `_list_leak` finds the others.
    if words & _BEFORE or kinds.separator(column) is not None:
        return None
    if event_types.is_event(column, roles.ad_key):
        return f"event types after the ad was shown, {event_types.first_of(column)}"
    if is_static and column.is_numeric and words & _COUNTED:
        return None if words & _AVERAGES else _COUNTED_REASON
    if sample.table != LOG or words & _AVERAGES:
        return None
    if words & _AUCTION and not is_static:
        return _BY_AUCTION
    if event_types.may_be_codes(column, roles.ad_key):
        return "its name says that it holds event types; name the types in events if it does"
    are_choices = roles.click is None and roles.events is None
    if are_choices and not is_static and column.is_numeric and words & _FREQUENCIES:
        return BY_NAME
    lasts = bool(words & _LASTING and words & _MEASURES) or {"session", "duration"} <= words
    is_duration = lasts and not is_static
    if words & _AFTERWARDS or (words & _RATED and not is_static) or is_duration:
        return BY_NAME
    if column.plain_object_words in known_names.ANY_LABELS[:2]:
        return BY_NAME
    # A column that is constant for each ad is a property of it, such as being on sale.
    is_label = column.core in (*known_names.ENGAGEMENTS, *known_names.REVENUES)
    is_label = is_label or known_names.counted(column.core) in known_names.CLICKS
    thing, _, done = column.core.rpartition("_")
    is_done = column.core in _DONE or (done in _DONE and thing in known_names.ADS)
    is_label = is_label or (column.is_truth and is_done)
    return BY_NAME if is_label and not is_static else None


def warnings(column: Column) -> list[str]:
    """Returns what to check if the name of a proposed column suggests a leak."""
    words = set(column.words)
    suspect = words & _PERHAPS_COUNTED or (words & _AVERAGES and words & _COUNTED)
    is_code = not known_names.CODES.isdisjoint(column.words[-1:])
    if not suspect or is_code or words & _BEFORE or not column.is_numeric:
        return []
    return [
        f"{column.name!r} looks like a count of outcomes. Leave it out if it includes outcomes "
        "during the log, because it leaks the test rows."
    ]


# Words for the logging policy.
_POLICY = {"propensity", "pscore", "propensities"}
_CONSTANT, _CONSTANT_IF_SHOWN = "always the same value", "the same value in all impressions"
_OF_REQUESTS = "an id of requests or sessions; later requests have new ids"
_SEEN_ONCE = "each user is seen once, so the id is not informative"
# Reasons for which a column is only useless.
HARMLESS = (_CONSTANT, _CONSTANT_IF_SHOWN, _SEEN_ONCE)
_ZERO = re.compile(r"0+([.,]0*)?")
_FEW_ROWS = 20
_SURE_ROWS = 5
_MAX_VALUES = 1_000
_PROBED_LISTS = 2_000
# Share of later rows with earlier values, below which a column holds ids of sessions.
_MAX_RETURNING = 0.02


def reason(column: Column, sample: Sample, roles: Roles) -> str | None:
    """Returns why a column cannot be a field, or None if it can."""
    if column.name == roles.ad_key.name:
        return None
    if roles.events is not None and sample.table == LOG and not _filled(column).any():
        return "empty or 0 in all impressions"
    if not column.known:
        return "always missing"
    if len(column.known) == 1 and column.missing_share == 0:
        return _CONSTANT if roles.events is None else _CONSTANT_IF_SHOWN
    if roles.user_key is not None and column.name == roles.user_key.name:
        if is_request_id(column, None):
            return _OF_REQUESTS
        single = np.mean(column.counts[column.counts > 0] == 1) > 0.9
        return _SEEN_ONCE if single else None
    if _is_unique(column, sample):
        return "a different value in nearly every row of its table"
    if not _POLICY.isdisjoint(column.words):
        return "a property of the policy that chose the ad"
    if column.list_name and column.name == f"{column.list_name}#":
        return sides.POSITION
    if column in roles.candidates:
        return "it may be the click"
    if (why := outcome_reason(column, sample, roles)) is not None:
        return why
    if sample.table != LOG:
        return None
    if is_request_id(column, roles.user_key) and len(column.known) > _FEW_ROWS:
        return _OF_REQUESTS
    if _identifies_the_ad(column, roles):
        return (
            f"each value goes with one {roles.ad_key.name!r}, so it tells which ad was chosen; if "
            "it identifies the ad, name it as ad_key"
        )
    if _is_clock(column, roles):
        return "a time, and later requests have later times"
    keys = (roles.ad_key, roles.user_key)
    if len(column.known) >= _FEW_ROWS and times.are_unread(column, keys):
        return "a time that is not read, and later requests have later times"
    if _never_returns(column, roles):
        return "later rows do not repeat the values of earlier ones, as with ids of sessions"
    if _counts_rows(column, roles):
        return (
            "counts 0, 1, 2 … for each user, perhaps the order of the user's rows or requests; if "
            "so, name it as time and convert with --split=leave_last_out"
        )
    return _leak(column, roles) or _list_leak(column, roles)


def _filled(column: Column) -> np.ndarray:
    """Returns whether each row [B] has a value other than 0."""
    return column.present & (column.by_row(column.numbers) != 0)


def _is_unique(column: Column, sample: Sample) -> bool:
    present = int(column.present.sum())
    if present < _FEW_ROWS or len(column.known) < 0.95 * present:
        return False
    if column.is_list or column.declared in ("token_seq", "float_seq"):
        return False
    if sample.table == USERS or column.words[-1:] == ("id",):
        return not column.is_numeric or column.is_whole
    if column.is_numeric:
        numbers = column.by_row(column.numbers)
        return column.is_whole and bool((np.diff(numbers) > 0).all())
    # Titles are unique, but their words repeat.
    return kinds.separator(column) is None


def _identifies_the_ad(column: Column, roles: Roles) -> bool:
    """Returns whether a column is finer than the ad, such as a song if the ad is the artist.

    Only a log of choices is checked: a placement that always shows the same ad is context.
    """
    if roles.click is not None or roles.events is not None:
        return False
    if column.is_list or kinds.kind(column, [])["kind"] != "categorical":
        return False
    is_of_ad = log_sample.is_constant_per_ad(column, roles.ad_key)
    return not is_of_ad and log_sample.is_constant_per_ad(roles.ad_key, column)


def _is_clock(column: Column, roles: Roles) -> bool:
    """Returns whether a column is another time."""
    if column.is_list:
        return False
    if times.counted_unit(column, roles.time) is not None:
        return True
    # A log of two weeks has few dates.
    if len(column.known) < _FEW_ROWS and not (roles.time and times.follows(column, roles.time)):
        return False
    is_clock = times.is_clock(column, column.plain_words in known_names.TIMES)
    is_clock = is_clock or times.clock_format(column) is not None
    return is_clock and not times.is_date_of(column, (roles.ad_key, roles.user_key), roles.time)


def _never_returns(column: Column, roles: Roles) -> bool:
    """Returns whether hardly any value of the last quarter of the time occurs in the first half."""
    time = roles.time
    seconds = None if time is None else times.seconds(time)
    if time is None or seconds is None or len(column.known) < _FEW_ROWS:
        return False
    if log_sample.is_constant_per_ad(column, roles.ad_key):
        return False
    # Numbers of orders rise with the time.
    is_counter = column.is_whole and times.follows(column, time)
    if kinds.kind(column, [])["kind"] != "categorical" and not is_counter:
        return False
    at = time.by_row(seconds)
    half, quarter = np.nanquantile(at, (0.5, 0.75))
    early = np.zeros(len(column.values), bool)
    early[column.codes[at <= half]] = True
    late = column.codes[(at > quarter) & column.present]
    return bool(len(late) >= _FEW_ROWS and early[late].mean() < _MAX_RETURNING)


def _counts_rows(column: Column, roles: Roles) -> bool:
    """Returns whether a column numbers the rows or the requests of each user."""
    user = roles.user_key
    if user is None or not column.is_whole or column.missing_share > 0:
        return False
    rows = np.argsort(user.codes, kind="stable")
    if _are_counted(column, user, rows):
        return True
    if roles.request_key is None:
        return False
    requests = roles.request_key.codes[rows]
    firsts = np.append(True, requests[1:] != requests[:-1])
    return _are_counted(column, user, rows[firsts])


def _are_counted(column: Column, user: Column, rows: np.ndarray) -> bool:
    """Returns whether a column numbers the rows of each user, which are sorted by user."""
    numbers, users = column.by_row(column.numbers)[rows], user.codes[rows]
    same_user = users[1:] == users[:-1]
    is_step = np.diff(numbers)[same_user] == 1
    # A sample of a part of the log may lack the first rows of its first user.
    starts = np.isin(numbers[np.append(True, ~same_user)], (0, 1)).mean() > 0.9
    return bool(same_user.sum() >= _FEW_ROWS and is_step.mean() > 0.99 and starts)


def _leak(column: Column, roles: Roles) -> str | None:
    """Returns a reason if the column determines the click."""
    if roles.click is None:
        return None
    clicked = roles.clicked()
    if np.isnan(clicked).all() and len(roles.click.known) == 2:
        # Texts that the conversion cannot read, such as oui and non.
        text = outcomes.likely_click(roles.click)
        clicked = roles.click.by_row(np.array([value == text for value in roles.click.known]))
    num_clicks, num_known = np.nansum(clicked), np.isfinite(clicked).sum()
    if not 0 < num_clicks < num_known or num_clicks < _FEW_ROWS:
        return None
    if 0 < column.missing_share < 1 and np.array_equal(column.present, clicked == 1):
        return "present exactly in the clicked rows"
    if (why := _after_clicks(column, clicked)) is not None:
        return why
    if _is_split_by_click(column, clicked):
        return "a threshold of its number determines the click"
    if len(column.values) > _MAX_VALUES or len(column.known) < 2:
        return None
    counts = np.maximum(column.counts, 1)
    means = np.bincount(column.codes, np.nan_to_num(clicked), len(column.values)) / counts
    sure = (np.minimum(means, 1 - means) == 0) & (column.counts >= _SURE_ROWS)
    if (
        column.counts[sure].sum() >= 0.99 * len(column.codes)
        and column.counts[sure & (means == 1)].sum()
    ):
        return "its value determines the click"
    return None


def _is_split_by_click(column: Column, clicked: np.ndarray) -> bool:
    """Returns whether nearly all numbers of clicked rows are on one side of the others."""
    if not column.is_numeric:
        return False
    numbers = column.by_row(column.numbers)
    known = np.isfinite(numbers) & np.isfinite(clicked)
    click = clicked[known]
    if min(click.sum(), (1 - click).sum()) < _FEW_ROWS:
        return False
    auc = label_counts.auc(numbers[known], 1 - click, click)
    return auc is not None and max(auc, 1 - auc) >= label_counts.LEAK_AUC


def _after_clicks(column: Column, clicked: np.ndarray) -> str | None:
    """Returns a reason if a column is mostly empty or 0 and all other rows are clicked."""
    usual = int(np.bincount(column.codes, minlength=1).argmax())
    text = column.values[usual].strip().lower()
    is_zero = columns.TRUTHS.get(text) == 0 or _ZERO.fullmatch(text) is not None
    is_nothing = column.is_missing[usual] or is_zero
    is_unusual = column.codes != usual
    if not is_nothing or is_unusual.sum() < _FEW_ROWS or np.nanmean(clicked) > 0.5:
        return None
    if not (clicked[is_unusual] == 1).all():
        return None
    what = "present" if column.is_missing[usual] else f"other than {column.values[usual]!r}"
    return f"{what} only in clicked rows; it may be the engagement or the revenue"


def _list_leak(column: Column, roles: Roles) -> str | None:
    """Returns a reason if the lists of clicked rows contain the ad of the row."""
    separator = kinds.separator(column)
    if separator is None:
        return None
    clicked = roles.clicked()
    holding = [
        _share_holding(column, separator, roles.ad_key, np.flatnonzero(clicked == label))
        for label in (1, 0)
    ]
    if holding[0] < 0.5 or holding[1] > 0.5 * holding[0]:
        return None
    return "its lists contain the ad of the row if it was clicked"


def _share_holding(column: Column, separator: str, ad: Column, rows: np.ndarray) -> float:
    """Returns the share of rows whose list contains the row's ad."""
    probed = rows[:: -(-len(rows) // _PROBED_LISTS) or 1]
    found = [
        ad.values[ad.codes[row]] in column.values[column.codes[row]].split(separator)
        for row in probed
    ]
    return float(np.mean(found)) if found else 0.0
