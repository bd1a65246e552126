"""Infers the side of a column: query or ad.

A record stores the query fields of a request once, so that a column that differs between the rows
of a request cannot be a query field. The catalog stores the ad fields of an ad once.
"""

from collections.abc import Sequence

from tfrecords.schema_inference import known_names
from tfrecords.schema_inference.roles import Roles
from tfrecords.schema_inference.sample import log_sample
from tfrecords.schema_inference.sample.log_sample import ADS, LOG, USERS, Column, Sample

# Words for properties of an ad that may change over time.
_OF_AD = {
    "price", "cost", "bid", "discount", "promotion", "promo", "stock", "stars", "star", "fee",
    "brand", "seller", "merchant", "advertiser", "margin", "budget",
}  # fmt: skip
# Maximum changes of a property of ads, and of one with such a name, such as a price with occasional
# discounts, relative to a column that ignores the ad.
_MAX_CHANGES, _MAX_NAMED_CHANGES = 0.1, 0.5
# Above these changes, a column with such a name says nothing about the ad.
_MAX_RELATED_CHANGES = 0.9
POSITION = "the position of the ad, which is unknown before the ad is chosen"
_SLOTS = {"position", "pos", "slot"}


def side(column: Column, samples: Sequence[Sample], roles: Roles) -> tuple[str | None, str]:
    """Returns a column's side, None if it fits neither, and why."""
    tables = {s.table for s in samples if column.name in s.columns}
    if column.name == roles.ad_key.name:
        return "ad", "the ad id"
    if roles.user_key is not None and column.name == roles.user_key.name:
        return "query", "the user id"
    if ADS in tables and USERS not in tables:
        return "ad", "in the table of ads"
    if USERS in tables:
        return "query", "in the table of users"
    is_ad_side = not {*known_names.ADS, *roles.ad_key.words[:1]}.isdisjoint(column.words[:1])
    is_query_side = not is_ad_side and not known_names.OF_QUERY.isdisjoint(column.words)
    is_constant = column.table == LOG and log_sample.is_constant_per_ad(column, roles.ad_key)
    if roles.request_key is not None and log_sample.varies_within(column, roles.request_key):
        is_ad_side = is_ad_side or not _OF_AD.isdisjoint(column.words)
        is_context = not is_ad_side and log_sample.varies_within(column, roles.ad_key)
        return _varying_side(column, is_constant, is_context, is_query_side)
    is_of_user = roles.user_key is not None and not log_sample.varies_within(column, roles.user_key)
    if is_query_side and (is_of_user or not is_constant):
        return "query", "about the user or context by name"
    if is_constant:
        return "ad", "constant for each ad"
    if roles.request_key is not None:
        return "query", "constant within each request"
    # A changed title has values that no other ad has.
    is_of_one_ad = column.table == LOG and log_sample.is_constant_per_ad(roles.ad_key, column)
    is_named = not _OF_AD.isdisjoint(column.words)
    if is_of_one_ad and known_names.ad_rank(column.plain_words) is not None:
        return "ad", "about the ad; the catalog stores its latest value"
    if is_named or (is_of_one_ad and not is_of_user):
        changes = log_sample.share_of_changes(column, roles.ad_key, roles.time)
        if changes <= (_MAX_NAMED_CHANGES if is_named else _MAX_CHANGES):
            return "ad", "about the ad; the catalog stores its latest value"
        if is_named and changes <= _MAX_RELATED_CHANGES:
            return None, (
                "about the ad by name, but changes often, and the catalog stores one value per ad"
            )
    return "query", "varies between impressions of an ad"


def _varying_side(
    column: Column, is_constant: bool, is_context: bool, is_query_side: bool
) -> tuple[str | None, str]:
    """Returns the side of a column that varies within a request."""
    if column.plain_object_words in known_names.POSITIONS or not _SLOTS.isdisjoint(column.words):
        return None, POSITION
    if is_constant:
        return "ad", "constant for each ad"
    if is_query_side:
        return None, (
            "about the user or context by name, but varies within a request, which has one value"
        )
    if is_context:
        return None, (
            "varies within a request and for an ad, but the catalog stores one value per ad"
        )
    return "ad", "varies within a request; the catalog stores each ad's latest value"
