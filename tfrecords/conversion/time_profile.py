"""Counts the rows and labels of a log over time.

Shapes: B rows of a chunk, T bins.
"""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from tfrecords import records
from tfrecords.conversion import parsed_rows, splitting
from tfrecords.schema import LABELS, MISSING_LABEL

NUM_BINS = 60


@dataclasses.dataclass(frozen=True)
class Bins:
    """Bins of equal time spans, or of equal numbers of rows if the log has no time."""

    low: float
    high: float
    by_time: bool

    @classmethod
    def of(cls, keys: splitting.RowKeys) -> "Bins":
        """Returns bins over all rows of a log."""
        if keys.time is None or not len(keys.time):
            return cls(0.0, float(max(keys.num_rows, 1)), False)
        return cls(float(keys.time.min()), float(keys.time.max()), True)

    def count(self, rows: parsed_rows.Rows, first_row: int) -> dict[str, np.ndarray]:
        """Counts the rows [T] of a chunk, and the known and positive rows [T] of labels."""
        if self.by_time:
            at = rows.array(parsed_rows.TIME)
        else:
            at = first_row + np.arange(len(rows), dtype=np.float64)
        span = max(self.high - self.low, np.finfo(np.float64).tiny)
        bins = np.clip(((at - self.low) / span * NUM_BINS).astype(np.int64), 0, NUM_BINS - 1)
        counts = {"rows": np.bincount(bins, minlength=NUM_BINS)}
        for name, label in LABELS.items():
            column = parsed_rows.LABEL_COLUMNS[name]
            if column in rows.columns.column_names and not label.is_amount:
                values = rows.array(column)
                known = values != MISSING_LABEL
                counts[f"{name}_known"] = np.bincount(bins[known], minlength=NUM_BINS)
                counts[f"{name}_positive"] = np.bincount(bins[values == 1], minlength=NUM_BINS)
        return counts

    def add(self, chunks: Iterable[Mapping[str, np.ndarray]]) -> records.TimeProfile:
        """Sums the counts of all chunks."""
        total: dict[str, np.ndarray] = {}
        for counts in chunks:
            for name, values in counts.items():
                total[name] = total.get(name, 0) + values
        counted = {name: values.tolist() for name, values in total.items()}
        return records.TimeProfile(**dataclasses.asdict(self), **counted)
