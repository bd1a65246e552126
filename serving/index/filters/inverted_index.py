"""Inverted index of a field: maps values to rows of the catalog.

It is built from a column of `ads.arrow` when a filter first uses the field. With a million ads, a
field takes 4 MB, plus 12 bytes for each distinct string, or 8 MB for a numeric field. Bitmaps of
frequent values are cached, and are never larger than the list of their rows.

Shapes: N ads, V distinct values.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serving.index.filters import row_set, string_lookup


class StringPostings:
    """Rows by value of a categorical or list field. Missing values are not indexed.

    Args:
        column: [N] strings or lists of strings.
    """

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._num_rows = len(column)
        array = column.combine_chunks()
        rows = None
        if pa.types.is_list(array.type):
            lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy()
            rows = np.repeat(np.arange(len(array), dtype=np.int32), lengths)
            array = array.flatten()
        encoded = array.dictionary_encode()
        self._lookup = string_lookup.StringLookup(encoded.dictionary)
        present = pc.is_valid(encoded).to_numpy(zero_copy_only=False)
        codes = pc.fill_null(encoded.indices, 0).to_numpy()[present]
        rows = np.flatnonzero(present).astype(np.int32) if rows is None else rows[present]
        self._rows = rows[np.argsort(codes, kind="stable")]
        self._starts = np.append(0, np.cumsum(np.bincount(codes, minlength=len(self._lookup))))
        self._frequent: dict[int, row_set.RowSet] = {}

    def any_of(self, values: Sequence[str]) -> row_set.RowSet:
        """Returns the rows that contain at least one of the values."""
        found = self._lookup.find(values)
        codes = found[found >= 0].tolist()
        rare = [self._rows_of(code) for code in codes if not self._is_frequent(code)]
        rows = np.concatenate(rare) if rare else np.empty(0, np.int32)
        result = row_set.RowSet.from_rows(rows, self._num_rows)
        for code in codes:
            if self._is_frequent(code):
                result |= self._bitmap(code)
        return result

    def all_of(self, values: Sequence[str]) -> row_set.RowSet:
        """Returns the rows that contain all of the values."""
        result = row_set.RowSet.full(self._num_rows)
        for value in values:
            if not result.count:
                break
            result &= self.any_of([value])
        return result

    def _rows_of(self, code: int) -> np.ndarray:
        return self._rows[self._starts[code] : self._starts[code + 1]]

    def _is_frequent(self, code: int) -> bool:
        # The bitmap of a frequent value is smaller than its list of rows.
        return 32 * int(self._starts[code + 1] - self._starts[code]) >= self._num_rows > 4096

    def _bitmap(self, code: int) -> row_set.RowSet:
        # Two threads may build it at the same time, with the same result.
        if code not in self._frequent:
            self._frequent[code] = row_set.RowSet.from_rows(self._rows_of(code), self._num_rows)
        return self._frequent[code]


class NumberPostings:
    """Rows of a numeric field in order of their values. Missing values and NaN are not indexed.

    Args:
        column: [N] numbers.
    """

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._num_rows = len(column)
        numbers = column.combine_chunks().cast(pa.float64()).to_numpy(zero_copy_only=False)
        present = np.flatnonzero(~np.isnan(numbers)).astype(np.int32)
        order = np.argsort(numbers[present], kind="stable")
        self._rows = present[order]
        self._numbers = numbers[self._rows]

    def any_of(self, values: Sequence[float]) -> row_set.RowSet:
        """Returns the rows whose value is one of the given values."""
        first, last = (np.searchsorted(self._numbers, values, side) for side in ("left", "right"))
        found = [self._rows[start:end] for start, end in zip(first, last, strict=True)]
        rows = np.concatenate([np.empty(0, np.int32), *found])
        return row_set.RowSet.from_rows(rows, self._num_rows)

    def between(self, minimum: float | None, maximum: float | None) -> row_set.RowSet:
        """Returns the rows with values in [minimum, maximum]; None leaves a side unbounded."""
        first, last = 0, len(self._rows)
        if minimum is not None:
            first = int(np.searchsorted(self._numbers, minimum, side="left"))
        if maximum is not None:
            last = int(np.searchsorted(self._numbers, maximum, side="right"))
        return row_set.RowSet.from_rows(self._rows[first:last], self._num_rows)
