"""Finds the keys of a log, of its ads, users and requests, by the names and values of columns."""

import math
import re
from collections.abc import Iterable, Sequence

import numpy as np

from tfrecords import terminal
from tfrecords.schema_inference import known_names, row_recipes, times
from tfrecords.schema_inference.roles import Roles
from tfrecords.schema_inference.sample import log_sample
from tfrecords.schema_inference.sample.log_sample import Column, Sample

_NEIGHBORS = 0.1
_MANY_ROWS = 100
_FEW_USERS = 10
# Share of rows without a user, above which another id of users is preferred.
_MANY_MISSING = 0.1
_SECONDS_OF_REQUEST = 5
# A column named session with at most this many values holds kinds or counts of sessions, not ids.
_FEW_SESSIONS = 20
# Maximum rows of a request, and minimum requests of a sample, to recognize it without its name.
_MAX_REQUEST, _MIN_REQUESTS = 200, 20
# What to do if another table has a part of the log.
OTHER_FILE = (
    "If {} are in another file, name both files (--data_path=FILE,FILE), to be told how to join "
    "them. "
)


def ad_key(sample: Sample, columns: list[Column], ads: Sample | None, notes: list[str]) -> Column:
    """Returns the column that identifies the ads, and adds notes on it.

    Raises:
        ValueError: No column looks like an ad id, it has lists of ads, or the table of ads has no
            common column.
    """
    names = [column.name for column in columns]
    if ads is not None:
        shared = [c for c in columns if c.name in ads.columns]
        columns = [c for c in shared if len(ads.columns[c.name].known) >= 0.9 * ads.num_rows]
        # The last row of an ad counts, but a column with repeats must be named like an ad id.
        columns = columns or [c for c in shared if _ad_rank(c) is not None]
        if not columns:
            raise ValueError(
                f"The table of ads has the columns {_shown(ads.columns)}, and the log has "
                f"{_shown(names)}; expected a common column that identifies the ads. "
                f"{_renaming(sample, ads)}"
            )
    found = {c.name: rank for c in columns if (rank := _ad_rank(c)) is not None}
    # Without such a name, the ids are the column whose values are in the table, not a title.
    best = [
        (is_of_rows(c), found.get(c.name, math.inf), -_share_in(c, ads), c)
        for c in columns
        if ads is not None or (c.name in found and not (len(c.known) == 1 and is_of_rows(c)))
    ]
    key = min(best, key=lambda candidate: candidate[:3], default=(0, 0, 0, None))[3]
    if key is None:
        constant = next(
            (f" ({c.name!r} has only one value)" for c in columns if c.name in found), ""
        )
        raise ValueError(
            f"No column looks like an ad id in {_shown(names)}{constant}; expected a name such as "
            "ad_id, item_id or product. Rename the column that identifies the ad, add a header "
            "line if the file has none, remove the lines above the header if there are any, or "
            f"write a schema. {OTHER_FILE.format('the ads')}{' '.join(notes)}".rstrip()
        )
    if key.is_list and not key.list_name:
        row_recipes.refuse_list_of_ads(sample, key)
    notes.append(f"Ads are identified by {key.name!r} ({len(key.known)} in the sample).")
    if ads is not None:
        table_key = ads.columns[key.name]
        if repeated := int(table_key.present.sum()) - len(table_key.known):
            notes.append(
                f"{repeated:,} rows of the table of ads repeat a {key.name!r}; the last one counts."
            )
            notes += _properties_in_rows(key.name, ads)
    if key.missing_share > 0:
        notes += _other_key(key, [c for c in columns if c is not key])
    return key


def _ad_rank(column: Column) -> float | None:
    """Returns how well a name fits an ad id, smaller is better; None: not at all."""
    if not column.known:
        return None
    names = (column.plain_words, "_".join(column.last_words))
    # The id of products is preferred to their number.
    ranks = [
        rank + worse
        for name in names
        for worse, key in ((0, known_names.KEY), (0.5, ""))
        if (rank := known_names.ad_rank(name, key)) is not None
    ]
    if ranks:
        return min(ranks)
    title = re.fullmatch("(.+?)_?(name|title)", column.plain_words)
    if title is not None and (rank := known_names.ad_rank(title[1], key="")) is not None:
        return rank + len(known_names.ADS)
    # The last words, as in lineitem_sku and ordered_product_id.
    if known_names.OF_QUERY.isdisjoint(column.words):
        for start in range(1, len(column.words)):
            words = "_".join(column.words[start:])
            key = "" if words in known_names.CODES_OF_ADS else known_names.KEY
            if (rank := known_names.ad_rank(words, key)) is not None:
                return rank + 2 * len(known_names.ADS)
    return None


