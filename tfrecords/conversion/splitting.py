"""Groups rows into requests and gives each request its split.

Rows with equal request keys form a request, adjacent or not; requests are in the order of their
first rows. A request is in one split.

    order               the log's order: train, then validation, then test
    time                the same by the time column
    fraction            a random share of the requests
    column              by the split column
    file                by file
    leave_last_out      the last request of each user is test, the one before validation
    leave_fraction_out  the last share of each user's requests
    leave_random_fraction_out  a random share of each user's requests

If the column or the files leave a held-out split empty, it is taken from the end of training.

Shapes: B rows of the log, R requests.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from tfrecords import terminal
from tfrecords.columns import MIXER
from tfrecords.splits import SplitOptions

_HOUR = 3600
# Approximate number of rows that are compared with each other.
_COMPARED = 250_000


@dataclasses.dataclass(frozen=True)
class RowKeys:
    """Keys of the rows of a log, by which they are grouped and split.

    Attributes:
        num_rows: Number of rows B.
        request: Request keys [B] int64; None: a row is a request.
        time: Times [B] float64, or None.
        user: User keys [B] int64, or None.
        split: Splits by the split column [B] uint8, or None.
        file: Splits by file [B] uint8, or None.
    """

    num_rows: int
    request: np.ndarray | None = None
    time: np.ndarray | None = None
    user: np.ndarray | None = None
    split: np.ndarray | None = None
    file: np.ndarray | None = None


def count_repeated(keys: RowKeys, others: Sequence[np.ndarray], units_per_second: float) -> int:
    """Returns the number of rows that equal an earlier row of the log.

    It is 0 without times or without a request or user, and if all times are whole hours: equal rows
    may then be several impressions. In a long log, it is estimated from a share of all hashes;
    equal rows have equal hashes.

    Args:
        keys: Keys of the rows.
        others: Columns [B] in which the rows must also be equal, such as the ad and the labels.
        units_per_second: Units of the times in a second.
    """
    who = keys.user if keys.request is None else keys.request
    if keys.time is None or who is None or are_whole_hours(keys.time, units_per_second):
        return 0
    found = who.view(np.uint64) * MIXER
    for values in (keys.time, *others):
        bits = values.view(f"u{values.itemsize}").astype(np.uint64)
        found = (found ^ (found >> np.uint64(32)) ^ bits) * MIXER
    step = max(1, len(found) // _COMPARED)
    compared = np.sort(found[found <= np.uint64((2**64 - 1) // step)])
    return step * int((compared[1:] == compared[:-1]).sum())


def are_whole_hours(times: np.ndarray, units_per_second: float) -> bool:
    """Returns whether all times are whole hours, so that equal rows may be several events."""
    hour = _HOUR * units_per_second
    # The first times of most logs decide it.
    return not ((times[:1000] % hour).any() or (times % hour).any())


@dataclasses.dataclass(frozen=True)
class Requests:
    """The requests of a log.

    Attributes:
        order: Rows in the order of requests [B]; None: the log's order.
        starts: Start of each request in that order [R + 1]; None: a row is a request.
        splits: Index in `SPLITS` [R] uint8.
        kind: Kind of the split, one of `SPLIT_KINDS`.
    """

    order: np.ndarray | None
    starts: np.ndarray | None
    splits: np.ndarray
    kind: str

    def __len__(self) -> int:
        return len(self.splits)

    def lengths(self, first: int, last: int) -> np.ndarray:
        """Returns the number of rows of each of the requests first..last - 1."""
        if self.starts is None:
            return np.ones(last - first, np.int32)
        return np.diff(self.starts[first : last + 1]).astype(np.int32)

    def rows(self, first: int, last: int) -> np.ndarray:
        """Returns the concatenated rows of the requests first..last - 1."""
        if self.starts is not None:
            first, last = int(self.starts[first]), int(self.starts[last])
        return np.arange(first, last) if self.order is None else self.order[first:last]

    def first_rows(self) -> np.ndarray:
        """Returns the first row [R] of each request."""
        if self.starts is None:
            return np.arange(len(self.splits))
        starts = self.starts[:-1]
        return starts if self.order is None else self.order[starts]

    def row_splits(self) -> np.ndarray:
        """Returns the split [B] uint8 of each row, in the log's order."""
        return self.by_row(self.splits)

    def by_row(self, values: np.ndarray) -> np.ndarray:
        """Spreads the values [R] of requests over their rows [B], in the log's order."""
        if self.starts is None:
            return values
        row_values = np.repeat(values, np.diff(self.starts))
        if self.order is None:
            return row_values
        in_log_order = np.empty_like(row_values)
        in_log_order[self.order] = row_values
        return in_log_order


