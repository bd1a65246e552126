"""Counts the content of a split in one pass over its shards.

Query-side fields are counted once per request and ad-side fields once per impression, as they are
stored. Memory depends on the vocabularies and the catalog, not on the number of rows.

Shapes: R requests and L impressions of a window, F columns of ids, V ids of a field, N ads,
T list lengths, C ids of a field, where a list or a vector is present (1) or missing (0).
"""

import dataclasses
import functools

import numpy as np

from tfrecords import encoding, reader, terminal
from tfrecords.schema import LABELS, SIDES, Field, Schema

Window = dict[str, np.ndarray]
# With more ids than this per counted value, counting in place is faster than `bincount`.
_SPARSE = 4


@dataclasses.dataclass
class SplitCounts:
    """Counts of a split.

    Attributes:
        rows: Impressions, sampled negatives included.
        requests: Requests.
        list_lengths: Requests by number of ads [T] int64.
        ids: Values of each field by id [V] int64; id 0 of a list field counts empty lists, and
            ids 0 and 1 of a vector field the missing vectors and the others.
        value_lists: Lists of each list field by number of values [list_length + 1] int64.
        clicks: Values of each field by click and id [2, C] int64; a request is clicked if one of
            its ads is, and those without a known label are left out.
        clicked_requests: Requests with a click.
        without_click: Impressions with a label above 0 and without a click, of each label that
            is an amount or needs a click.
        known_without_click: Unclicked impressions that have the label, of each label that needs a
            click.
        ad_impressions: Impressions of each ad [N] int64.
        ad_clicks: Clicks of each ad [N] int64.
    """

    list_lengths: np.ndarray
    ids: dict[str, np.ndarray]
    value_lists: dict[str, np.ndarray]
    clicks: dict[str, np.ndarray]
    ad_impressions: np.ndarray
    ad_clicks: np.ndarray
    rows: int = 0
    requests: int = 0
    clicked_requests: int = 0
    without_click: dict[str, int] = dataclasses.field(default_factory=dict)
    known_without_click: dict[str, int] = dataclasses.field(default_factory=dict)


def empty_counts(data_set: reader.DataSet) -> SplitCounts:
    """Returns zero counts for a data set."""
    fields = data_set.schema.fields
    num_ads = data_set.description.num_ads
    return SplitCounts(
        list_lengths=np.zeros(2, np.int64),
        ids={f.name: np.zeros(data_set.fitted.cardinality(f), np.int64) for f in fields},
        value_lists={f.name: np.zeros(f.list_length + 1, np.int64) for f in fields if f.is_list},
        clicks={
            f.name: np.zeros(
                (2, 2 if f.is_list or f.is_vector else data_set.fitted.cardinality(f)), np.int64
            )
            for f in fields
        },
        ad_impressions=np.zeros(num_ads, np.int64),
        ad_clicks=np.zeros(num_ads, np.int64),
    )


def count_split(data_set: reader.DataSet, split: str) -> SplitCounts:
    """Counts a split.

    Args:
        data_set: The data set.
        split: `train`, `validation` or `test`.

    Raises:
        ValueError: The shards have other numbers of rows than `dataset.json` says.
    """
    counts = empty_counts(data_set)
    with terminal.progress_bar(f"counting {split} rows", "rows", data_set.num_rows(split)) as bar:
        for window in data_set.windows(split).prefetch(2).as_numpy_iterator():
            _add_window(counts, data_set.schema, window)
            bar.update(len(window["ad_row"]))
    expected = (data_set.num_rows(split), data_set.num_requests(split))
    if (counts.rows, counts.requests) != expected:
        raise ValueError(
            f"{data_set.directory}: the {split} shards have {counts.rows} rows in "
            f"{counts.requests} requests; dataset.json expects {expected[0]} in {expected[1]}. "
            "Convert the log again."
        )
    return counts


def _add_window(counts: SplitCounts, schema: Schema, window: Window) -> None:
    lengths = window["list_lengths"]
    counts.requests += len(lengths)
    counts.rows += len(window["ad_row"])
    before = counts.list_lengths
    counts.list_lengths = np.bincount(lengths, minlength=len(before))
    counts.list_lengths[: len(before)] += before
    starts = np.cumsum(lengths) - lengths
    request_clicks = np.fmax.reduceat(window["click"], starts) if len(lengths) else np.empty(0)
    click = {"query": request_clicks, "ad": window["click"]}
    for side in SIDES:
        # Contiguous columns, because each is read several times.
        columns = np.ascontiguousarray(window[side].T)
        for field, field_columns in encoding.value_columns(schema.side(side)):
            _add_field(counts, field, columns[field_columns])
            _add_clicks(counts, field, columns[field_columns], click[side])
    clicked = window["click"] == 1
    unclicked = window["click"] == 0
    for name, label in LABELS.items():
        if name in window and (label.needs_click or label.is_amount):
            found = int((unclicked & (window[name] > 0)).sum())
            counts.without_click[name] = counts.without_click.get(name, 0) + found
        if name in window and label.needs_click:
            known = int((unclicked & ~np.isnan(window[name])).sum())
            counts.known_without_click[name] = counts.known_without_click.get(name, 0) + known
    counts.clicked_requests += int((request_clicks == 1).sum())
    add_ids(counts.ad_impressions, window["ad_row"])
    add_ids(counts.ad_clicks, window["ad_row"][clicked])


def _add_field(counts: SplitCounts, field: Field, columns: np.ndarray) -> None:
    """Adds the ids [width, B] of one field."""
    totals = counts.ids[field.name]
    if field.is_vector:
        num_present = int(columns.any(axis=0).sum())
        totals += [columns.shape[1] - num_present, num_present]
        return
    if not field.is_list:
        add_ids(totals, columns[0])
        return
    present = functools.reduce(np.add, (column != 0 for column in columns), np.int64(0))
    lists = np.bincount(present, minlength=field.list_length + 1)
    counts.value_lists[field.name] += lists
    add_ids(totals, columns[columns != 0])
    totals[0] += lists[0]


def _add_clicks(counts: SplitCounts, field: Field, columns: np.ndarray, click: np.ndarray) -> None:
    """Adds the ids [width, B] of one field by click [B]."""
    has_presence = field.is_list or field.is_vector
    ids: np.ndarray = np.asarray(columns.any(axis=0)) if has_presence else columns[0]
    for label, totals in enumerate(counts.clicks[field.name]):
        add_ids(totals, ids[click == label])


def add_ids(totals: np.ndarray, ids: np.ndarray) -> None:
    """Adds the counts of `ids` [B] int32 to `totals` [V] int64."""
    if len(totals) <= _SPARSE * len(ids):
        totals += np.bincount(ids, minlength=len(totals))
    else:
        np.add.at(totals, ids.astype(np.intp), 1)