def _other_key(key: Column, columns: Sequence[Column]) -> list[str]:
    """Returns a note on a column that has the ad in most rows without the key, if there is one."""
    lacking = ~key.present
    for column in columns:
        if _ad_rank(column) is None or column.last_words != key.last_words:
            continue
        if column.present[lacking].mean() > 0.5:
            name, other = f"log[{key.name!r}]", f"log[{column.name!r}]"
            return [
                f"! {column.name!r} has the ad in rows without {key.name!r}, perhaps of other "
                "events. Write one column before the conversion, for example with pandas, if the "
                f"columns are not nested: {name} = {name}.fillna({other})"
            ]
    return []


def _properties_in_rows(key: str, ads: Sample) -> list[str]:
    """Returns a note if a table of ads has a row for each property of an ad."""
    ad_columns = [c for c in ads.columns.values() if c.name != key]
    values = [c.name for c in ad_columns if "value" in c.words]
    properties = [
        c.name
        for c in ad_columns
        if c.name not in values
        and not {"property", "attribute", "feature", "key", "field"}.isdisjoint(c.words)
        and log_sample.varies_within(c, ads.columns[key])
    ]
    if len(values) != 1 or len(properties) != 1:
        return []
    name, value = properties[0], values[0]
    time = next((c.name for c in ad_columns if c.plain_words in known_names.TIMES), None)
    in_order = "" if time is None else f".sort_values({time!r})"
    return [
        f"! The table of ads has a row for each {name!r} of an ad, and only the last one counts. "
        "Write a column for each of them before the conversion, for example with pandas: "
        f"ads = ads{in_order}.drop_duplicates([{key!r}, {name!r}], keep='last')"
        f".pivot(index={key!r}, columns={name!r}, values={value!r}).reset_index()"
    ]


def _share_in(column: Column, table: Sample | None) -> float:
    """Returns the share of a column's known values that a table has in a column of that name."""
    if table is None or not column.known:
        return 0.0
    return len(set(table.columns[column.name].known).intersection(column.known)) / len(column.known)


def _renaming(log: Sample, table: Sample) -> str:
    """Returns which column of a table to rename to the key of a log."""
    found = {
        (logged.name, column.name): common
        for logged in log.columns.values()
        for column in table.columns.values()
        if len(column.known) >= 0.9 * table.num_rows
        if (common := len(set(logged.known).intersection(column.known))) > 0.5 * len(logged.known)
    }
    # An id is preferred to a title.
    ranks = {name: _ad_rank(log.columns[name]) for name, _ in found}
    best = max(found, key=lambda p: (found[p], -(ranks[p[0]] or math.inf)), default=None)
    if best is None:
        return "Rename or add it."
    key, renamed = best
    if renamed in log.columns[key].known:
        return (
            "The first line of the table is a row, not a header. Add a header with a name for each "
            f"column, {key!r} above {renamed!r}."
        )
    return f"{renamed!r} has the values of the log's {key!r}: rename it to {key!r}."


def _shown(names: Iterable[str]) -> str:
    return f"[{terminal.format_list([repr(name[:40]) for name in names], 20)}]"


def is_of_rows(column: Column) -> bool:
    """Returns whether a column has one value, such as an app, or one per row, such as a line."""
    rows = int(column.present.sum())
    return rows >= _MANY_ROWS and (len(column.known) == 1 or len(column.known) > 0.95 * rows)


