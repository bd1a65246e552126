"""Histories of requests: the events of each user by time, and those before a request.

The events of a log are sorted once by user and time, in ranges of users that fit into memory, and
stay in memory-mapped files. Two binary searches find the events before a request, which are
adjacent; a user with very many events only costs a few more search steps. Neither the order of
the log nor its chunks matter. `tfrecords.histories` has the rules.

Shapes: B rows of a chunk, R requests, E events of the log, U users, V distinct values, L length of
a history.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords import encoding, files, histories, records
from tfrecords.columns import KeyIndex, Strings, first_seen
from tfrecords.conversion.parsed_rows import AD, EVENT_TIMES, LABEL_COLUMNS, TIME, USER, Rows
from tfrecords.schema import AD as OF_AD
from tfrecords.schema import EVENTS, IMPRESSION, Field

MAX_AT_ONCE = 4_000_000
# Users are counted by the first bits of their fingerprints, which are grouped into ranges.
_NUM_GROUPS = 1 << 12
_GROUP_BITS = 64 - 12


@dataclasses.dataclass(frozen=True)
class UserEvents:
    """The events that a history lists, of all users.

    Attributes:
        field: The history.
        users: Fingerprints [U] int64, ascending.
        starts: First event of each user, and the number of events [U + 1] int64.
        times: Times in seconds [E] float64, ascending for each user.
        kinds: Index in `EVENTS` [E] uint8.
        values: Index of the event's value in `strings` [E] int32.
        strings: Values in ascending order [V].
    """

    field: Field
    users: np.ndarray
    starts: np.ndarray
    times: np.ndarray
    kinds: np.ndarray
    values: np.ndarray
    strings: Strings

    def before(self, users: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Finds the events in the histories of requests.

        Args:
            users: Users of the requests [R] int64.
            times: Times of the requests in seconds [R] float64.

        Returns:
            The events of all histories, concatenated, and the lengths of the histories [R].
        """
        firsts, ends = self._runs(users, times)
        lengths = np.minimum(ends - firsts, self.field.max_length)
        offsets = np.cumsum(lengths) - lengths
        return np.arange(lengths.sum()) + np.repeat(ends - lengths - offsets, lengths), lengths

    def count(self, users: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Counts the events [R] `before` requests up to the maximum age, without `max_length`."""
        firsts, ends = self._runs(users, times)
        return ends - firsts

    def since_first(self, users: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Returns the seconds [R] since the first event that `count` counts; NaN without one."""
        firsts, ends = self._runs(users, times)
        seconds = np.full(len(users), np.nan)
        found = firsts < ends
        seconds[found] = times[found] - self.times[firsts[found]]
        return seconds

    def _runs(self, users: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the first event [R] before each request that is not too old, and the end [R]."""
        if not len(self.users):
            return np.zeros(len(users), np.int64), np.zeros(len(users), np.int64)
        indices = np.minimum(np.searchsorted(self.users, users), len(self.users) - 1)
        known = self.users[indices] == users
        low = self.starts[indices]
        high = np.where(known, self.starts[indices + 1], low)
        ends = _first_at_or_after(self.times, low, high, times)
        if self.field.max_age_days is None:
            return low, ends
        earliest = np.asarray(histories.earliest(self.field, times))
        return _first_at_or_after(self.times, low, ends, earliest), ends

    def encode(
        self, ids: np.ndarray, users: np.ndarray, times: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Returns the encoded histories of requests: one array [R, L] for each input.

        Args:
            ids: Id of each value [V] int32.
            users, times: See `before`.
        """
        events, lengths = self.before(users, times)
        ages = histories.age_buckets(np.repeat(times, lengths) - self.times[events])
        parts = [ids[self.values[events]], ages]
        if self.field.event_input in self.field.inputs:
            parts.append(self.kinds[events] + np.uint8(1))
        present = np.arange(self.field.max_length) < lengths[:, None]
        padded = [np.zeros(present.shape, part.dtype) for part in parts]
        for rows, part in zip(padded, parts, strict=True):
            rows[present] = part
        return tuple(padded)

    def raw(self, users: np.ndarray, times: np.ndarray) -> list[dict[str, list[Any]]]:
        """Returns the raw inputs of the history of requests, as `histories.raw_values` does."""
        events, lengths = self.before(users, times)
        columns = {
            self.field.name: self.strings.values.take(pa.array(self.values[events])).to_pylist(),
            self.field.age_input: (np.repeat(times, lengths) - self.times[events]).tolist(),
            self.field.event_input: [EVENTS[kind] for kind in self.kinds[events]],
        }
        ends = np.cumsum(lengths)
        return [
            {name: columns[name][end - length : end] for name in self.field.inputs}
            for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)
        ]


def _first_at_or_after(
    times: np.ndarray, low: np.ndarray, high: np.ndarray, since: np.ndarray
) -> np.ndarray:
    """Returns the first event at or after some times [R], between low [R] and high [R], or high."""
    low, high = low.copy(), high.copy()
    left = np.flatnonzero(low < high)
    while len(left):
        middle = (low[left] + high[left]) // 2
        is_before = times[middle] < since[left]
        low[left[is_before]] = middle[is_before] + 1
        high[left[~is_before]] = middle[~is_before]
        left = left[low[left] < high[left]]
    return low


def write(
    field: Field,
    chunks: Sequence[Callable[[], Rows]],
    units_per_second: float,
    directory: pathlib.Path,
    max_at_once: int = MAX_AT_ONCE,
) -> None:
    """Sorts the events that a history lists, and writes them; `load` reads them.

    `max_at_once` events are sorted at a time; more if one user has more.
    """
    directory.mkdir(parents=True, exist_ok=True)
    strings = _distinct(field, chunks)
    values = KeyIndex(strings.fingerprints)
    table = pa.table({"value": strings.values, "fingerprint": strings.fingerprints})
    records.write_arrow(table, directory / "strings.arrow")
    counts = np.zeros(_NUM_GROUPS, np.int64)
    for load_rows in chunks:
        groups = _group_of(_events(field, load_rows(), values)["user"])
        counts += np.bincount(groups, minlength=_NUM_GROUPS)
    types = {"times": np.float64, "kinds": np.uint8, "values": np.int32}
    arrays = {
        name: files.create_array(directory / f"{name}.npy", dtype, (int(counts.sum()),))
        for name, dtype in types.items()
    }
    users, lengths, first = [np.empty(0, np.int64)], [np.zeros(1, np.int64)], 0
    for low, high in _ranges(counts, max_at_once):
        parts = [_in_range(_events(field, load_rows(), values), low, high) for load_rows in chunks]
        events = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        events["time"] = events["time"] / units_per_second
        # Equal times by kind, then by value, as strings are in order.
        order = np.lexsort([events[name] for name in ("value", "kind", "time", "user")])
        part = slice(first, first + len(order))
        arrays["times"][part] = events["time"][order]
        arrays["kinds"][part] = events["kind"][order]
        arrays["values"][part] = events["value"][order]
        part_users, counted = np.unique(events["user"][order], return_counts=True)
        users.append(part_users)
        lengths.append(counted)
        first = part.stop
    for array in arrays.values():
        array.flush()
    files.write_array(directory / "users.npy", np.concatenate(users))
    files.write_array(directory / "starts.npy", np.cumsum(np.concatenate(lengths)))


def load(field: Field, directory: pathlib.Path) -> UserEvents:
    """Memory-maps the files of `write`."""
    table = records.read_arrow(directory / "strings.arrow")
    arrays = {
        name: np.asarray(files.read_array(directory / f"{name}.npy", mapped=True))
        for name in ("users", "starts", "times", "kinds", "values")
    }
    strings = Strings(table["value"].combine_chunks(), table["fingerprint"].to_numpy())
    return UserEvents(field, strings=strings, **arrays)


def values_in(field: Field) -> str:
    """Returns the column of a chunk with the codes of the values that a history lists."""
    return AD if field.of == OF_AD else str(field.of)


def _distinct(field: Field, chunks: Sequence[Callable[[], Rows]]) -> Strings:
    """Returns the distinct values of all chunks, except the missing one, in ascending order."""
    found = list(first_seen(load_rows().strings[values_in(field)] for load_rows in chunks))
    values = pa.concat_arrays([strings.values for strings in found])
    fingerprints = np.concatenate([strings.fingerprints for strings in found])
    order = pc.sort_indices(values).to_numpy()
    order = order[fingerprints[order] != encoding.missing_fingerprint()]
    return Strings(values.take(pa.array(order)), fingerprints[order])


def _events(field: Field, rows: Rows, values: KeyIndex) -> dict[str, np.ndarray]:
    """Returns the events of a chunk that a history lists: user, time, kind and value of each."""
    source = values_in(field)
    value = values.find(rows.strings[source].fingerprints).astype(np.int32)[rows.array(source)]
    users, names = rows.array(USER), rows.columns.column_names
    parts = []
    for kind in field.event:
        chosen = value >= 0
        if kind != IMPRESSION:
            chosen &= rows.array(LABEL_COLUMNS[kind]) == 1
        at = EVENT_TIMES.get(kind)
        times = rows.array(at if at is not None and at in names else TIME)
        code = np.full(int(chosen.sum()), EVENTS.index(kind), np.uint8)
        parts.append((users[chosen], times[chosen], code, value[chosen]))
    columns = (np.concatenate(column) for column in zip(*parts, strict=True))
    return dict(zip(("user", "time", "kind", "value"), columns, strict=True))


def _group_of(users: np.ndarray) -> np.ndarray:
    """Returns the groups [B] of users [B] int64, which ascend with the users."""
    return (users >> _GROUP_BITS) + _NUM_GROUPS // 2


def _ranges(counts: np.ndarray, max_at_once: int) -> Iterator[tuple[int, int]]:
    """Yields runs of groups, each with at most this many events unless it is a single group."""
    first = total = 0
    for group, count in enumerate(counts.tolist()):
        if total and total + count > max_at_once:
            yield first, group
            first, total = group, 0
        total += count
    if total:
        yield first, len(counts)


def _in_range(events: dict[str, np.ndarray], low: int, high: int) -> dict[str, np.ndarray]:
    groups = _group_of(events["user"])
    in_range = (groups >= low) & (groups < high)
    return {name: values[in_range] for name, values in events.items()}
