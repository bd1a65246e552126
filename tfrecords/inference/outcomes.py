"""Finds columns that tell of what happened after ads were shown, by their names and values."""

from tfrecords.inference import known_names, labels, lists, pairs
from tfrecords.inference.column_roles import Roles
from tfrecords.inference.log_sample import LOG, Column, Sample

# Words of what is known only after an ad was shown.
_AFTERWARDS = {
    "click", "clicks", "clicked", "clk", "isclick", "conversion", "conversions", "converted",
    "purchase", "purchases", "purchased", "bought", "booked", "bookings", "revenue", "gmv",
    "dwell", "attribution", "attributed", "payout", "rating", "watchtime", "playtime",
}  # fmt: skip
# Of what is counted for an ad or a user, and leaks if it is counted over the whole log.
_COUNTED = {
    "click", "clicks", "clicked", "clk", "impressions", "ctr", "cvr", "conversion", "conversions",
    "purchase", "purchases", "purchased", "bookings", "revenue", "gmv",
}  # fmt: skip
# Of what may be, but also known from elsewhere.
_PERHAPS_COUNTED = {
    "impressions", "ctr", "cvr", "popularity", "views", "plays", "likes", "downloads", "sales",
    "sold", "orders", "rating", "ratings", "reviews", "votes",
}  # fmt: skip
# Of the past, which is known: clicks_last_week.
_BEFORE = {
    "last", "past", "prev", "previous", "hist", "history", "historical", "since", "prior",
    "before", "ago",
}  # fmt: skip
_AVERAGES = {"avg", "mean", "average"}
_DURATIONS = {"watch", "play", "playing", "stay", "view", "reading", "read"}
_COUNTED_REASON = (
    "counts what happened, perhaps over the whole log, and then it tells of the rows tested on; "
    "add it if it was counted before"
)
_BY_NAME = "known only after the ad was shown, by its name"


def reason(column: Column, sample: Sample, roles: Roles) -> str | None:
    """Returns why a column's name or values say that it is an outcome, or None.

    Args:
        column: The column.
        sample: The table it is in.
        roles: The keys and labels.
    """
    words = set(column.words)
    # Lists of what was clicked are of the past; those that are not are found by their values.
    if words & _BEFORE or lists.separator(column) is not None:
        return None
    if labels.is_event(column, roles.ad_key):
        return f"it says what happened after the ad was shown, {labels.events_of(column)}"
    is_static = sample.table != LOG or pairs.is_constant_per_ad(column, roles.ad_key)
    if is_static and column.is_numeric and words & _COUNTED:
        return None if words & _AVERAGES else _COUNTED_REASON
    if sample.table != LOG or words & _AVERAGES:
        return None
    if words & _AFTERWARDS - ({"rating"} if is_static else set()) or _is_duration(column):
        return _BY_NAME
    if column.plain_words in known_names.ANY_LABELS[:2]:
        return _BY_NAME
    # What is always so for an ad is its property, such as being on sale.
    is_label = column.core in (*known_names.ENGAGEMENTS, *known_names.REVENUES)
    return _BY_NAME if is_label and not is_static else None


def warnings(column: Column) -> list[str]:
    """Returns what to check of a column that is proposed, if its name makes one wonder."""
    words = set(column.words)
    suspect = words & _PERHAPS_COUNTED or (words & _AVERAGES and words & _COUNTED)
    if not suspect or words & _BEFORE or not column.is_numeric:
        return []
    return [
        f"{column.name!r} sounds like a count of what happened: if any of that happened during "
        "the log it tells of the rows tested on; leave it out then."
    ]


def _is_duration(column: Column) -> bool:
    return not _DURATIONS.isdisjoint(column.words[:-1]) and not {"time", "ratio"}.isdisjoint(
        column.words
    )