def user_key(
    sample: Sample, columns: list[Column], ad: Column, users: Sample | None, notes: list[str]
) -> Column | None:
    """Returns the column that identifies the users, or None, and adds notes on it.

    A column that is constant for each ad, such as an account of advertisers, is not one.

    Raises:
        ValueError: The table of users has no common column.
    """
    if users is not None:
        columns = [c for c in columns if c.name in users.columns]
        if not columns:
            raise ValueError(
                f"The table of users has the columns {_shown(users.columns)}; expected the log's "
                f"user key under the same name. {_renaming(sample, users)}"
            )
        columns = sorted(columns, key=lambda c: -len(users.columns[c.name].known))
    else:
        columns = [c for c in columns if not log_sample.is_constant_per_ad(c, ad)]
    ranks = {c.name: known_names.user_rank(c.plain_words, "_".join(c.last_words)) for c in columns}
    found = [c for c in columns if ranks[c.name] is not None and (users or _is_of_users(c))]
    notes += [
        f"! {c.name!r} is not used as the user key, because {share} of the rows have the "
        f"{c.name!r} {value[:40]!r}, which is hardly one user. Leave it empty in the log if it "
        "means that the id is not known."
        for c in columns
        if ranks[c.name] is not None and c not in found and len(c.known) > _FEW_USERS
        for value, share in [_most_frequent(c)]
    ]
    # A visitor without a login has another id, and an id of each row identifies no user.
    found.sort(key=lambda c: (c.missing_share > _MANY_MISSING, is_of_rows(c), ranks[c.name]))
    found = found or (columns if users else [])
    for column in found:
        if column.missing_share > known_names.MAX_ANONYMOUS:
            notes.append(
                f"{column.name!r} is not used as the user key, because {column.missing_share:.1%} "
                "of the rows lack it."
            )
            continue
        if column.missing_share > 0:
            notes.append(
                f"{log_sample.percent(column.missing_share)} of the rows have no {column.name!r}; "
                "each of them counts as a different visitor."
            )
        return column
    return None


def _most_frequent(column: Column) -> tuple[str, str]:
    """Returns the most frequent known value of a column, and its share of the rows as text."""
    index = int(np.where(column.is_missing, 0, column.counts).argmax())
    share = float(column.counts[index]) / len(column.codes)
    return column.values[index], log_sample.percent(share)


def _is_of_users(column: Column) -> bool:
    """Returns whether a column has enough values to identify users, not kinds of clients.

    A placeholder may be the usual id of devices.
    """
    if len(column.words) == 1 and len(column.known) <= _FEW_USERS:
        return False
    is_device = known_names.PSEUDONYM.fullmatch("_".join(column.last_words)) is not None
    usual = column.counts[~column.is_missing].max(initial=0)
    return not is_device or (len(column.known) > _FEW_USERS and usual <= 0.1 * len(column.codes))


def request_key(
    columns: list[Column], user: Column | None, time: Column | None, notes: list[str]
) -> Column | None:
    """Returns the column whose equal values are a request, or None, and adds notes on it."""
    for column in columns:
        if not is_request_id(column, user) or column.missing_share > known_names.MAX_MISSING:
            continue
        repeats = column.codes[1:] == column.codes[:-1]
        repeated = float(repeats.mean()) if len(repeats) else 0
        if len(column.known) < 2 or column.is_truth or repeated < _NEIGHBORS:
            notes.append(
                f"{column.name!r} does not repeat in adjacent rows, so each row is a request."
            )
        elif user is not None and _has_several_users(column, user):
            notes.append(
                f"{column.name!r} is not a request, because its rows have several {user.name!r}; "
                "each row is a request."
            )
        elif time is not None and _is_session(column) and times.are_days(time):
            notes.append(
                f"! {column.name!r} is a session, not a request, but {time.name!r} has only days, "
                "so the order of its rows is lost. Add the time of day if the log has it, such as "
                "the seconds since the start of the session."
            )
        elif time is not None and _seconds_apart(column, time) > _SECONDS_OF_REQUEST:
            notes.append(
                f"{column.name!r} is a session, not a request, because its rows are usually more "
                f"than {_SECONDS_OF_REQUEST} seconds apart; each row is a request."
            )
        elif time is not None and _reappears(column, time):
            notes.append(
                f"! {column.name!r} is not a request, because its values reappear after more than "
                "a day, perhaps because ids restart each day; each row is a request. Join it with "
                "the date before the conversion."
            )
        else:
            return column
    return None


