"""Finds the keys and labels of a log by the names and values of its columns.

A column whose value a row must have (request key, time) is proposed only if nearly all rows have
it. The click is always proposed, because without it all rows would count as clicks.
"""

import numpy as np
import pyarrow as pa

from tfrecords.columns import RowFaults, checked_splits
from tfrecords.schema_inference import (
    event_types,
    keys,
    known_names,
    labels,
    outcomes,
    row_recipes,
    times,
)
from tfrecords.schema_inference.roles import Roles
from tfrecords.schema_inference.sample import log_sample, writing
from tfrecords.schema_inference.sample.log_sample import Column, Sample

_ONE_OUTCOME = {
    0.0: " No row is clicked, so nothing can be learned: use a log that has clicks.",
    1.0: (
        " Every row is clicked, so there is no ranker: add the ads that were shown and not "
        "clicked, or convert with --sampled_negatives=4."
    ),
}


def find(sample: Sample, users: Sample | None, ads: Sample | None, notes: list[str]) -> Roles:
    """Finds the roles, and adds the decisions to `notes`.

    Raises:
        ValueError: No column looks like an ad id, a column holds several impressions in a row, or a
            table has no key in common with the log.
    """
    in_folders = [column for column in sample.columns.values() if column.in_folder]
    columns = [column for column in sample.columns.values() if not column.in_folder]
    row_recipes.refuse_lists(sample, ads)
    roles = Roles(keys.ad_key(sample, columns, ads, notes))
    taken = [roles.ad_key]

    def take(column: Column | None) -> Column | None:
        if column is not None:
            taken.append(column)
        return column

    def free() -> list[Column]:
        return [column for column in columns if column not in taken]

    roles.split = take(next((c for c in free() if _is_split(c)), None))
    roles.user_key = take(keys.user_key(sample, free(), roles.ad_key, users, notes))
    click, roles.click_threshold = labels.click(free(), roles.ad_key, notes)
    roles.click = take(click)
    if click is not None and not click.is_truth:
        row_recipes.refuse_report(sample, roles.ad_key, click)
    if click is None:
        roles.event = take(next((c for c in free() if event_types.is_event(c, roles.ad_key)), None))
    else:
        roles.engagement = take(labels.engagement(free(), roles.ad_key))
    if click is None and roles.event is None:
        roles.click, roles.engagement, roles.revenue = map(take, labels.chain(free(), roles.ad_key))
        if roles.click is not None:
            later = [repr(c.name) for c in (roles.engagement, roles.revenue) if c is not None]
            notes.append(
                "No column is named like a click, but the positive rows of "
                f"{' and '.join(later)} are also positive in {roles.click.name!r}, so these "
                "columns are used as the labels."
            )
        else:
            # Without unclicked rows there is no ranker, so an outcome is of more use as the click.
            roles.click = take(labels.engagement(free(), roles.ad_key))
            if roles.click is not None:
                notes.append(
                    f"No column is named like a click, so {roles.click.name!r} is the click. If "
                    'every row is a click, set "engagement" to it and "click" to null.'
                )
    if roles.revenue is None:
        roles.revenue = take(labels.revenue(free(), roles.ad_key, notes))
    known = (roles.ad_key, roles.user_key)
    varying = [column for column in in_folders if len(column.known) > 1]
    roles.time = take(times.find(free(), known, notes) or times.find(varying, known, notes))
    notes += times.split_notes(roles.time, [*free(), *in_folders])
    notes += times.counter_notes(free()) if roles.time is None else []
    roles.request_key = take(keys.request_key(free(), roles.user_key, roles.time, notes))
    if roles.user_key is None and roles.request_key is None:
        roles.user_key = take(keys.session(free(), roles.time, notes))
    notes += keys.fill_note(free(), roles.user_key)
    if roles.request_key is None and roles.event is None:
        roles.request_key = take(keys.adjacent(free(), roles, notes))
    lists_ads = roles.event is None
    index = next((c for c in free() if c.name.endswith("#") and lists_ads and _restarts(c)), None)
    if roles.event is not None:
        event_types.join(roles, roles.event, sample, notes)
    elif roles.click is None:
        _refuse_table_of_ads(sample, roles)
        who = roles.request_key or roles.user_key
        roles.candidates = outcomes.candidates(free(), roles.ad_key, who)
        notes += outcomes.outcome_notes(free(), "click", known_names.CLICKS)
        roles.codes = [c for c in free() if event_types.may_be_codes(c, roles.ad_key)]
    shown = free()
    if roles.events is not None:
        shown = [column.of_rows(roles.impressions) for column in shown]
    position = labels.named(shown, known_names.POSITIONS, _is_position)
    roles.position = take(index if position is None else sample.columns[position.name])
    is_outcome = roles.click is not None and roles.click.core in known_names.ENGAGEMENTS
    if roles.event is None and roles.engagement is None and not is_outcome:
        notes += outcomes.outcome_notes(free(), "conversion", known_names.ENGAGEMENTS)
        notes += labels.engagement_notes(free(), roles.ad_key)
    roles.has_ids_of_rows = any(keys.is_of_rows(c) and keys.is_request_id(c, None) for c in columns)
    notes += labels.currency_notes(free(), roles.revenue or roles.price)
    _describe(roles, notes)
    return roles


