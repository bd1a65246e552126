"""Fits vocabularies and numeric buckets to the counts of the training rows.

Values are counted by fingerprint, by which the encoder identifies them, and in ranges of bounded
size, so that memory does not grow with the number of distinct values.

Shapes: V distinct values of a field, in one chunk or in all.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords import encoding, terminal
from tfrecords.columns import Strings, distinct_numbers
from tfrecords.conversion import parsed_rows
from tfrecords.schema import Field, Schema

_MAX_AT_ONCE = 4_000_000
_NUMERIC_SAMPLE = 500_000
# With 40 buckets, a share of 1/32 at each end is cut into 1/2, 1/4, 1/8, and two times 1/16.
_BUCKETS_PER_HALVING = 10
# An id, with 0 for missing, is then a byte on disk.
_MAX_BUCKETS = 255
# The fingerprints [V] of a field's distinct values in a chunk, and their counts [V].
ValueCounts = tuple[np.ndarray, np.ndarray]


def count_chunk(
    schema: Schema,
    rows: parsed_rows.Rows,
    is_train: np.ndarray,
    first_train_row: int,
    num_train_rows: int,
) -> dict[str, np.ndarray]:
    """Counts the values of a chunk's training rows, given by `is_train` [B] bool.

    `first_train_row` of the `num_train_rows` training rows of the log are in earlier chunks.

    Returns:
        For string fields, the count [V] of each distinct value; for numeric fields, a sample of
        the values [N] float32. Vectors have no statistics.
    """
    counts = {}
    train = np.flatnonzero(is_train)
    stride = max(1, -(-num_train_rows // _NUMERIC_SAMPLE))
    # Every n-th training row of the log, so that the sample does not depend on the chunks.
    sampled = train[-first_train_row % stride :: stride]
    for field in encoding.fields_with_statistics(schema):
        if field.is_vector:
            continue
        if field.kind == "numeric":
            counts[field.name] = rows.array(field.name)[sampled].astype(np.float32)
            continue
        name = strings_of(field)
        if field.kind == "categorical_list":
            codes, lengths = rows.lists(name)
            # A value counts once in a row.
            num_values = max(len(rows.strings[name]), 1)
            pairs = np.repeat(np.arange(len(lengths)), lengths) * num_values + codes
            codes = distinct_numbers(pairs[np.repeat(is_train, lengths)]) % num_values
        else:
            codes = rows.array(name)[train]
        counted = np.bincount(codes, minlength=len(rows.strings[name]))
        counts[field.name] = counted.astype(np.int32)
    return counts


def strings_of(field: Field) -> str:
    """Returns the name of the distinct values of a field with statistics, in `Rows.strings`."""
    return parsed_rows.AD if field.kind == "history" else field.name


def fit(
    schema: Schema,
    num_chunks: int,
    counts: Callable[[int, str], np.ndarray],
    strings: Callable[[int, str], Strings],
    workers: int = 1,
) -> tuple[encoding.FittedSchema, dict[str, int]]:
    """Fits all fields to the counts of the chunks, some fields at a time.

    `counts` returns the result of `count_chunk` for a chunk and a field name, and `strings` the
    distinct values of a field in a chunk.

    Returns:
        The fitted schema, and the number of distinct values of each string field.
    """
    chunks = range(num_chunks)

    def fit_field(field: Field) -> tuple[encoding.FieldStatistics, int]:
        if field.is_vector:
            return encoding.FieldStatistics(), 0
        field_counts = [counts(chunk, field.name) for chunk in chunks]
        if field.is_bucketed:
            values = np.concatenate([*field_counts, np.empty(0, np.float32)])
            return fit_numbers(values, field.num_buckets), 0
        distinct = [strings(chunk, strings_of(field)) for chunk in chunks]
        words, num_distinct = vocabulary(
            [(values.fingerprints, c) for values, c in zip(distinct, field_counts, strict=True)],
            lambda chunk, indices: distinct[chunk].values.take(indices),
            field.min_count,
            field.max_vocabulary_size,
        )
        return encoding.FieldStatistics(vocabulary=words), num_distinct

    fields = encoding.fields_with_statistics(schema)
    fitted = list(terminal.in_threads(fit_field, fields, workers))
    names = [field.name for field in fields]
    statistics = {name: stats for name, (stats, _) in zip(names, fitted, strict=True)}
    num_distinct = {
        field.name: count
        for field, (_, count) in zip(fields, fitted, strict=True)
        if not field.is_bucketed and not field.is_vector
    }
    return encoding.FittedSchema(schema, statistics), num_distinct


def count_values(parts: Sequence[ValueCounts], max_at_once: int) -> Iterator[pa.Table]:
    """Sums the counts of the chunks; counts of 0 are skipped.

    Yields:
        Tables of ranges of fingerprints with `fingerprint`, `count` and the first `chunk` with the
        value, all int64 [V].
    """
    total = sum(len(fingerprints) for fingerprints, _ in parts)
    num_ranges = max(1, -(-total // max_at_once))
    edges = [i * (2**63 - 1) // num_ranges for i in range(num_ranges)] + [2**63 - 1]
    for low, high in itertools.pairwise(edges):
        tables = []
        for chunk, (values, counts) in enumerate(parts):
            rows = np.flatnonzero((counts > 0) & (values >= low) & (values < high))
            in_range = {"fingerprint": values[rows], "count": counts[rows].astype(np.int64)}
            tables.append(pa.table({**in_range, "chunk": np.full(len(rows), chunk)}))
        grouped = pa.concat_tables(tables).group_by("fingerprint", use_threads=False)
        summed = grouped.aggregate([("count", "sum"), ("chunk", "min")])
        yield summed.rename_columns({"count_sum": "count", "chunk_min": "chunk"})


def vocabulary(
    parts: Sequence[ValueCounts],
    strings: Callable[[int, pa.Array], pa.Array],
    min_count: int,
    max_size: int,
    max_at_once: int = _MAX_AT_ONCE,
) -> tuple[tuple[str, ...], int]:
    """Chooses the values of a field's vocabulary.

    Args:
        parts: The counts of each chunk.
        strings: Returns the strings at some indices of a chunk's distinct values.
        min_count: Minimum count of a kept value.
        max_size: Maximum number of kept values, the most frequent ones.
        max_at_once: Approximate maximum number of counts in memory.

    Returns:
        The kept values by descending count, equal counts by value; and the number of distinct
        values other than the missing one.
    """
    kept, num_distinct = [], 0
    for counted in count_values(parts, max_at_once):
        present = counted.filter(pc.field("fingerprint") != encoding.missing_fingerprint())
        num_distinct += present.num_rows
        kept.append(present.filter(pc.field("count") >= min_count))
    # Ties at the cut are broken by fingerprint, which needs no lookup of strings.
    order = [("count", "descending"), ("fingerprint", "ascending")]
    best = pa.concat_tables(kept).sort_by(order).slice(0, max_size)
    chosen = []
    for chunk in pc.unique(best["chunk"]).to_pylist():
        words = best.filter(pc.field("chunk") == chunk)
        indices = pc.index_in(words["fingerprint"], pa.array(parts[chunk][0])).combine_chunks()
        chosen.append(pa.table({"value": strings(chunk, indices), "count": words["count"]}))
    if not chosen:
        return (), num_distinct
    table = pa.concat_tables(chosen).sort_by([("count", "descending"), ("value", "ascending")])
    return tuple(table["value"].to_pylist()), num_distinct


def fit_numbers(values: np.ndarray, num_buckets: int) -> encoding.FieldStatistics:
    """Returns the buckets of a numeric field with values [N] float32, of which NaN is ignored.

    Models embed `num_buckets`, each with enough rows to learn from. The finer ones between them say
    how large the largest numbers are: the most expensive ads of a catalog can differ by ten times.
    """
    coarse = bucket_boundaries(values, num_buckets)
    if not coarse:  # Empty stands for all.
        return encoding.FieldStatistics()
    fine = bucket_boundaries(values, max(_MAX_BUCKETS - num_buckets, 1))
    boundaries = sorted({*coarse, *fine})
    return encoding.FieldStatistics(
        boundaries=tuple(boundaries),
        coarse=tuple(boundaries.index(boundary) for boundary in coarse),
    )


def bucket_boundaries(values: np.ndarray, num_buckets: int) -> tuple[float, ...]:
    """Returns ascending boundaries that split values into about equal shares, finer at both ends.

    Values are [N] float32, of which NaN is ignored.

    Returns:
        At most `num_buckets - 1` boundaries, each the lower end of its bucket, inclusive.
    """
    values = values[np.isfinite(values)]
    if not values.size or num_buckets == 1:
        return ()
    smallest = values.min()
    boundaries = _quantiles(values, num_buckets)
    larger = values[values > smallest]
    if boundaries[-1] == smallest and larger.size:  # Few values are larger, but some are.
        boundaries = np.append(_quantiles(larger, num_buckets - 1), larger.min())
    return tuple(float(b) for b in np.unique(boundaries) if b > smallest)


def _quantiles(values: np.ndarray, num_buckets: int) -> np.ndarray:
    # The first and the last of equal shares are halved again and again: the dearest ads differ more
    # from each other than the average ones, and bring the most revenue.
    halvings = num_buckets // _BUCKETS_PER_HALVING
    num_equal = num_buckets - 2 * halvings
    inner = np.arange(1, num_equal) / num_equal
    tail = 0.5 ** np.arange(halvings, 0, -1) / num_equal
    shares = np.concatenate([tail, inner, 1 - tail[::-1]])
    # "higher" selects observed values, so that integers have their own buckets.
    return np.quantile(values, shares, method="higher").astype(np.float32)