def is_request_id(column: Column, user: Column | None) -> bool:
    """Returns whether a column is an id of requests or sessions, by its name.

    One named only session must also have many values, each of one user.
    """
    names = (column.plain_words, "_".join(column.last_words))
    if not any(known_names.REQUEST.fullmatch(known_names.id_last(name)) for name in names):
        return False
    if column.plain_words != "session":
        return True
    has_one_user = user is None or not _has_several_users(column, user)
    return len(column.known) > _FEW_SESSIONS and has_one_user


def _has_several_users(request: Column, user: Column) -> bool:
    """Returns whether rows of a request often have different users; clicks may have none."""
    return log_sample.varies_within(user.of_rows(user.present), request.of_rows(user.present))


def fill_note(columns: list[Column], user: Column | None) -> list[str]:
    """Returns a note on a session that can stand for an unknown user, if there is one."""
    if user is None or user.missing_share <= known_names.MAX_REJECTED:
        return []
    return [
        f"! If {column.name!r} identifies visits, use it for unknown users, so that they have "
        f"histories, for example with pandas: visit = 'visit ' + log[{column.name!r}].astype(str); "
        f"log[{user.name!r}] = log[{user.name!r}].astype(object).fillna(visit)"
        for column in columns
        if _is_session(column)
        and is_request_id(column, None)
        and column.missing_share <= known_names.MAX_MISSING
    ][:1]


def session(columns: list[Column], time: Column | None, notes: list[str]) -> Column | None:
    """Returns the session that replaces the user in a log without users, or None."""
    for column in columns:
        if (
            time is not None
            and _is_session(column)
            and is_request_id(column, None)
            and column.missing_share <= known_names.MAX_MISSING
            and (_seconds_apart(column, time) > _SECONDS_OF_REQUEST or times.are_days(time))
        ):
            notes.append(
                f"No column identifies users, so each {column.name!r} counts as a user, whose "
                "history has the earlier clicks of the session."
            )
            return column
    return None


def adjacent(columns: list[Column], roles: Roles, notes: list[str]) -> Column | None:
    """Returns a column without a known name whose values occur in runs of rows, or None.

    Such a column numbers requests or times. As a field it would be a clock, which leaks.
    """
    user = roles.user_key
    for column in columns:
        count = len(column.codes)
        runs = 1 + int((column.codes[1:] != column.codes[:-1]).sum()) if count else 0
        is_of_others = (
            log_sample.is_constant_per_ad(column, roles.ad_key)
            or not log_sample.varies_within(roles.ad_key, column)
            or (user is not None and not log_sample.varies_within(column, user))
            or (user is not None and log_sample.varies_within(user, column))
        )
        if (
            column.is_list
            or column.missing_share > 0
            or len(column.known) < _MIN_REQUESTS
            or runs != len(column.known)
            or not 1.5 * runs <= count <= _MAX_REQUEST * runs
            or is_of_others
        ):
            continue
        if roles.time is not None and (
            _seconds_apart(column, roles.time) > _SECONDS_OF_REQUEST
            or (_is_session(column) and times.are_days(roles.time))
        ):
            continue
        notes.append(
            f"{column.name!r} is equal in adjacent rows and never reappears, so it is used as the "
            "request key, not as a field, which would reveal the time. If it is neither, remove "
            "request_key."
        )
        return column
    return None


def _is_session(column: Column) -> bool:
    return not {"session", "visit"}.isdisjoint(column.words)


def _seconds_apart(key: Column, time: Column) -> float:
    """Returns the median time between adjacent rows of a key, or 0 if it is unknown."""
    seconds = times.seconds(time)
    if seconds is None:
        return 0.0
    apart = np.abs(np.diff(time.by_row(seconds)))[key.codes[1:] == key.codes[:-1]]
    apart = apart[~np.isnan(apart)]
    return float(np.median(apart)) if len(apart) else 0.0


def _reappears(key: Column, time: Column) -> bool:
    """Returns whether more than a few values of a key have rows more than a day apart."""
    seconds = times.seconds(time)
    if seconds is None:
        return False
    at = np.nan_to_num(time.by_row(seconds), nan=np.nanmin(seconds))
    first, last = np.full(len(key.values), np.inf), np.full(len(key.values), -np.inf)
    np.minimum.at(first, key.codes, at)
    np.maximum.at(last, key.codes, at)
    return float(np.mean(last - first > 86_400)) > known_names.MAX_REJECTED