def _refuse_table_of_ads(sample: Sample, roles: Roles) -> None:
    """Raises if no row has a click, and each has another ad and none of the keys of a log."""
    is_of_ads = len(roles.ad_key.known) == sample.num_rows > 1
    if is_of_ads and roles.user_key is roles.request_key is roles.time is None:
        raise ValueError(
            f"{sample.path}: each row has another {roles.ad_key.name!r}, and no column is a click, "
            "a user, a request or a time; expected a log, with a row for each shown ad or each "
            "click. Name the log as --data_path (in Python, as the first argument), and a table of "
            "ads as --ads_path (in Python, as ads)."
        )


def _is_split(column: Column) -> bool:
    if column.missing_share > 0 or not 1 <= len(column.known) <= 3 or column.is_list:
        return False
    faults = RowFaults(len(column.known))
    texts = pa.chunked_array([pa.array(column.known, pa.string())])
    found = checked_splits(faults, column.name, texts)
    # The sample may have training rows only.
    named = not {"split", "set", "partition", "subset"}.isdisjoint(column.words)
    return not faults.any() and 0 in found and (named or len(column.known) > 1)


def _restarts(column: Column) -> bool:
    """Returns whether the items of many lists are numbered, not the rows of a single list."""
    return bool((np.diff(column.by_row(column.numbers)) < 0).sum() > 1)


def _is_position(column: Column) -> bool:
    # Outside a list of objects, an index numbers the rows.
    is_numbered = column.list_name or column.plain_object_words != "index"
    return bool(
        is_numbered
        and column.is_whole
        and column.missing_share <= known_names.MAX_MISSING
        and column.numbers.min() >= 0
        and column.numbers.max() < 10_000
    )


def _describe(roles: Roles, notes: list[str]) -> None:
    has_ad = roles.ad_key.present
    if roles.events is not None:  # Rows of other types are left out.
        has_ad = has_ad[roles.are_of_types("view", "click", "engagement")]
    if not has_ad.all():
        notes.append(
            f"{log_sample.percent(1 - float(has_ad.mean()))} of the rows have no "
            f"{roles.ad_key.name!r}; they will be rejected."
        )
    if roles.events is None and roles.click is None:
        said = "No column looks like a click, so every row counts as a click (click: null)."
        if roles.has_ids_of_rows:
            said = f"! {said} {keys.OTHER_FILE.format('the clicks').rstrip()}"
        notes.append(said)
        # `outcome_notes` covers the columns that are named like a click.
        notes += [
            outcomes.candidate_note(column)
            for column in roles.candidates
            if column.core not in known_names.CLICKS
        ]
        notes += map(event_types.code_note, roles.codes)
    elif roles.click is not None and roles.click_threshold is None:
        clicked = roles.clicked()
        share = float(np.mean(clicked[~np.isnan(clicked)])) if roles.click.is_truth else 0.0
        shown = f" ({share:.2%} of the rows)" if roles.click.is_truth else ""
        said = f"{roles.click.name!r} is the click{shown}."
        if roles.click.is_truth:
            said += _ONE_OUTCOME.get(share, "")
        notes.append(said)
    texts = {
        "engagement": "{!r} is the engagement after the click.",
        "revenue": "{!r} is the revenue.",
        "time": "{!r} is the time, by which the log is split.",
        "user_key": "Users are identified by {!r}.",
        "request_key": "Rows with the same {!r} are one request.",
        "position": "{!r} is the position at which an ad was shown.",
        "split": "{!r} is the split: training, validation or test.",
    }
    for role, text in texts.items():
        column = getattr(roles, role)
        if column is not None:
            notes.append(text.format(column.name))
    if roles.time is not None and roles.time.time_format is not None:
        time_format = roles.time.time_format
        said = f"{roles.time.name!r} is read in the format {time_format!r} (time_format)."
        notes.append(f"{said} {writing.ambiguity(roles.time.known, time_format)}".rstrip())
    notes += _without_click(roles)


def _without_click(roles: Roles) -> list[str]:
    """Returns notes about labels that are positive or missing in unclicked rows."""
    found = []
    unclicked = roles.clicked() == 0
    for column in (roles.engagement, roles.revenue):
        if column is None or roles.click is None:
            continue
        positive = labels.positive(column)
        share = float((positive & unclicked).sum() / max(positive.sum(), 1))
        if share > 0:
            found.append(
                f"{log_sample.percent(share)} of the rows with a positive {column.name!r} have no "
                "click. Check that both columns describe the same impression."
            )
    later = roles.engagement
    if later is not None and unclicked.any() and not (later.present & unclicked).any():
        found.append(
            f"! Only clicked rows have {later.name!r}. A missing label is unknown, so predictions "
            "would be rates of clicked rows, which are too high for impressions. Write 0 in "
            "unclicked rows before the conversion."
        )
    return found
