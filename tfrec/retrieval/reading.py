"""Reads clicks and requests of a data set into memory, in the order of `reader.DataSet.column`."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tfrecords import encoding, reader, records


@dataclasses.dataclass(frozen=True)
class Clicks:
    """Clicked pairs of a split.

    Attributes:
        query: [N, Wq] int32 encoded queries.
        ad_rows: [N] int32 catalog rows.
        number: [N] number of each click in the split.
        order: [N] int64, ascends with the time of the requests.
        user: [N] int64 fingerprints of the users, or None if the schema has no `user_key`.
    """

    query: np.ndarray
    ad_rows: np.ndarray
    number: np.ndarray
    order: np.ndarray
    user: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> "Clicks":
        """Returns some of the clicks."""
        user = None if self.user is None else self.user[rows]
        return Clicks(
            self.query[rows], self.ad_rows[rows], self.number[rows], self.order[rows], user
        )


def read_pairs(data_set: reader.DataSet, splits: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Reads users [H] int64 and catalog rows [H] int32 of clicks.

    Args:
        data_set: A data set whose schema has a `user_key`.
        splits: The splits to read, in this order.
    """
    users, rows = [np.empty(0, np.int64)], [np.empty(0, np.int32)]
    for split in splits:
        for batch in data_set.clicked(split, 65_536):
            users.append(batch[records.USER].numpy())
            rows.append(batch["ad_row"].numpy())
    return np.concatenate(users), np.concatenate(rows)


def read_clicks(data_set: reader.DataSet, split: str, max_clicks: int | None = None) -> Clicks:
    """Reads the clicks of a split.

    Args:
        data_set: The converted log.
        split: `train`, `validation` or `test`.
        max_clicks: Maximum number of clicks, evenly spaced in the split; None: all.
    """
    width = encoding.width(data_set.schema.query_fields)
    parts: dict[str, list[np.ndarray]] = {
        "query": [np.empty((0, width), np.int32)],
        "ad_row": [np.empty(0, np.int32)],
        records.ORDER: [np.empty(0, np.int64)],
        records.USER: [np.empty(0, np.int64)],
    }
    if not data_set.spec.has_user:
        del parts[records.USER]
    total = round(data_set.label_sum(split, "click"))
    numbers = evenly_spaced(total, total if max_clicks is None else max_clicks)
    for batch, rows in _with_rows(data_set.clicked(split, 4_096), "ad_row", numbers):
        for name, arrays in parts.items():
            arrays.append(batch[name].numpy()[rows])
    read = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    return Clicks(
        read["query"], read["ad_row"], numbers, read[records.ORDER], read.get(records.USER)
    )


def read_queries(data_set: reader.DataSet, split: str, max_requests: int) -> np.ndarray:
    """Reads the encoded queries [R, Wq] int32 of requests of a split.

    Args:
        data_set: The converted log.
        split: `train`, `validation` or `test`.
        max_requests: Maximum number of requests, evenly spaced in the split.
    """
    numbers = evenly_spaced(data_set.num_requests(split), max_requests)
    empty = np.empty((0, encoding.width(data_set.schema.query_fields)), np.int32)
    windows = _with_rows(data_set.windows(split), "query", numbers)
    return np.concatenate([empty, *(window["query"].numpy()[rows] for window, rows in windows)])


def _with_rows(
    batches: Iterable[reader.Batch], counted: str, numbers: np.ndarray
) -> Iterator[tuple[reader.Batch, np.ndarray]]:
    """Yields batches, each with the indices of its requested rows.

    Args:
        batches: The batches.
        counted: Feature with an entry for each row.
        numbers: Ascending numbers of the requested rows, over all batches. Spread them out:
            the first rows could all be from one hour, or from a few users.
    """
    count = 0
    for batch in batches:
        first, count = count, count + len(batch[counted])
        kept = numbers[slice(*np.searchsorted(numbers, [first, count]))] - first
        yield batch, kept


def evenly_spaced(count: int, max_count: int) -> np.ndarray:
    """Returns at most `max_count` evenly spaced numbers [n] int64 of range(count)."""
    return np.linspace(0, count, min(max_count, count), endpoint=False).astype(np.int64)
