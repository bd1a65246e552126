"""Joins a log of events into impressions; see `tfrecords.events`.

A view is an impression; the same user's events on the ad in the window after it become its labels.
The keys of all rows are in memory, 25 bytes each; the rows themselves stay in their chunks.

Shapes: L rows of the log, B rows of a chunk.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from tfrecords import formats, records
from tfrecords.columns import distinct, hashes_of_pairs
from tfrecords.conversion import label_window, splitting
from tfrecords.conversion.parsed_rows import (
    AD,
    EVENT,
    EVENT_TIMES,
    LABEL_COLUMNS,
    REQUEST,
    TIME,
    USER,
    Rows,
)
from tfrecords.events import KINDS, Events

# With fewer delays, their quantile is not reliable.
_MIN_DELAYS = 100


def without_unknown_types(
    parsed: formats.Parsed, events: Events
) -> tuple[formats.Parsed, dict[str, int]]:
    """Leaves out rows of event types that the schema does not name, and counts them by type."""
    values, codes = distinct(parsed.table[events.column])
    known = np.array([value.strip() in events.codes for value in values], bool)
    if not len(values) or known.all():
        return parsed, {}
    counts = np.bincount(codes, minlength=len(values))
    left_out = {
        values[index] or "(empty)": int(counts[index])
        for index in np.flatnonzero(~known & (counts > 0)).tolist()
    }
    kept = parsed.table.filter(pa.array(known[codes]))
    num_rows = None if parsed.num_rows is None else parsed.num_rows - sum(left_out.values())
    return dataclasses.replace(parsed, table=kept, num_rows=num_rows), left_out


@dataclasses.dataclass(frozen=True)
class EventRows:
    """The rows of a log of events.

    Attributes:
        keys: Equal for rows of one ad and one user or request [L] uint64.
        times: Times as logged, or the order of the log [L] float64.
        kinds: Index in `events.KINDS` [L] uint8.
        revenue: Revenue [L] float32, or None.
        units_per_second: Units of the times in a second.
    """

    keys: np.ndarray
    times: np.ndarray
    kinds: np.ndarray
    revenue: np.ndarray | None
    units_per_second: float = 1.0


@dataclasses.dataclass(frozen=True)
class JoinedEvents:
    """Impressions and their labels.

    Attributes:
        kept: Whether a row is an impression [L].
        labels: Label -> values, which are valid for impressions only: uint8 [L] of each kind of
            event after the view, and the revenue float32 [L] if the log has it.
        times: Label -> time of an impression's first event of this kind [L] float64, as logged,
            infinite without one; empty if they are not kept. Engagements are not clicks here.
        num_joined: Number of events after the view that became labels of another row.
        num_unmatched: Number of events after the view that have no view.
        num_repeated: Number of rows that repeat another and are left out.
        late: Label -> how late it comes, if the log has times and enough events.
    """

    kept: np.ndarray
    labels: dict[str, np.ndarray]
    times: dict[str, np.ndarray]
    num_joined: int
    num_unmatched: int
    num_repeated: int
    late: dict[str, records.LateLabels]


def event_rows(chunks: list[Rows], units_per_second: float = 1.0) -> EventRows:
    """Returns keys, times, kinds and revenue of the rows of all chunks."""
    keys, kinds, all_times, revenues = (list[np.ndarray]() for _ in range(4))
    for rows in chunks:
        names = rows.columns.column_names
        who = rows.array(REQUEST if REQUEST in names else USER)
        ads = rows.strings[AD].fingerprints[rows.array(AD)]
        keys.append(hashes_of_pairs(who, ads))
        kinds.append(rows.array(EVENT))
        if TIME in names:
            all_times.append(rows.array(TIME))
        if LABEL_COLUMNS["revenue"] in names:
            revenues.append(rows.array(LABEL_COLUMNS["revenue"]))
    if all_times:
        times = np.concatenate(all_times)
    else:
        times = np.arange(sum(map(len, keys)), dtype=np.float64)
    revenue = np.concatenate(revenues) if revenues else None
    return EventRows(np.concatenate(keys), times, np.concatenate(kinds), revenue, units_per_second)


def join(
    rows: EventRows, events: Events, has_times: bool, keep_times: bool = False
) -> JoinedEvents:
    """Joins each event after the view to the latest view of its key within the window.

    Rows with the same key, kind, time and revenue are one event, which was logged repeatedly.
    Without times, or if all times are whole hours, they may be several events and all count;
    without times, the window does not apply.
    """
    count = len(rows.keys)
    # At equal times a view comes before its click, and a click before its engagement.
    order = np.lexsort((rows.kinds, rows.times, rows.keys))
    num_repeated = 0
    if has_times and not splitting.are_whole_hours(rows.times, rows.units_per_second):
        order = order[~_repeated(rows, order)[order]]
        num_repeated = count - len(order)
    keys, times, kinds = rows.keys[order], rows.times[order], rows.kinds[order]
    first = KINDS.index("view" if events.view else "click")
    indices = np.arange(len(order))
    # The latest row of the first kind at or before each row.
    latest = np.maximum.accumulate(np.where(kinds == first, indices, -1)) if count else indices
    found = (latest >= 0) & (kinds != first)
    found &= keys[latest] == keys
    if has_times:
        found &= times - times[latest] <= events.window_seconds * rows.units_per_second
    unmatched = (kinds != first) & ~found
    kept = (kinds == first) | (unmatched if not events.view else False)
    labels, late, first_times = {}, {}, {}
    for code, label in enumerate(KINDS[1:], 1):
        selected = kinds == code
        if keep_times:
            at = np.where(kept & selected, times, np.inf)
            np.minimum.at(at, latest[found & selected], times[found & selected])
            first_times[label] = at
        if label == "click":
            selected = kinds >= code  # Each later kind is a click, too.
        labels[label] = np.zeros(len(order), np.uint8)
        labels[label][latest[found & selected]] = 1
        labels[label][kept & selected] = 1
        if has_times and code != first:
            measured = _late_labels(times, kept, latest, found & selected, rows.units_per_second)
            if measured is not None:
                late[label] = measured
    if rows.revenue is not None:
        # Only engagements bring revenue (a view has a price too); without such types, clicks do.
        paying = kinds == KINDS.index("engagement" if events.engagement else "click")
        counted = paying & (kept | found)
        owner = np.where(found, latest, indices)[counted]
        amounts = rows.revenue[order][counted].astype(np.float64)
        size = len(order)
        paid, known = (
            np.bincount(owners, minlength=size) for owners in (owner, owner[~np.isnan(amounts)])
        )
        # Without amounts, `bincount` counts in integers, which have no NaN.
        revenue = np.bincount(owner, np.nan_to_num(amounts), size).astype(np.float64)
        revenue[(paid > 0) & (known == 0)] = np.nan
        labels["revenue"] = revenue.astype(np.float32)

    def in_log(values: np.ndarray) -> np.ndarray:
        result = np.zeros(count, values.dtype)
        result[order] = values
        return result

    return JoinedEvents(
        in_log(kept),
        {label: in_log(column) for label, column in labels.items()},
        {label: in_log(column) for label, column in first_times.items()},
        int(found.sum()),
        int(unmatched.sum()) if events.view else 0,
        num_repeated,
        late,
    )


def _late_labels(
    times: np.ndarray, is_first: np.ndarray, latest: np.ndarray, selected: np.ndarray, units: float
) -> records.LateLabels | None:
    """Measures how late a label comes; None without enough events.

    Args:
        times: Times of the rows [L], as logged.
        is_first: Whether a row is an impression [L].
        latest: Index of the impression of each row [L].
        selected: Rows that give the label to their impression [L].
        units: Units of the times in a second.
    """
    delays = np.full(len(times), np.inf)
    np.minimum.at(delays, latest[selected], times[selected] - times[latest[selected]])
    known = delays[np.isfinite(delays)]
    if len(known) < _MIN_DELAYS:
        return None
    delay = float(np.quantile(known, records.LATE_SHARE))
    _, end = label_window.span(times)
    young = is_first & (times > end - delay)
    return records.LateLabels(seconds=delay / units, young=int(young.sum()))


def _repeated(rows: EventRows, order: np.ndarray) -> np.ndarray:
    """Returns which rows [L] repeat an earlier one, in the order [L] of key, time, kind and log."""
    columns = [rows.kinds, rows.times, rows.keys]
    repeats = _are_same(columns, order)
    if rows.revenue is not None and repeats.any():
        columns.insert(0, rows.revenue.view(np.uint32))  # As bits, NaN equals NaN.
        order = np.lexsort(columns)
        repeats = _are_same(columns, order)
    repeated = np.zeros(len(order), bool)
    repeated[order[1:]] = repeats
    return repeated


def _are_same(columns: Sequence[np.ndarray], order: np.ndarray) -> np.ndarray:
    """Returns whether each ordered row equals the row before it in all columns [L - 1]."""
    return np.all([values[order[1:]] == values[order[:-1]] for values in columns], axis=0)


def impressions(rows: Rows, joined: JoinedEvents, span: slice, events: Events) -> Rows:
    """Returns the impressions of a chunk with their labels.

    Views of one user at the same time are a request, unless the schema has a request key.
    """
    table = rows.columns
    for label, values in joined.labels.items():
        name = LABEL_COLUMNS[label]
        if name in table.column_names:
            at = table.column_names.index(name)
            table = table.set_column(at, name, pa.array(values[span]))
    for label, times in joined.times.items():
        table = table.append_column(EVENT_TIMES[label], pa.array(times[span]))
    names = table.column_names
    if events.view and REQUEST not in names and TIME in names:
        times = rows.array(TIME).view(np.uint64)
        request = hashes_of_pairs(rows.array(USER), times)
        table = table.append_column(REQUEST, pa.array(request.view(np.int64)))
    return Rows(table.filter(pa.array(joined.kept[span])), rows.strings)
