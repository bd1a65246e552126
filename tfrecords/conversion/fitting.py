"""Fits vocabularies and numeric buckets from the counts of the chunks' training rows.

Values are counted by fingerprint, the identity that the encoder knows them by, and in
parts of bounded size, so that memory does not grow with the number of distinct values.

Shapes: V distinct values of a field in one chunk, or in all.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from tfrecords import encoding
from tfrecords.columns import Strings
from tfrecords.conversion import parsed_rows, workspace
from tfrecords.schema import Field, Schema

_MOST_AT_ONCE = 4_000_000
_NUMERIC_SAMPLE = 500_000
Part = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Chunk:
    """What fitting needs of a chunk.

    Attributes:
        counts: Returns what `count_chunk` gave of a field by its name.
        strings: Returns the distinct values of a field by its name.
    """

    counts: Callable[[str], np.ndarray]
    strings: Callable[[str], Strings]


@dataclasses.dataclass(frozen=True)
class Fitted:
    """The fitted schema, and the number of distinct values of each string field."""

    schema: encoding.FittedSchema
    num_distinct: Mapping[str, int]


def count_chunk(
    schema: Schema,
    rows: parsed_rows.Rows,
    is_train: np.ndarray,
    first_train_row: int,
    num_train_rows: int,
) -> dict[str, np.ndarray]:
    """Counts the training rows of a chunk.

    Args:
        schema: The schema.
        rows: The chunk's rows.
        is_train: [B] bool.
        first_train_row: Training rows in the chunks before.
        num_train_rows: Training rows in all.

    Returns:
        Of string fields, the count [V] of each distinct value; of numeric fields, sampled
        values [N] float32.
    """
    counts = {}
    train = np.flatnonzero(is_train)
    stride = max(1, -(-num_train_rows // _NUMERIC_SAMPLE))
    # Every n-th row of all, so that the sample does not depend on how the log is cut.
    sampled = train[-first_train_row % stride :: stride]
    for field in schema.fields:
        if field.kind == "numeric":
            counts[field.name] = rows.array(field.name)[sampled].astype(np.float32)
            continue
        if field.kind == "categorical":
            codes = rows.array(field.name)[train]
        else:
            codes, lengths = rows.lists(field.name)
            codes = codes[np.repeat(is_train, lengths)]
        counted = np.bincount(codes, minlength=len(rows.strings[field.name]))
        counts[field.name] = counted.astype(np.int32)
    return counts


def fit(schema: Schema, chunks: Sequence[Chunk], workers: int = 1) -> Fitted:
    """Fits every field to the counts of the chunks, some fields at a time."""
    fitted = workspace.in_threads(lambda field: _fit(field, chunks), schema.fields, workers)
    statistics, num_distinct = {}, {}
    for field, (own, count) in zip(schema.fields, fitted, strict=True):
        statistics[field.name] = own
        if field.kind != "numeric":
            num_distinct[field.name] = count
    return Fitted(encoding.FittedSchema(schema, statistics), num_distinct)


def _fit(field: Field, chunks: Sequence[Chunk]) -> tuple[encoding.FieldStatistics, int]:
    own = [chunk.counts(field.name) for chunk in chunks]
    if field.kind == "numeric":
        values = np.concatenate([*own, np.empty(0, np.float32)])
        return encoding.FieldStatistics(boundaries=bucket_boundaries(values, field.num_buckets)), 0
    strings = [chunk.strings(field.name) for chunk in chunks]
    words, num_distinct = vocabulary(
        [(s.fingerprints, counts) for s, counts in zip(strings, own, strict=True)],
        lambda chunk, places: strings[chunk].values.take(pa.array(places)),
        field.min_count,
        field.max_vocabulary_size,
    )
    return encoding.FieldStatistics(vocabulary=words), num_distinct


@dataclasses.dataclass(frozen=True)
class Counted:
    """Distinct values of a field, in all chunks.

    Attributes:
        fingerprints: [V] int64.
        counts: [V] int64.
        chunk: [V] a chunk that has the value.
        place: [V] its place among that chunk's distinct values.
    """

    fingerprints: np.ndarray
    counts: np.ndarray
    chunk: np.ndarray
    place: np.ndarray

    def take(self, rows: np.ndarray) -> "Counted":
        """Returns some of the values."""
        return Counted(
            self.fingerprints[rows], self.counts[rows], self.chunk[rows], self.place[rows]
        )


def count(parts: Sequence[Part], most_at_once: int = _MOST_AT_ONCE) -> Iterator[Counted]:
    """Adds up the counts of the chunks.

    Args:
        parts: Fingerprints [V] and counts [V] of each chunk; a count of 0 is left out.
        most_at_once: About how many entries are held in memory.

    Yields:
        Ranges of fingerprints, in rising order.
    """
    total = sum(len(fingerprints) for fingerprints, _ in parts)
    num_ranges = max(1, -(-total // most_at_once))
    edges = [i * (2**63 - 1) // num_ranges for i in range(num_ranges)] + [2**63 - 1]
    for low, high in itertools.pairwise(edges):
        yield _count_range(parts, low, high)


def _count_range(parts: Sequence[Part], low: int, high: int) -> Counted:
    fingerprints, counts, chunk, place = [], [], [], []
    for index, (values, own_counts) in enumerate(parts):
        rows = np.flatnonzero((own_counts > 0) & (values >= low) & (values < high))
        fingerprints.append(values[rows])
        counts.append(own_counts[rows].astype(np.int64))
        chunk.append(np.full(len(rows), index, np.int32))
        place.append(rows.astype(np.int32))
    joined = np.concatenate(fingerprints)
    if not len(joined):
        return Counted(joined, np.concatenate(counts), np.concatenate(chunk), np.concatenate(place))
    order = np.argsort(joined, kind="stable")
    ordered = joined[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    first = order[starts]
    return Counted(
        joined[first],
        np.add.reduceat(np.concatenate(counts)[order], starts),
        np.concatenate(chunk)[first],
        np.concatenate(place)[first],
    )


def vocabulary(
    parts: Sequence[Part],
    strings: Callable[[int, np.ndarray], pa.Array],
    min_count: int,
    max_size: int,
    most_at_once: int = _MOST_AT_ONCE,
) -> tuple[tuple[str, ...], int]:
    """Chooses the values that a field keeps.

    Args:
        parts: As `count`.
        strings: Returns the strings at some places of a chunk.
        min_count: The fewest times that a kept value was seen.
        max_size: The most values kept: the most frequent ones.
        most_at_once: As `count`.

    Returns:
        The kept values by falling count, equal counts by value; and how many distinct
        values there are. A missing value is none.
    """
    missing = encoding.missing_fingerprint()
    kept: list[Counted] = []
    num_distinct = 0
    for counted in count(parts, most_at_once):
        present = counted.fingerprints != missing
        num_distinct += int(present.sum())
        kept.append(counted.take(np.flatnonzero(present & (counted.counts >= min_count))))
    best = Counted(*(np.concatenate(arrays) for arrays in zip(*map(_fields, kept), strict=True)))
    # At the cut, equal counts go by fingerprint: their strings need not be looked up.
    best = best.take(np.lexsort((best.fingerprints, -best.counts))[:max_size])
    chosen = pa.chunked_array(
        [
            strings(chunk, best.place[best.chunk == chunk])
            for chunk in np.unique(best.chunk).tolist()
        ],
        pa.string(),
    )
    by_chunk = np.argsort(best.chunk, kind="stable")
    table = pa.table({"value": chosen, "count": best.counts[by_chunk]})
    table = table.sort_by([("count", "descending"), ("value", "ascending")])
    return tuple(table["value"].to_pylist()), num_distinct


def _fields(counted: Counted) -> tuple[np.ndarray, ...]:
    return counted.fingerprints, counted.counts, counted.chunk, counted.place


def bucket_boundaries(values: np.ndarray, num_buckets: int) -> tuple[float, ...]:
    """Returns rising boundaries that split values into about equal shares.

    Args:
        values: [N] float32; NaN is ignored.
        num_buckets: The most buckets.

    Returns:
        At most `num_buckets - 1` boundaries; a boundary opens its bucket.
    """
    values = values[np.isfinite(values)]
    if not values.size or num_buckets == 1:
        return ()
    smallest = values.min()
    boundaries = _quantiles(values, num_buckets)
    rest = values[values > smallest]
    if boundaries[-1] == smallest and rest.size:  # the others are few, but not nothing
        boundaries = np.append(_quantiles(rest, num_buckets - 1), rest.min())
    return tuple(float(b) for b in np.unique(boundaries) if b > smallest)


def _quantiles(values: np.ndarray, num_buckets: int) -> np.ndarray:
    shares = np.arange(1, num_buckets) / num_buckets
    # "higher" picks observed values, so that integer counts keep their own buckets.
    return np.quantile(values, shares, method="higher").astype(np.float32)
