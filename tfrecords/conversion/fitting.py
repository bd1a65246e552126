"""Fits vocabularies and numeric buckets to the counts of the training rows.

Values are counted by fingerprint, by which the encoder identifies them, and in ranges of bounded
size, so that memory does not grow with the number of distinct values.

Shapes: V distinct values of a field, in one chunk or in all.
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

_MAX_AT_ONCE = 4_000_000
_NUMERIC_SAMPLE = 500_000
Part = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Chunk:
    """The counts of a chunk.

    Attributes:
        counts: Returns the result of `count_chunk` for a field name.
        strings: Returns the distinct values of a field by name.
    """

    counts: Callable[[str], np.ndarray]
    strings: Callable[[str], Strings]


@dataclasses.dataclass(frozen=True)
class Fitted:
    """The fitted schema and the number of distinct values of each string field."""

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
        is_train: Whether a row is a training row [B] bool.
        first_train_row: Number of training rows in earlier chunks.
        num_train_rows: Number of training rows of the log.

    Returns:
        For string fields, the count [V] of each distinct value; for numeric fields, a sample of
        the values [N] float32.
    """
    counts = {}
    train = np.flatnonzero(is_train)
    stride = max(1, -(-num_train_rows // _NUMERIC_SAMPLE))
    # Every n-th training row of the log, so that the sample does not depend on the chunks.
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
    """Fits all fields to the counts of the chunks, `workers` fields at a time."""
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
    """Distinct values of a field in all chunks.

    Attributes:
        fingerprints: Fingerprints [V] int64.
        counts: Counts [V] int64.
        chunk: Index of a chunk with the value [V].
        place: Index of the value in that chunk's distinct values [V].
    """

    fingerprints: np.ndarray
    counts: np.ndarray
    chunk: np.ndarray
    place: np.ndarray

    def take(self, rows: np.ndarray) -> "Counted":
        """Returns the values at some indices."""
        return Counted(
            self.fingerprints[rows], self.counts[rows], self.chunk[rows], self.place[rows]
        )


def count(parts: Sequence[Part], max_at_once: int = _MAX_AT_ONCE) -> Iterator[Counted]:
    """Sums the counts of the chunks.

    Args:
        parts: Fingerprints [V] and counts [V] of each chunk; counts of 0 are skipped.
        max_at_once: Approximate maximum number of entries in memory.

    Yields:
        Ranges of fingerprints, in ascending order.
    """
    total = sum(len(fingerprints) for fingerprints, _ in parts)
    num_ranges = max(1, -(-total // max_at_once))
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
    max_at_once: int = _MAX_AT_ONCE,
) -> tuple[tuple[str, ...], int]:
    """Chooses the values of a field's vocabulary.

    Args:
        parts: As in `count`.
        strings: Returns the strings at some indices of a chunk's distinct values.
        min_count: Minimum count of a kept value.
        max_size: Maximum number of kept values, the most frequent ones.
        max_at_once: As in `count`.

    Returns:
        The kept values by descending count, equal counts by value; and the number of distinct
        values other than the missing one.
    """
    missing = encoding.missing_fingerprint()
    kept: list[Counted] = []
    num_distinct = 0
    for counted in count(parts, max_at_once):
        present = counted.fingerprints != missing
        num_distinct += int(present.sum())
        kept.append(counted.take(np.flatnonzero(present & (counted.counts >= min_count))))
    best = Counted(*(np.concatenate(arrays) for arrays in zip(*map(_fields, kept), strict=True)))
    # Ties at the cut are broken by fingerprint, which needs no lookup of strings.
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
    """Returns ascending boundaries that split values into about equal shares.

    Args:
        values: Numbers [N] float32; NaN is ignored.
        num_buckets: Maximum number of buckets.

    Returns:
        At most `num_buckets - 1` boundaries, each the lower end of its bucket, inclusive.
    """
    values = values[np.isfinite(values)]
    if not values.size or num_buckets == 1:
        return ()
    smallest = values.min()
    boundaries = _quantiles(values, num_buckets)
    rest = values[values > smallest]
    if boundaries[-1] == smallest and rest.size:  # Few values are larger, but some are.
        boundaries = np.append(_quantiles(rest, num_buckets - 1), rest.min())
    return tuple(float(b) for b in np.unique(boundaries) if b > smallest)


def _quantiles(values: np.ndarray, num_buckets: int) -> np.ndarray:
    shares = np.arange(1, num_buckets) / num_buckets
    # "higher" selects observed values, so that integers have buckets of their own.
    return np.quantile(values, shares, method="higher").astype(np.float32)
