"""Fits vocabularies and numeric buckets from streamed column batches.

Only rows handed to `update` are seen: the converter hands over training rows alone.
Memory is bounded by the distinct values of the categorical fields.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords import encoding
from tfrecords import schema as schema_lib

_COMPACT_ROWS = 2_000_000


class ValueCounter:
    """Counts the values of one categorical column over many batches."""

    def __init__(self) -> None:
        self._parts: list[pa.Table] = []
        self._rows = 0

    def update(self, column: pa.ChunkedArray) -> None:
        counts = pc.value_counts(column.combine_chunks())
        part = pa.table({"value": counts.field("values"), "count": counts.field("counts")})
        self._parts.append(part)
        self._rows += part.num_rows
        if self._rows > _COMPACT_ROWS:
            self._compact()

    def _compact(self) -> pa.Table:
        merged = pa.concat_tables(self._parts).group_by("value").aggregate([("count", "sum")])
        merged = merged.rename_columns(["value", "count"])
        # Half full leaves room to grow before the next pass over everything.
        self._parts, self._rows = [merged], min(merged.num_rows, _COMPACT_ROWS // 2)
        return merged

    def vocabulary(self, min_count: int, max_size: int) -> tuple[str, ...]:
        """Returns the kept values by falling count, equal counts by value."""
        if not self._parts:
            return ()
        table = self._compact()
        table = table.filter(pc.field("count") >= min_count)
        table = table.filter(pc.is_valid(table["value"]))
        table = table.filter(pc.not_equal(table["value"], ""))
        table = table.sort_by([("count", "descending"), ("value", "ascending")])
        return tuple(table["value"][:max_size].to_pylist())


class Fitter:
    """Collects what every field of a schema needs to be encoded.

    Args:
        schema: The schema to fit.
        num_rows: Expected number of training rows; sets how many numeric values are kept.
        sample_size: The most numeric values kept per field for the quantiles.
    """

    def __init__(
        self, schema: schema_lib.Schema, num_rows: int, sample_size: int = 500_000
    ) -> None:
        self._schema = schema
        # Every n-th row, so the sample depends on the log alone and not on how it is read.
        self._stride = max(1, -(-num_rows // sample_size))
        self._counters = {f.name: ValueCounter() for f in schema.fields if f.kind == "categorical"}
        self._samples: dict[str, list[np.ndarray]] = {
            f.name: [] for f in schema.fields if f.kind == "numeric"
        }
        self._seen = 0

    def update(self, table: pa.Table) -> None:
        """Adds training rows."""
        for name, counter in self._counters.items():
            counter.update(table[name])
        first = -self._seen % self._stride
        rows = np.arange(first, table.num_rows, self._stride)
        for name, samples in self._samples.items():
            samples.append(table[name].cast(pa.float32()).to_numpy()[rows])
        self._seen += table.num_rows

    def finish(self) -> encoding.FittedSchema:
        """Returns the fitted schema."""
        statistics = {}
        for field in self._schema.fields:
            if field.kind == "categorical":
                vocabulary = self._counters[field.name].vocabulary(
                    field.min_count, field.max_vocabulary_size
                )
                statistics[field.name] = encoding.FieldStatistics(vocabulary=vocabulary)
            else:
                samples = self._samples[field.name] or [np.empty(0, np.float32)]
                boundaries = bucket_boundaries(np.concatenate(samples), field.num_buckets)
                statistics[field.name] = encoding.FieldStatistics(boundaries=boundaries)
        return encoding.FittedSchema(self._schema, statistics)


def bucket_boundaries(values: np.ndarray, num_buckets: int) -> tuple[float, ...]:
    """Returns rising boundaries that split values into about equal shares.

    Args:
        values: [N] float32; NaN is ignored.
        num_buckets: The most buckets.

    Returns:
        At most `num_buckets - 1` boundaries; a boundary opens its bucket.
    """
    values = values[np.isfinite(values)]
    if not values.size:
        return ()
    shares = np.arange(1, num_buckets) / num_buckets
    # "higher" picks observed values, so that integer counts keep their own buckets.
    boundaries = np.unique(np.quantile(values, shares, method="higher").astype(np.float32))
    return tuple(float(b) for b in boundaries if b > values.min())