def assign(keys: RowKeys, options: SplitOptions) -> Requests:
    """Groups rows into requests and splits them.

    Raises:
        ValueError: The log lacks a column that the split needs, or a request is in two splits.
    """
    order, starts = _group(keys)
    num_requests = keys.num_rows if starts is None else len(starts) - 1
    requests = Requests(order, starts, np.zeros(num_requests, np.uint8), "order")
    kind = _resolve(keys, options.kind)
    if kind == "order" and starts is None:
        return dataclasses.replace(requests, splits=_cut(keys.num_rows, options))
    first_rows = requests.first_rows()
    lengths = requests.lengths(0, len(requests))
    time = None if keys.time is None else request_times(keys.time, requests)
    if kind in ("column", "file"):
        splits = _given(keys, kind, requests, first_rows)
        splits = _fill(splits, time, lengths, options)
    elif kind in ("order", "time"):
        splits = _by_order(time if kind == "time" else None, lengths, _begins(options))
    elif kind == "fraction":
        shuffled = np.random.default_rng(options.seed).permutation(len(requests))
        splits = _by_order(shuffled, lengths, _begins(options))
    else:
        assert keys.user is not None
        if kind == "leave_random_fraction_out":
            time = np.random.default_rng(options.seed).permutation(len(requests))
        splits = _per_user(keys.user[first_rows], time, options, kind == "leave_last_out")
    return dataclasses.replace(requests, splits=splits, kind=kind)


def request_times(times: np.ndarray, requests: Requests) -> np.ndarray:
    """Returns the earliest time [R] of the rows of each request, from the times [B] of all rows."""
    if requests.starts is None:
        return times
    ordered = times if requests.order is None else times[requests.order]
    return np.minimum.reduceat(ordered, requests.starts[:-1])


def order_in_time(keys: RowKeys, requests: Requests) -> np.ndarray | None:
    """Returns numbers [R] that ascend with the times of requests; None: the log's order does."""
    if keys.time is None:
        return None
    order = request_times(ranks(keys), requests)
    return None if (np.diff(order) > 0).all() else order


def count_long(times: np.ndarray, requests: Requests, units_per_second: float) -> int:
    """Returns the number of requests whose rows, with times [B], are more than a day apart."""
    if requests.starts is None:
        return 0
    spans = -request_times(-times, requests) - request_times(times, requests)
    return int((spans > 24 * _HOUR * units_per_second).sum())


def ranks(keys: RowKeys) -> np.ndarray:
    """Returns the rank [B] of each row in time, or in the log's order."""
    in_order = np.arange(keys.num_rows)
    if keys.time is None:
        return in_order
    rank = np.empty(keys.num_rows, np.int64)
    rank[np.argsort(keys.time, kind="stable")] = in_order
    return rank


def _resolve(keys: RowKeys, kind: str) -> str:
    has = {"column": keys.split, "file": keys.file, "time": keys.time}
    if keys.file is not None and kind not in ("auto", "file"):
        raise ValueError(
            f"Validation or test files were given, and split is {kind!r}; expected 'auto' or "
            "'file'. Leave out one of them."
        )
    if kind == "auto":
        return next((k for k in ("file", "column", "time") if has[k] is not None), "order")
    needs = {"column": "the schema names no split column (split)",
             "file": "no validation or test file was given",
             "time": "the schema names no time column (time)"}  # fmt: skip
    if kind in has and has[kind] is None:
        raise ValueError(f"The log cannot be split by {kind}: {needs[kind]}.")
    if kind.startswith("leave") and keys.user is None:
        raise ValueError(f"The split {kind} is by user, but the schema names no user_key.")
    return kind


