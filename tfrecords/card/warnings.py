"""Warnings of a data card, with remedies.

A `warning` is likely a mistake, or makes a metric or a model useless; a `note` is information.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from tfrecords import columns, label_counts, pages, records, terminal
from tfrecords.card import field_warnings, model
from tfrecords.schema import AD, LABELS, NUM_CANDIDATES

SHIFTED_RATE = 0.2
# Exceeded by chance in one of 1.7 million data sets.
_SIGMAS = 5.0
_MUCH_OF_ONE_AD = 0.5
# Share of the requests that one user has, in a log of many users.
_MUCH_OF_ONE_USER, _MANY_USERS = 0.05, 100
_MUCH_NEW = 0.3
_MUCH_CHANGED = 0.05
_MUCH_REJECTED = 0.01
_MUCH_ANONYMOUS = 0.01
_MUCH_REPEATED = 0.001
_MUCH_LONG = 0.01
_MUCH_UNMATCHED = 0.1
# Share of the impressions whose label may still come.
_MUCH_YOUNG = 0.005
_MUCH_COUNTED = 0.05
# Share of rows far from the others in time, and share of the log's time span with the others.
_FEW_FAR, _SHORT = 0.01, 0.1

Found = Iterator[model.CardWarning]


def find(card: model.DataCard) -> list[model.CardWarning]:
    """Returns the warnings of a card, then its notes."""
    found = itertools.chain(
        _events(card),
        _clicks(card),
        _labels(card),
        _splits(card),
        _lists(card),
        _ads(card),
        _users(card),
        _rejected(card.rejected),
        _repeated(card),
        _tables(card),
        _time(card),
        field_warnings.find(card),
    )
    return sorted(found, key=lambda warning: warning.level == "note")


def _events(card: model.DataCard) -> Found:
    events = card.data.source.events
    if events is not None and events.unmatched > events.joined:
        share = events.unmatched / (events.unmatched + events.joined)
        yield model.warning(
            f"{events.unmatched:,} clicks and engagements ({pages.format_percent(share)}) have no "
            "view of their ad by the same user or in the same request, and are left out.",
            "If each row is an impression with its outcome, remove events from the schema and "
            "write the outcome as click and engagement of 0 and 1. Otherwise check the keys, the "
            "times and events.window_seconds.",
        )
    anonymous = 0 if events is None else events.anonymous / max(card.data.source.lines, 1)
    if anonymous > _MUCH_ANONYMOUS:
        yield model.warning(
            f"{pages.format_percent(anonymous)} of the rows have no {card.log_schema.user_key!r}: "
            "their views count as not clicked, because clicks are joined to views by the user.",
            "Set a request_key, give visitors an id, such as of a cookie or a session, or leave "
            "these rows out.",
        )
    yield from _late_labels(card)


def _late_labels(card: model.DataCard) -> Found:
    events = card.data.source.events
    rows = sum(split.rows for split in card.splits.values())
    for label, late in {} if events is None else events.late.items():
        is_withheld = label != "click" and card.data.engagement_window_seconds >= late.seconds
        if is_withheld or late.young <= _MUCH_YOUNG * rows:
            continue
        seconds = math.ceil(late.seconds)
        yield model.warning(
            f"{late.young:,} impressions are younger than {seconds:,} seconds at the end of the "
            f"log. {pages.format_percent(records.LATE_SHARE)} of the {label}s come within this "
            "time, so some of theirs are still to come, and they count as negative.",
            "The last impressions are those of the test split: remove them from the log, and keep "
            "the later clicks."
            if label == "click"
            else f"Convert with --engagement_window_seconds={seconds}: engagement and revenue of "
            "these impressions then count as missing.",
        )


def _clicks(card: model.DataCard) -> Found:
    several = card.data.rows_with_clicks_above_1 / max(card.data.source.lines, 1)
    if several > _MUCH_COUNTED:
        yield model.warning(
            f"{pages.format_percent(several)} of the rows have a {card.log_schema.click!r} above "
            "1, so a row may stand for many impressions; it counts as one.",
            "Click rates are then wrong, and fields with counts of impressions leak the click: "
            "write a row for each impression (docs/data.md, Aggregated logs). If the column is a "
            "rating, raise click_threshold or ignore this.",
        )
    click = card.splits["train"].labels["click"]
    if click.positive < click.known and (click.rate or 0) > 0.5:
        yield model.note(
            f"{pages.format_percent(click.rate)} of the training rows are clicks, which is "
            "unusual for ads.",
            "This is expected for ratings and for down-sampled logs. For the latter, set "
            "negative_keep_rate in the schema; otherwise predicted probabilities match this log, "
            "not live traffic.",
        )
    if card.data.sampled_negatives:
        yield model.note(
            f"{sum(s.sampled for s in card.splits.values()):,} rows are sampled negatives, "
            f"{card.data.sampled_negatives} for each click.",
            "Click rates and probabilities depend on this number: use them to rank ads, not to "
            "price them. Shares of ad-side fields include the sampled negatives."
            + (
                " Users return to ads, so a negative may be an ad that its user clicked in another "
                "request."
                if card.data.users_return
                else ""
            ),
        )

    if card.log_schema.negative_keep_rate < 1:
        yield model.note(
            f"Down-sampling kept {pages.format_percent(card.log_schema.negative_keep_rate)} of the "
            "unclicked rows in the log.",
            "The rates on this page are not corrected for it; served probabilities are.",
        )


def _labels(card: model.DataCard) -> Found:
    rows = {split: card.splits[split].labels for split in ("train", "validation")}
    for label, train in rows["train"].items():
        held_out = rows["validation"][label]
        expected = label_counts.expect(
            label,
            label_counts.LabelRows(train.known, train.positive),
            label_counts.LabelRows(held_out.known, held_out.positive),
        )
        if expected is not None and train.known:
            yield model.warning(expected.text, expected.action)
    if after := card.data.rows_after_end_of_log:
        yield model.warning(
            f"{terminal.format_count(after, 'row is', 'rows are')} more than "
            f"{card.data.engagement_window_seconds:,.0f} seconds later than 99.9 % of the log.",
            "Their engagement and revenue count as missing, and the log ends before them. Correct "
            "the times of these rows.",
        )
    if inside := card.data.rows_inside_engagement_window:
        yield model.note(
            f"{terminal.format_count(inside, 'row is', 'rows are')} younger than the window of "
            f"{card.data.engagement_window_seconds:,.0f} seconds: their engagement and revenue are "
            "not known yet and count as missing.",
            "Rates over time are computed from the log, without late engagements.",
        )
    for split, summary in card.splits.items():
        for label, labels in summary.labels.items():
            if not summary.rows:
                continue
            if not labels.known:
                yield model.warning(
                    f"The {split} split has no {label} labels.",
                    f"{label.capitalize()} can be neither learned nor measured there: use another "
                    "split, such as --split=time, so that each part has labeled rows.",
                )
            elif labels.missing and split == "train" and _has_only_clicks(summary, label):
                yield model.warning(
                    f"Only clicked {split} rows have {label} labels; unclicked rows lack them.",
                    "A missing label is unknown, so predictions will be rates of clicked rows, "
                    f"which are too high for impressions. Write 0 as the {label} of unclicked rows "
                    "and convert again.",
                )
            elif labels.missing:
                yield model.note(
                    f"{pages.format_percent(labels.missing / summary.rows)} of the {split} "
                    f"rows lack {label}.",
                    f"These rows are excluded from the loss and the metrics of {label}.",
                )
            elif label != "click" and split != "train" and not labels.positive:
                yield model.warning(
                    f"{label} is never above 0 in the {split} split.",
                    f"Check the {label} column of the schema, or remove it; the release then has "
                    "no such head.",
                )
        for label, count in summary.without_click.items():
            if count:
                if LABELS[label].needs_click:
                    effect = f"The model assumes that {label} follows a click:"
                elif card.log_schema.negative_keep_rate < 1:
                    effect = (
                        f"Down-sampling dropped the {label} of other unclicked rows, so the "
                        f"predicted {label} will be too low:"
                    )
                else:
                    effect = f"It is credited to showing the ad: if {label} requires a click,"
                yield model.warning(
                    f"{count:,} {split} rows have {label} without a click.",
                    f"{effect} correct the labels, or name another {label} column.",
                )


def _has_only_clicks(split: model.SplitSummary, label: str) -> bool:
    """Returns whether no unclicked row has a label that needs a click."""
    clicks = split.labels["click"]
    return split.known_without_click.get(label) == 0 and clicks.positive < clicks.known


def _splits(card: model.DataCard) -> Found:
    splits = card.splits
    for split in ("validation", "test"):
        if not splits[split].rows:
            yield model.warning(
                f"The {split} split is empty.",
                f"Use a larger log or a larger --{split}_fraction.",
            )
    train, test = (splits[split].labels["click"] for split in ("train", "test"))
    if train.known and test.known and train.rate:
        pooled = (train.positive + test.positive) / (train.known + test.known)
        chance = (pooled * (1 - pooled) * (1 / train.known + 1 / test.known)) ** 0.5
        change = abs((test.rate or 0) - train.rate)
        if change > SHIFTED_RATE * train.rate and change > _SIGMAS * chance:
            yield model.warning(
                f"The click rate drifts from {pages.format_percent(train.rate)} in training to "
                f"{pages.format_percent(test.rate)} in test.",
                "Predicted probabilities will be biased in test: see the rates over time, train on "
                "recent data, give ads a recent click rate (docs/data.md, Rates), or look for a "
                "change in logging.",
            )
    kind = card.data.split.kind
    if card.log_schema.time and kind in ("fraction", "leave_random_fraction_out"):
        yield model.warning(
            "The log has times but is split at random, so training sees the future of test.",
            "Convert with --split=time for realistic metrics.",
        )
    elif not card.log_schema.time and kind == "order":
        yield model.note(
            "The schema names no time column, so the log is assumed to be in time order.",
            "Name the time column in the schema if there is one.",
        )


def _lists(card: model.DataCard) -> Found:
    share = card.data.long_requests / max(sum(s.requests for s in card.splits.values()), 1)
    if share > _MUCH_LONG:
        yield model.warning(
            f"{card.data.long_requests:,} requests ({pages.format_percent(share)}) have rows that "
            "are more than a day apart.",
            f"The rows with equal {card.log_schema.request_key!r} are one list at one time, so a "
            "split by time puts later rows into training. If the ids repeat, for example each day "
            "or for each user, join them with the date or the user before the conversion. If it is "
            "not the id of a request, remove request_key.",
        )
    lengths = card.splits["test"].list_lengths
    if lengths.max == 1:
        yield model.note(
            "Each test request has one ad, so metrics of lists such as NDCG are meaningless.",
            "Name the request_key in the schema if the log has one. Otherwise evaluate the ranker "
            "by AUC and normalized entropy.",
        )


def _rate_of_new_ads(card: model.DataCard) -> str:
    """Returns the advice to add the click rate of the ad, if the log allows it and lacks it."""
    schema, sampled = card.log_schema, any(split.sampled for split in card.splits.values())
    if not schema.time or schema.click is None or sampled:
        return ""
    if any(field.of == AD for field in schema.rates):
        return ""
    return (
        " If ads are shown for a few days, such as news, add their recent click rate too: "
        '{"name": "recent_click_rate", "kind": "numeric", "side": "ad", "of": "ad", '
        '"event": "click", "max_age_days": 1}.'
    )


def _ads(card: model.DataCard) -> Found:
    ads, clicks = card.ads, card.splits["train"].labels["click"]
    # Without clicks or without other rows there is no ranker.
    if ads.count <= NUM_CANDIDATES and 0 < clicks.positive < clicks.known:
        yield model.note(
            f"The number of ads, {ads.count:,}, is at most the {NUM_CANDIDATES} candidates of the "
            "first stage.",
            "Retrieval returns all ads, and the ranker alone decides.",
        )
    first = ads.most_shown[0] if ads.most_shown else None
    if first and first.share >= _MUCH_OF_ONE_AD and ads.count > 1:
        yield model.warning(
            f"One ad, {first.ad_id!r}, has {pages.format_percent(first.share)} of the "
            "training impressions.",
            "Check that ad_key identifies ads and contains no placeholder such as 0 or 'unknown'.",
        )
    new = ads.new["test"]
    if (new.share or 0) > _MUCH_NEW:
        yield model.warning(
            f"{pages.format_percent(new.share)} of the test {new.counted} are of ads that "
            "were never shown in training.",
            "Ad ids do not help for these: add ad fields that new ads share with known ones, "
            f"such as advertiser or category, and train often.{_rate_of_new_ads(card)}",
        )
    if (ads.changed_share or 0) > _MUCH_CHANGED:
        values = "latest values" if card.log_schema.time else "last values in the log"
        yield model.warning(
            f"{pages.format_percent(ads.changed_share)} of the impressions show an ad whose "
            f"fields differ from those in the catalog, which has its {values}.",
            "This is expected if they change over time, as prices do. Move fields that vary "
            "between requests to the query side, or add them to ad_key: serving uses the catalog's "
            "values, training the log's. Replace clicks or impressions so far by rates (see "
            "docs/data.md, Rates): in the catalog they count the test period, too, and retrieval "
            "is measured with them.",
        )


def _users(card: model.DataCard) -> Found:
    requests = sum(split.requests for split in card.splits.values())
    share = card.data.requests_of_most_active_user / max(requests, 1)
    if card.data.num_users < _MANY_USERS or share <= _MUCH_OF_ONE_USER:
        return
    values = next((f.top for f in card.fields if f.column == card.log_schema.user_key), [])
    name = f", {values[0].value!r}," if values else ""
    yield model.warning(
        f"One user{name} has {pages.format_percent(share)} of the requests, in a log of "
        f"{card.data.num_users:,} users and anonymous visits.",
        "Check that user_key contains no placeholder such as 0 or 'unknown': it would mix the "
        "histories of many users. Leave it empty if the user is unknown; each visit then counts "
        "as a separate user. Remove robots and test accounts.",
    )


def _rejected(rejected: model.RejectedRows) -> Found:
    if rejected.count:
        much = (rejected.share or 0) > _MUCH_REJECTED
        create = model.warning if much else model.note
        share = pages.format_percent(rejected.share)
        rows = terminal.format_count(rejected.count, f"row ({share}) was", f"rows ({share}) were")
        yield create(
            f"{rows} rejected, most often because: {rejected.reasons[0].reason}.",
            "See rejected.tsv for all of them. Correct the log or the schema, and convert again.",
        )


def _repeated(card: model.DataCard) -> Found:
    share = card.data.repeated_rows / max(card.data.source.lines, 1)
    if share > _MUCH_REPEATED:
        yield model.warning(
            f"{card.data.repeated_rows:,} rows ({pages.format_percent(share)}) repeat another row: "
            "the same user or request, ad, time and labels.",
            "They count several times. Remove them if they were logged or exported repeatedly, or "
            "if a file is given twice.",
        )


def _tables(card: model.DataCard) -> Found:
    tables = {"ads": card.data.source.ads_table, "users": card.data.source.users_table}
    for of, keys in tables.items():
        if keys is None:
            continue
        name = ", ".join(keys.key)
        if keys.unmatched > _MUCH_UNMATCHED * keys.looked_up:
            things = "shown ads" if of == "ads" else "rows"
            keys_of = "The keys" if of == "ads" else "The users"
            yield model.warning(
                f"{keys_of} ({name}) of {keys.unmatched:,} of {keys.looked_up:,} {things} are not "
                f"in the table of {of}, such as {_quoted(keys.unmatched_examples)}; it has keys "
                f"such as {_quoted(keys.examples)}.",
                "Fields that are read from the table are missing there. Write the keys in the same "
                "way in both files, or give a complete table.",
            )
        if keys.repeated:
            create = model.warning if keys.differing else model.note
            rows = f"row of the table of {of} repeats", f"rows of the table of {of} repeat"
            yield create(
                f"{terminal.format_count(keys.repeated, *rows)} a key ({name}); rows that differ "
                f"from the last row of their key: {keys.differing:,}.",
                "The last row counts. If it is not the latest one, keep one row of each key.",
            )
        if keys.without_key:
            rows = f"row of the table of {of} has", f"rows of the table of {of} have"
            yield model.warning(
                f"{terminal.format_count(keys.without_key, *rows)} no key ({name}).",
                "Rows without a key are left out. Add it if you know it.",
            )


def _quoted(keys: Sequence[str]) -> str:
    return ", ".join(map(repr, keys))


def _shortest_run(counts: Sequence[int], share: float) -> tuple[int, int]:
    """Returns the first bin and the end of the shortest run of bins with a share of the total."""
    total = np.concatenate([[0], np.cumsum(counts)])
    ends = np.searchsorted(total, total[:-1] + share * total[-1])
    lengths = ends - np.arange(len(counts))
    lengths[ends >= len(total)] = len(total)
    first = int(np.argmin(lengths))
    return first, int(ends[first])


def _without_unit(card: model.DataCard) -> Found:
    """Warns of times that are not dates, if the schema or an option measures spans of time."""
    schema = card.log_schema
    is_measured = schema.histories or schema.rates or schema.events is not None
    has_calendar = any(field.calendar is not None for field in schema.logged_fields)
    if not (is_measured or has_calendar or card.data.engagement_window_seconds):
        return
    text = (
        f"The times, from {card.time.low:.0f} to {card.time.high:.0f}, are not dates between "
        "1990 and 2100 in any unit since 1970, so they count as seconds."
    )
    by_unit = card.time.by_unit
    if by_unit.get(columns.DIGITS, 0) > 0.5 * sum(by_unit.values()):
        yield model.warning(
            f"{text} They look like dates as digits.",
            'Set "time_format" in the schema, such as "%Y%m%d" or "%Y%m%d%H%M%S". Ages, windows '
            "and calendars are wrong without it.",
        )
    else:
        yield model.note(
            text,
            "This is correct if they count seconds from another time, such as the start of the "
            'log. Otherwise convert them to seconds, or set "time_format" in the schema.',
        )


def _other_units(time: model.TimeSummary, unit: str, wrong: int) -> model.CardWarning:
    unit_counts = {u: n for u, n in time.by_unit.items() if n and u in columns.UNITS_PER_SECOND}
    del unit_counts[unit]
    named = [f"{count:,} would be dates in {name}" for name, count in unit_counts.items()]
    undated = wrong - sum(unit_counts.values())
    named += [f"{undated:,} would not be dates in any unit"] if undated else []
    share = pages.format_percent(wrong / sum(time.by_unit.values()))
    return model.warning(
        f"{wrong:,} rows ({share}) have a time that is not a date between 1990 and 2100 in {unit}, "
        f"the unit of most rows: {' and '.join(named)}.",
        f"All times are read as {unit} since 1970, so the ages, rates and order of these rows are "
        "wrong. Write all times in one unit, and leave out rows whose time is missing or 0.",
    )


def _time(card: model.DataCard) -> Found:
    time = card.time
    if not time.by_time:
        return
    if time.low == time.high:
        yield model.warning(
            "All rows have the same time.",
            "Check the time column of the schema; a split by time is meaningless here.",
        )
        return
    wrong = sum(time.by_unit.values()) - time.by_unit.get(time.unit or "", 0)
    if time.unit is None:
        yield from _without_unit(card)
    elif wrong:
        yield _other_units(time, time.unit, wrong)
        return
    empty = sum(count == 0 for count in time.rows)
    first, last = _shortest_run(time.rows, 1 - _FEW_FAR)
    if last - first <= _SHORT * len(time.rows):
        yield model.warning(
            f"The log is from {time.edges[0]} to {time.edges[-1]}, but nearly all rows are from "
            f"{time.edges[first]} to {time.edges[last]}.",
            "Check the times of the other rows: missing times may be written as 0, or times in "
            "another unit. A split by time puts these rows first or last.",
        )
    elif empty:
        yield model.note(
            f"{empty} of {len(time.rows)} equal time spans have no rows.",
            "This is expected if the log pauses, for example at night. Otherwise rows are lost or "
            "times are wrong.",
        )
