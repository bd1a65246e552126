"""Counts what a split of a data set holds, in one pass over its shards.

Query-side fields are counted once a request and ad-side fields once an impression, as they
are stored. Memory is bounded by the vocabularies and the catalogue, not by the rows.

Shapes: R requests and L impressions of a window, F columns of ids, V ids of a field, N ads,
T list lengths.
"""

import dataclasses
import functools

import numpy as np

from tfrecords import encoding, reader, terminal
from tfrecords.schema import SIDES, Field, Schema

Window = dict[str, np.ndarray]
# Below this many ids per counted value, counting in place beats a fresh array of all ids.
_SPARSE = 4


@dataclasses.dataclass
class LabelCounts:
    """What one label of a split is.

    Attributes:
        known: Impressions that have the label.
        positive: Impressions where it is above 0.
        total: Its sum.
    """

    known: int = 0
    positive: int = 0
    total: float = 0.0


@dataclasses.dataclass
class SplitCounts:
    """What a split holds.

    Attributes:
        rows: Impressions, sampled ones included.
        requests: Requests.
        list_lengths: [T] int64 requests by their number of ads.
        ids: [V] int64 of each field: values by id; of a list field, id 0 is the empty lists.
        value_lists: [width + 1] int64 of each list field: lists by their number of values.
        labels: Each label of the log.
        clicked_requests: Requests with a click.
        engaged_without_click: Impressions engaged with and not clicked.
        ad_impressions: [N] int64.
        ad_clicks: [N] int64.
    """

    rows: int
    requests: int
    list_lengths: np.ndarray
    ids: dict[str, np.ndarray]
    value_lists: dict[str, np.ndarray]
    labels: dict[str, LabelCounts]
    clicked_requests: int
    engaged_without_click: int
    ad_impressions: np.ndarray
    ad_clicks: np.ndarray

    @property
    def impressions_of_lists(self) -> int:
        """The impressions that the list lengths add up to."""
        return int((np.arange(len(self.list_lengths)) * self.list_lengths).sum())


def empty_counts(data_set: reader.DataSet) -> SplitCounts:
    """Returns counts of nothing, of the sizes of a data set."""
    fields = data_set.schema.fields
    num_ads = data_set.description.num_ads
    return SplitCounts(
        rows=0,
        requests=0,
        list_lengths=np.zeros(2, np.int64),
        ids={f.name: np.zeros(data_set.fitted.cardinality(f), np.int64) for f in fields},
        value_lists={
            f.name: np.zeros(f.width + 1, np.int64) for f in fields if f.kind == "categorical_list"
        },
        labels={label: LabelCounts() for label in data_set.spec.labels},
        clicked_requests=0,
        engaged_without_click=0,
        ad_impressions=np.zeros(num_ads, np.int64),
        ad_clicks=np.zeros(num_ads, np.int64),
    )


def count_split(data_set: reader.DataSet, split: str) -> SplitCounts:
    """Counts a split.

    Args:
        data_set: The data set.
        split: `train`, `validation` or `test`.

    Raises:
        ValueError: The shards hold other numbers of rows than the description says.
    """
    counts = empty_counts(data_set)
    with terminal.progress_bar(f"counting {split} rows", "rows", data_set.num_rows(split)) as bar:
        for window in data_set.windows(split).prefetch(2).as_numpy_iterator():
            _add_window(counts, data_set.schema, window)
            bar.update(len(window["ad_row"]))
    wanted = (data_set.num_rows(split), data_set.num_requests(split))
    if (counts.rows, counts.requests) != wanted:
        raise ValueError(
            f"{data_set.directory}: dataset.json says {wanted[0]} rows in {wanted[1]} requests of "
            f"{split}, the shards hold {counts.rows} in {counts.requests}; convert the log again."
        )
    return counts


def _add_window(counts: SplitCounts, schema: Schema, window: Window) -> None:
    lengths = window["list_lengths"]
    counts.requests += len(lengths)
    counts.rows += len(window["ad_row"])
    counts.list_lengths = _joined(counts.list_lengths, np.bincount(lengths))
    for side in SIDES:
        # One column after the other in memory: each is read several times.
        columns = np.ascontiguousarray(window[side].T)
        for field, of_field in encoding.columns(schema.side(side)):
            _add_field(counts, field, columns[of_field])
    for label, own in counts.labels.items():
        _add_label(own, window[label])
    clicked = window["click"] == 1
    if "engagement" in window:
        unclicked = (window["engagement"] == 1) & (window["click"] == 0)
        counts.engaged_without_click += int(unclicked.sum())
    if len(lengths):
        starts = np.cumsum(lengths) - lengths
        counts.clicked_requests += int(np.logical_or.reduceat(clicked, starts).sum())
    add_ids(counts.ad_impressions, window["ad_row"])
    add_ids(counts.ad_clicks, window["ad_row"][clicked])


def _add_field(counts: SplitCounts, field: Field, columns: np.ndarray) -> None:
    """Adds the ids [width, B] of one field."""
    totals = counts.ids[field.name]
    if field.kind != "categorical_list":
        add_ids(totals, columns[0])
        return
    present = functools.reduce(np.add, (column != 0 for column in columns), np.int64(0))
    lists = np.bincount(present, minlength=field.width + 1)
    counts.value_lists[field.name] += lists
    add_ids(totals, columns[columns != 0])
    totals[0] += lists[0]


def _add_label(own: LabelCounts, values: np.ndarray) -> None:
    known = values[~np.isnan(values)]
    own.known += len(known)
    own.positive += int((known > 0).sum())
    own.total += float(known.sum(dtype=np.float64))


def add_ids(totals: np.ndarray, ids: np.ndarray) -> None:
    """Adds to `totals` [V] int64 how often each of `ids` [B] int32 occurs."""
    if len(totals) <= _SPARSE * len(ids):
        totals += np.bincount(ids, minlength=len(totals))
    else:
        np.add.at(totals, ids.astype(np.intp), 1)


def _joined(totals: np.ndarray, more: np.ndarray) -> np.ndarray:
    """Adds two count arrays, the shorter one filled up with 0."""
    result = np.zeros(max(len(totals), len(more)), np.int64)
    result[: len(totals)] += totals
    result[: len(more)] += more
    return result