def _group(keys: RowKeys) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Returns the order and starts of the requests."""
    if keys.request is None or not keys.num_rows:
        return None, None
    changed = np.flatnonzero(keys.request[1:] != keys.request[:-1]) + 1
    starts = np.concatenate([[0], changed, [keys.num_rows]])
    runs = keys.request[starts[:-1]]
    _, first, run_request = np.unique(runs, return_index=True, return_inverse=True)
    if len(first) == len(runs):
        return None, starts
    # Some requests have several runs of rows; the first determines the order.
    position = np.empty(len(first), np.int64)
    position[np.argsort(first)] = np.arange(len(first))
    row_request = np.repeat(position[run_request], np.diff(starts))
    counts = np.bincount(row_request, minlength=len(first))
    return np.argsort(row_request, kind="stable"), np.append(0, np.cumsum(counts))


def _given(keys: RowKeys, kind: str, requests: Requests, first_rows: np.ndarray) -> np.ndarray:
    row_splits = keys.split if kind == "column" else keys.file
    assert row_splits is not None
    splits = row_splits[first_rows]
    if requests.starts is not None:
        ordered = row_splits if requests.order is None else row_splits[requests.order]
        mixed = ordered != np.repeat(splits, np.diff(requests.starts))
        if mixed.any():
            rows = terminal.format_count(int(mixed.sum()), "row is", "rows are")
            where = "split column" if kind == "column" else "files of the splits"
            raise ValueError(
                f"{rows} in a different split from the first row of the same request; expected "
                f"each request in one split. Correct the {where} or the request key."
            )
    return splits


def _begins(options: SplitOptions) -> tuple[float, float]:
    """Returns the shares of the rows before validation and before test."""
    return 1 - options.validation_fraction - options.test_fraction, 1 - options.test_fraction


def _cut(num_rows: int, options: SplitOptions) -> np.ndarray:
    """Splits requests of one row in the log's order, with less memory than `_by_order`."""
    splits = np.zeros(num_rows, np.uint8)
    for share in _begins(options):
        splits[int(num_rows * share) :] += 1
    return splits


def _by_order(rank: np.ndarray | None, lengths: np.ndarray, begins: Iterable[float]) -> np.ndarray:
    """Splits requests by the number of rows before each.

    Args:
        rank: Requests are in this order [R]; None: the log's.
        lengths: Number of rows of each request [R].
        begins: Shares of the rows before the second part, the third part and so on.

    Returns:
        The index of the part [R] uint8 of each request.
    """
    order: slice | np.ndarray = slice(None)
    if rank is not None:
        order = np.argsort(rank, kind="stable")
    before = np.cumsum(lengths[order]) - lengths[order]
    boundaries = [int(lengths.sum() * share) for share in begins]
    parts = np.empty(len(lengths), np.uint8)
    parts[order] = np.searchsorted(boundaries, before, side="right")
    return parts


def _fill(
    splits: np.ndarray, time: np.ndarray | None, lengths: np.ndarray, options: SplitOptions
) -> np.ndarray:
    """Takes empty held-out splits from the end of training."""
    empty = [index for index in (1, 2) if not (splits == index).any()]
    if not empty:
        return splits
    training = np.flatnonzero(splits == 0)
    shares = (options.validation_fraction, options.test_fraction)
    empty_shares = [shares[index - 1] for index in empty]
    begins = 1 - sum(empty_shares) + np.cumsum([0.0, *empty_shares[:-1]])
    rank = None if time is None else time[training]
    filled = splits.copy()
    filled[training] = np.array([0, *empty])[_by_order(rank, lengths[training], begins)]
    return filled


def _per_user(
    user: np.ndarray, rank: np.ndarray | None, options: SplitOptions, last: bool
) -> np.ndarray:
    """Splits each user's requests, the last ones held out."""
    keys: Sequence[np.ndarray] = (user,) if rank is None else (rank, user)
    order = np.lexsort(keys)
    ordered = user[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    counts = np.diff(np.append(starts, len(user)))
    if last:
        test = (counts >= 2).astype(np.int64)
        validation = (counts >= 3).astype(np.int64)
    else:
        test = np.round(counts * options.test_fraction).astype(np.int64)
        validation = np.round(counts * options.validation_fraction).astype(np.int64)
        # At least one request of each user stays in training.
        test = np.minimum(test, counts - 1)
        validation = np.minimum(validation, counts - 1 - test)
    from_end = np.repeat(starts + counts, counts) - np.arange(len(user))  # 1 is the last
    held_out = np.where(
        from_end <= np.repeat(test, counts),
        2,
        np.where(from_end <= np.repeat(test + validation, counts), 1, 0),
    )
    splits = np.empty(len(user), np.uint8)
    splits[order] = held_out
    return splits
